"""Work in several processes: same results, same order, errors that arrive."""

import os
import signal
from functools import partial

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


def test_a_killed_process_is_reported():
    with pytest.raises(OutOfSpace, match="--jobs 1"):
        list(spread(die, [1, 2], 2))
