"""Work in several processes: same results, same order, errors that arrive."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import pytest

from medldm.errors import OutOfSpace, UserError
from medldm.parallel import spread


def power(number: int, exponent: int) -> int:
    if number < 0:
        raise UserError(f"{number} is negative.", "Give another.")
    return number**exponent


def where(_: int) -> int:
    return os.getpid()


def die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def alive(process: int) -> bool:
    """True while it runs; one that nobody asked for its exit code has an empty command line."""
    line = Path(f"/proc/{process}/cmdline")
    return line.exists() and line.read_bytes() != b""


def beat(_: int, folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(100)


def test_order_and_results_do_not_depend_on_the_number_of_processes():
    work, numbers = partial(power, exponent=2), list(range(20))
    assert list(spread(work, numbers, 1)) == list(spread(work, numbers, 2)) == [n * n for n in numbers]


def test_two_jobs_run_elsewhere_and_one_runs_here():
    assert os.getpid() not in spread(where, [0, 1], 2)
    assert list(spread(where, [0, 1], 1)) == [os.getpid()] * 2


def test_an_error_of_the_user_arrives_as_it_was():
    with pytest.raises(UserError, match=r"^-1 is negative. Give another.$"):
        list(spread(partial(power, exponent=2), [1, 2, -1, 3], 2))
    with pytest.raises(UserError, match="jobs=0"):
        list(spread(where, [1], 0))


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="asks Linux which processes run")
def test_processes_end_with_their_parent(tmp_path):
    script = """
        import time
        from functools import partial
        from pathlib import Path
        from medldm.parallel import spread
        from tests.test_parallel import beat
        list(spread(partial(beat, folder=Path({folder!r})), range(2), 2))
    """
    script = textwrap.dedent(script).format(folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[1])
    while len(list(tmp_path.iterdir())) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    workers = [int(path.name) for path in tmp_path.iterdir()]
    end = time.monotonic() + 20
    while time.monotonic() < end and any(map(alive, workers)):
        time.sleep(0.1)
    assert not any(map(alive, workers))


def test_a_killed_process_is_reported():
    with pytest.raises(OutOfSpace, match="--jobs 1"):
        list(spread(die, [1, 2], 2))
