"""The command line: a name stands for a function of `medldm.commands`, whose signature becomes the options.

A configuration file is that function's keyword arguments as YAML; nested objects are given by class path and arguments.
Exit codes: 0 done, 2 the input is wrong, 1 a defect of medldm, 3 out of space or memory, 130 and 143 stopped by a signal.
"""

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from medldm.errors import OutOfSpace, UserError
from medldm.explain import explain, nearest, shorten
from medldm.machine import bound_tracking, share_processors, tune_allocator

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

#: Command -> its line in `medldm --help`, in the order of use.
COMMANDS = {
    "demo": "run the whole chain on phantoms, or on your own images, and write one report",
    "doctor": "show whether this machine is fit for the work",
    "check": "look for files of a source that cannot be used, and say why",
    "anonymize": "write a copy of DICOM and NIfTI files that does not say who the patients are",
    "prepare": "turn a source of images into a cohort",
    "annotate": "predict the label maps that a cohort lacks, from those it has",
    "train-autoencoder": "train the network that codes volumes as latents",
    "train-features": "train a feature network on a cohort, for perceptual losses and distances without downloads",
    "cache-latents": "code a cohort once, for all trainings that follow",
    "train-diffusion": "train the denoiser of the latents",
    "train-restorer": "train a denoiser of voxels, the prior of reconstructions",
    "generate": "make a labelled synthetic cohort",
    "reconstruct": "images from undersampled, noisy or thick-slice measurements, with a cohort as the prior",
    "restore": "put volumes of a cohort back on the grids of their sources",
    "export": "write a cohort in the layout of nnU-Net or the Medical Segmentation Decathlon, or a synthetic one as DICOM",
    "evaluate": "score a synthetic cohort, or the reconstructions of an autoencoder",
    "release": "audit a synthetic cohort for copies of patients, and mark and sign what passes",
    "reface": "draw other faces in the place of those of patients",
    "surrogate": "make synthetic cases that stand for real ones and do not lead back to them",
    "verify": "say whether volumes are what was signed, and where they come from",
    "compare": "show evaluations side by side, with paired differences",
}
#: Command -> the argument that is given without its name, once or several times, and what it is.
POSITIONAL = {"compare": ("runs", "folders to compare"), "verify": ("paths", "NIfTI or DICOM files, or folders of them")}
#: What needs less memory, per command.
KNOBS = {
    "train-autoencoder": "Lower crop or training.batch, set training.checkpointing, or leave whole_from away.",
    "train-features": "Lower crop or training.batch.",
    "train-diffusion": "Lower training.batch, or use a smaller net.",
    "annotate": "Lower crop or training.batch.",
    "train-restorer": "Lower crop or training.batch.",
    **dict.fromkeys(("cache-latents", "generate", "evaluate"), "Set --memory to what there is, or lower the batch where there is one."),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: command and options, without the program's name; those of the process by default.

    Returns:
        The exit code.
    """
    name, *options = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(overview())
        return 0
    if name in ("-V", "--version"):
        from importlib.metadata import version

        print(f"medldm {version('medldm')}")
        return 0
    if name not in COMMANDS:
        return _refuse("", UserError(f"There is no command {name!r}.{nearest(name, COMMANDS)}", "See: medldm --help"))
    tune_allocator()
    share_processors()
    bound_tracking()
    with _termination():
        return _guarded(name, options)


def overview() -> str:
    """The text of `medldm --help`."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{text}" for name, text in COMMANDS.items()]
    usage = "usage: medldm COMMAND [--config FILE] [--print_config] [options]"
    return "\n".join([usage, "", "3-D latent diffusion for medical images.", "", *lines, "", "Options of a command: medldm COMMAND --help"])


def load(name: str) -> Callable[..., Any]:
    """The function behind a command: `train-diffusion` is `medldm.commands.train_diffusion.train_diffusion`."""
    function = name.replace("-", "_")
    return getattr(importlib.import_module(f"medldm.commands.{function}"), function)


def parser_of(name: str) -> "ArgumentParser":
    """The parser made of a command's signature and docstring.

    A configuration may state its `command`, as the `config.yaml` of a run folder does, and is then refused by any other.
    """
    import yaml
    from jsonargparse import SUPPRESS, ArgumentParser, set_loader, set_parsing_settings

    set_parsing_settings(import_path_denylist=[])  # enforces the default list: os, subprocess, ctypes ... are not even looked at
    set_loader("bounded yaml", _load_bounded, (yaml.YAMLError,))
    parser = ArgumentParser(prog=f"medldm {name}", description=COMMANDS[name], exit_on_error=False, parser_mode="bounded yaml")
    parser.add_argument("--config", action="config", help="YAML file of the options below; options given after it win.")
    parser.add_argument("--command", type=Literal[name], default=name, help=SUPPRESS)
    positional, text = POSITIONAL.get(name, ("", ""))
    if positional:
        parser.add_argument(positional, type=Path, nargs="+", help=text)
    parser.add_function_arguments(load(name), fail_untyped=True, skip={positional} if positional else None)
    return parser


def arguments_of(name: str, options: list[str]) -> dict[str, Any]:
    """Keyword arguments for a command's function, nested objects built.

    Raises:
        UserError: an option, a key or a value of the configuration is wrong.
    """
    from jsonargparse import ArgumentError

    parser = parser_of(name)
    try:
        given = vars(parser.instantiate(parser.parse_args(options)))
    except UnicodeDecodeError as error:
        raise UserError("The file given as --config is not text.", "Give a YAML file; --print_config prints one.") from error
    except ArgumentError as error:
        raise UserError(explain(str(error), parser.get_defaults().keys(), get_type_hints(load(name)))) from error
    except ValueError as error:
        raise _said_by(error) from error
    return {key: value for key, value in given.items() if key not in ("config", "command")}


def _said_by(error: BaseException) -> BaseException:
    """What an object says of its settings, which jsonargparse wraps where there are several types to choose from."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, UserError):
        found = found.__cause__ or found.__context__
    return found or error


def _load_bounded(text: str) -> Any:
    """YAML without aliases: nested ones make a text of some lines a billion values."""
    import yaml
    from jsonargparse import get_loader

    from medldm.files import YAML_LIMIT

    if len(text) > YAML_LIMIT or ("*" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader))):
        raise yaml.YAMLError("it is over-long or uses aliases (*name), which a configuration may not")
    return get_loader("yaml")(text)


def _guarded(name: str, options: list[str]) -> int:
    """Run a command; every way in which it can end becomes an exit code."""
    try:
        load(name)(**arguments_of(name, options))
    except UserError as error:
        return _refuse(name, error)
    except KeyboardInterrupt:
        return _stopped(130)
    except BrokenPipeError:  # whoever read the lines, such as head, has seen enough
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
        return 141
    except SystemExit as stop:
        return _stopped(_exit_code(stop))
    except Exception as error:
        if _is_exhaustion(error):
            what, fix = ("The disk", "Free some.") if isinstance(error, OSError) else ("Memory", KNOBS.get(name, "Free some."))
            return _refuse(name, OutOfSpace(f"{what} does not suffice ({shorten(str(error)) or type(error).__name__}).", fix))
        if isinstance(error, OSError) and error.filename:  # no right, a read-only disk, a name that is too long ...
            return _refuse(name, UserError(f"{error.filename}: {(error.strerror or 'not accessible').lower()}.", "Check the path and its rights."))
        traceback.print_exc()
        print(f"medldm {name}: this is a defect of medldm; please report it with the lines above.", file=sys.stderr)
        return 1
    return 0


def _stopped(code: int) -> int:
    if code in (130, 143):
        print("Stopped. The same command continues.", file=sys.stderr)
    return code


def _refuse(name: str, error: UserError) -> int:
    print(f"{f'medldm {name}'.strip()}: {error}", file=sys.stderr)
    return error.exit_code


def _exit_code(stop: SystemExit) -> int:
    """Lightning leaves by `SystemExit(1)` on Ctrl-C, and by an exception of its own without a code on SIGTERM."""
    if isinstance(stop.__context__, KeyboardInterrupt):
        return 130
    if type(stop) is not SystemExit:
        return 143
    return stop.code if isinstance(stop.code, int) else int(stop.code is not None)


def _is_exhaustion(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (ENOSPC, EDQUOT)
    named = type(error).__name__ == "OutOfMemoryError"  # of torch, which need not be imported for this
    return named or isinstance(error, MemoryError) or "can't allocate memory" in str(error)


@contextmanager
def _termination() -> Iterator[None]:
    """SIGTERM raises `SystemExit(143)`, so that files are released; in a training Lightning first ends the step and saves."""

    def stop(number: int, frame: Any) -> None:
        if signal.getsignal(number) is stop:  # Lightning's handler, while a training runs, calls this one as well
            raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
