"""The command line: options from signatures, one message per error, one exit code per ending."""

import errno
import inspect
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from medldm import cli
from medldm.errors import OutOfSpace, UserError
from medldm.models.autoencoder import Autoencoder
from medldm.models.lean import LeanAutoencoder
from medldm.run import plain

COMMANDS = Path(cli.__file__).parent / "commands"


@dataclass(frozen=True)
class Options:
    """How long, how fast.

    Args:
        steps: optimizer steps.
        rate: learning rate.
    """

    steps: int = 100
    rate: float = 1e-3


def sample(
    cohort: Path,
    model: Callable[[int, int], Autoencoder] = LeanAutoencoder,
    training: Options = Options(steps=7),
    shape: tuple[int, int, int] | None = None,
) -> None:
    """A command.

    Args:
        cohort: a folder.
        model: the network.
        training: how long.
        shape: voxels.
    """


@pytest.fixture
def command(monkeypatch):
    """Put a function in the place of every command."""
    return lambda function: monkeypatch.setattr(cli, "load", lambda name: function)


def test_the_table_names_the_commands_that_exist():
    files = {path.stem for path in COMMANDS.glob("*.py") if f"def {path.stem}(" in path.read_text(encoding="utf-8")}
    assert files == {name.replace("-", "_") for name in cli.COMMANDS}


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_is_typed_documented_and_makes_a_parser(name):
    function = cli.load(name)
    parameters = inspect.signature(function).parameters.values()
    assert [p.name for p in parameters if p.annotation is p.empty or p.name in ("config", "command", "print_config")] == []
    assert [p.name for p in parameters if p.kind not in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)] == []
    assert [p.name for p in parameters if f"        {p.name}: " not in (function.__doc__ or "")] == []
    assert cli.parser_of(name).prog == f"medldm {name}"


def test_factories_and_settings_come_as_objects(command):
    command(sample)
    given = cli.arguments_of("prepare", ["--cohort", "c", "--model.widths", "[8, 16, 32]", "--training.rate", "3e-4", "--shape", "[1,2,3]"])
    assert given["cohort"] == Path("c")
    assert given["training"] == Options(steps=7, rate=3e-4)
    assert given["shape"] == (1, 2, 3)
    model = given["model"](2, 1)
    assert isinstance(model, LeanAutoencoder)
    assert (model.widths, model.image_channels, model.label_count) == ((8, 16, 32), 2, 1)


def test_a_factory_is_recorded_alike_however_it_was_given(command):
    command(sample)
    given = cli.arguments_of("prepare", ["--cohort", "c"])["model"]
    assert plain(given) == plain(LeanAutoencoder) == plain(partial(LeanAutoencoder, widths=[48, 96]))
    narrow = plain(cli.arguments_of("prepare", ["--cohort", "c", "--model.widths", "[8, 16]"])["model"])
    assert narrow == plain(partial(LeanAutoencoder, widths=(8, 16))) != plain(LeanAutoencoder)
    with pytest.raises(UserError, match="not a class"):
        plain(partial(len))


def test_a_printed_configuration_gives_the_same_call(command, capsys, tmp_path):
    command(sample)
    options = ["--cohort", "c", "--model.widths", "[8, 16]", "--training.steps", "3"]
    assert cli.main(["prepare", *options, "--print_config"]) == 0
    saved = tmp_path / "prepare.yaml"
    saved.write_text(capsys.readouterr().out, encoding="utf-8")
    assert plain(cli.arguments_of("prepare", ["--config", str(saved)])) == plain(cli.arguments_of("prepare", options))


def test_the_config_of_a_run_folder_gives_the_same_call_to_its_command_only(command, capsys, tmp_path):
    command(sample)
    given = cli.arguments_of("prepare", ["--cohort", "c", "--model.blocks", "1"])
    saved = tmp_path / "config.yaml"
    saved.write_text(yaml.safe_dump({"command": "prepare", **plain(given)}), encoding="utf-8")
    assert plain(cli.arguments_of("prepare", ["--config", str(saved)])) == plain(given)
    assert cli.main(["evaluate", "--config", str(saved)]) == 2
    assert "command" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("cohort: c\ntrainnig: {steps: 3}", "training"),
        ("cohort: c\ntraining: {stepz: 3}", "steps"),
        ("cohort: c\ntraining: {steps: many}", "training.steps"),
        ("cohort: c\nmodel: {class_path: medldm.models.lean.LeanAutoencoder, init_args: {width: [8]}}", "widths"),
        ("cohort: c\nmodel: os.system", "os.system"),
        ("cohort: c\nmodel: {class_path: subprocess.Popen, init_args: {args: ls}}", "subprocess.Popen"),
        ("cohort: c\nmodel: medldm.models.lean.LeanAutoencodr", "LeanAutoencodr"),
        ("training: {steps: 3}", "cohort"),
        ("cohort: [", "config"),
        ("cohort: !!python/object/apply:os.getcwd []", "config"),
        ("- cohort", "config"),
        ("a: &a [x, x]\ncohort: [*a, *a]", "aliases"),
    ],
)
def test_a_wrong_configuration_is_refused_in_one_line(command, capsys, tmp_path, content, named):
    command(sample)
    config = tmp_path / "wrong.yaml"
    config.write_text(content, encoding="utf-8")
    assert cli.main(["prepare", "--config", str(config)]) == 2
    message = capsys.readouterr().err
    assert named in message
    assert message.startswith("medldm prepare: ")
    assert len(message.splitlines()) == 1
    assert len(message) < 600


@pytest.mark.parametrize(
    ("options", "named"),
    [(["--cohrt", "c"], "'cohort'"), (["--config", "absent.yaml"], "absent.yaml"), (["--cohort", "c", "stray"], "stray"), (["--cohort"], "cohort")],
)
def test_a_wrong_option_is_refused(command, capsys, options, named):
    command(sample)
    assert cli.main(["prepare", *options]) == 2
    message = capsys.readouterr().err
    assert named in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("step, named", [("{class_path: Window, init_args: {low: 5, high: 1}}", "window 5.0 to 1.0 is empty"),
                                         ("{class_path: PadToMultiple, init_args: {multiple: 0}}", "multiple 0")])  # fmt: skip
def test_what_a_step_says_of_its_settings_arrives(capsys, tmp_path, step, named):
    options = ["--source", str(tmp_path), "--out", str(tmp_path / "out"), "--steps", f"[{step}]"]
    assert cli.main(["prepare", *options]) == 2
    error = capsys.readouterr().err
    assert named in error and "Traceback" not in error and error.count("\n") == 1


@pytest.mark.parametrize(("option", "value", "said"), [
    ("adversarial.wieght", "3", "adversarial: Option 'wieght' is not accepted. Did you mean 'weight'?"),
    ("adversarial.weight", "much", "adversarial.weight: Expected a number. Got value: much."),
    ("adversarial", "true", "adversarial: Expected settings of medldm.models.adversarial.Adversarial, each with its name."),
    ("perceptual.weight", "1", "perceptual: the following arguments are required: network."),
    ("whole_from", "late", "whole_from: Expected a number. Got value: late."),
    ("crop", "[8, 8]", "crop: Expected 3 values in brackets, such as [1, 2, 3]. Got value: [8, 8]."),
    ("model", "Quantised", "model: Expected LeanAutoencoder, MonaiAutoencoder, QuantizedAutoencoder or the path of a class, "
     "such as package.module.Class, not Quantised."),
    ("loss.ssmi", "1", "unrecognized arguments: --loss.ssmi 1. Did you mean 'loss.ssim'?"),
])  # fmt: skip
def test_what_is_wrong_with_a_setting_is_said_without_the_types_it_was_tried_as(capsys, tmp_path, option, value, said):
    assert cli.main(["train-autoencoder", "--cohort", str(tmp_path), "--out", str(tmp_path / "out"), f"--{option}", value]) == 2
    assert capsys.readouterr().err == f"medldm train-autoencoder: {said}\n"


@pytest.mark.parametrize(("option", "said"), [
    (["--private", "foo"], "private: Expected a list, such as [first, second]. Got value: foo."),
    (["--pixels", "blank"], "pixels: Expected refuse or accept or a list, such as [first, second]. Got value: blank."),
    (["--pixels", "[[1, 2]]"], "pixels: Expected refuse or accept or 4 values in brackets, such as [1, 2, 3, 4]. Got value: [[1, 2]]."),
    (["--dates", "never"], "dates: Expected shift or remove. Got value: never."),
])  # fmt: skip
def test_a_value_of_another_type_is_told_what_one_looks_like(capsys, tmp_path, option, said):
    assert cli.main(["anonymize", "--source", str(tmp_path), "--out", str(tmp_path / "out"), *option]) == 2
    assert capsys.readouterr().err == f"medldm anonymize: {said}\n"


def test_an_unknown_command_is_answered_with_the_nearest(capsys):
    assert cli.main(["train-difusion"]) == 2
    assert "train-diffusion" in capsys.readouterr().err


def raising(error: BaseException) -> Callable[[], None]:
    """A command without arguments that ends with an error."""

    def run() -> None:
        """Fail."""
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("The file a is empty.", "Remove it."), 2),
        (OutOfSpace("The disk is full."), 3),
        (MemoryError(), 3),
        (torch.OutOfMemoryError("CUDA out of memory"), 3),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), 3),
        (OSError(errno.ENOSPC, "No space left on device"), 3),
        (OSError(errno.EROFS, "Read-only file system", "/data"), 2),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/proc/x"), 2),
        (KeyboardInterrupt(), 130),
        (SystemExit(143), 143),
        (type("SIGTERMException", (SystemExit,), {})(), 143),
    ],
)
def test_every_ending_has_its_exit_code_and_no_traceback(command, capsys, error, code):
    command(raising(error))
    assert cli.main(["prepare"]) == code
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "Memory does not suffice (CUDA out of memory). Lower crop or training.batch"),
        (OSError(errno.ENOSPC, "No space left on device"), "The disk does not suffice ([Errno 28] No space left on device). Free some."),
    ],
)
def test_what_ran_out_is_said_with_what_helps(monkeypatch, capsys, error, said):
    monkeypatch.setattr(cli, "load", lambda name: raising(error))
    assert cli.main(["train-autoencoder"]) == 3
    assert said in capsys.readouterr().err


def test_every_command_named_for_its_memory_exists():
    assert set(cli.KNOBS) <= set(cli.COMMANDS)


def test_ctrl_c_that_lightning_turned_into_an_exit_is_130(command):
    def run() -> None:
        """Leave as Lightning does."""
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    command(run)
    assert cli.main(["prepare"]) == 130


def test_a_defect_shows_its_traceback(command, capsys):
    command(raising(ZeroDivisionError("oh")))
    assert cli.main(["prepare"]) == 1
    message = capsys.readouterr().err
    assert "Traceback" in message
    assert "defect of medldm" in message


def test_sigterm_ends_with_143_and_is_left_to_a_handler_above(command):
    before = signal.getsignal(signal.SIGTERM)
    reached = []

    def run() -> None:
        """Be stopped, once below another handler as in a training, once directly."""
        ours = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda number, frame: ours(number, frame))
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append("still running")
        signal.signal(signal.SIGTERM, ours)
        os.kill(os.getpid(), signal.SIGTERM)
        reached.append("not reached")

    command(run)
    assert cli.main(["prepare"]) == 143
    assert reached == ["still running"]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator settings are of glibc")
def test_the_allocator_keeps_freed_blocks():
    script = """
import sys, time, numpy
from medldm.machine import tune_allocator
def faults():
    return int(open("/proc/self/stat").read().split(")")[1].split()[7])
def cost():
    start = faults()
    for _ in range(5):
        numpy.ones(4 << 20)
    return faults() - start
plain = cost()
if not tune_allocator():
    sys.exit(77)
cost()
print(plain, cost())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 77:
        pytest.skip("another C library")
    before, after = map(int, done.stdout.split())
    assert after * 10 < before


def test_python_m_medldm_is_the_command():
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "medldm", "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("medldm ")
    assert time.perf_counter() - start < 1.0


def test_threads_that_wait_do_not_spin_for_long(monkeypatch):
    from medldm.machine import share_processors

    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    share_processors()
    assert int(os.environ["GOMP_SPINCOUNT"]) < 10_000
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    share_processors()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
