"""A run folder: claimed by one command, written atomically, and complete when `provenance.json` exists.

    config.yaml           the command's resolved arguments
    inputs.json           fingerprints of what it reads
    model.yaml            what the model is built from: class path and arguments, nested
    model.safetensors     its weights, with their sha256 in provenance.json
    checkpoints/          what a stopped training continues from
    metrics.csv           the last figures
    provenance.json       versions, lineage and the sha256 of what was written; the last file to appear

A model folder is data: only classes of `medldm`, `monai` and `torch` that are modules (or frozen settings of medldm) are built from it.
"""

import importlib
import inspect
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from medldm.errors import UserError
from medldm.files import atomic, read_json, read_yaml, sha256, write_json, write_yaml

PACKAGES = ("medldm", "monai", "torch")
OWN = (".lock", "config.yaml", "inputs.json", ".mlflow.lock")  # files of a folder in which nothing was made yet
MOST = 5  # differences that a message lists


@dataclass
class Run:
    """A claimed output folder.

    Args:
        root: the folder.
        command: the command that claimed it.
        arguments: its resolved arguments, plain values.
        lock: held until the process ends; a killed process frees it.
        facts: what else `provenance.json` says of the result, plain values.
    """

    root: Path
    command: str
    arguments: dict[str, Any]
    lock: FileLock
    started: float
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def claim(cls, out: Path, command: str, arguments: dict[str, Any], reads: dict[str, str] | None = None) -> "Run":
        """Take a new folder, or one that the same command with the same arguments and inputs left unfinished or finished.

        Args:
            out: the folder.
            command: name of the command.
            arguments: its arguments; "out" is left out of comparisons, so that a folder can be moved.
            reads: role -> fingerprint or sha256 of what is read, so that a folder is not continued with other inputs.

        Raises:
            UserError: the folder holds something else, or anything made with other arguments or inputs (the keys are listed), or another
                process is at work in it.
        """
        out = Path(out)
        arguments = {key: plain(value) for key, value in arguments.items() if key != "out"}
        config = {"command": command, **arguments}
        if out.exists() and not out.is_dir():
            raise UserError(f"{out} is a file.", "Give a folder as --out.")
        held = sorted(p.name for p in out.iterdir() if p.name not in OWN and not p.name.startswith(".tmp-")) if out.is_dir() else []
        if held and not (out / "config.yaml").is_file():
            raise UserError(f"{out} already holds other files ({', '.join(held[:3])}).", "Give a new folder as --out.")
        # what failed before it made anything keeps nobody from trying again with other arguments
        before = read_yaml(out / "config.yaml") if held else config
        # an argument that did not exist when the folder was made counts as None
        if found := list(differences(before, config)):
            if before.get("command") != command:
                raise UserError(f"{out} was made by {before.get('command')!r}.", "Give a new folder as --out.")
            more = f"; and {len(found) - MOST} more" if len(found) > MOST else ""
            raise UserError(
                f"{out} was made with other arguments ({'; '.join(found[:MOST])}{more}).", "Give a new folder as --out, or the old arguments."
            )
        if reads and held and (out / "inputs.json").is_file() and (before := read_json(out / "inputs.json")) != reads:
            others = "; ".join(f"{k}: {before.get(k, '')[:12]} there, {v[:12]} now" for k, v in reads.items() if before.get(k) != v)
            raise UserError(f"{out} was made from other inputs ({others}).", "Give a new folder as --out.")
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(f"Another process is writing {out}.", "Wait for it, or give another --out.") from error
        for leftover in out.rglob(".tmp-*"):
            leftover.unlink()
        write_yaml(out / "config.yaml", config)
        if reads:
            write_json(out / "inputs.json", reads)
        return cls(out, command, arguments, lock, time.time())

    @property
    def finished(self) -> bool:
        """True when the command had ended well here."""
        return (self.root / "provenance.json").is_file()

    def finish(self, reads: dict[str, str], outputs: list[str]) -> None:
        """Write `provenance.json`.

        Args:
            reads: role -> fingerprint or sha256 of what was read.
            outputs: files, relative to the folder, whose sha256 are recorded.
        """
        packages = ("torch", "monai", "pytorch-lightning", "numpy")
        content = {
            "command": self.command,
            "medldm": version("medldm"),
            "python": platform.python_version(),
            "machine": platform.machine(),
            "packages": {name: version(name) for name in packages},
            "arguments": self.arguments,
            "reads": reads,
            "outputs": {name: sha256(self.root / name) for name in outputs},
            "facts": self.facts,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "seconds": round(time.time() - self.started, 1),
        }
        write_json(self.root / "provenance.json", content)
        self.lock.release()


def differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """Where two configurations differ, by the names that options have: "training.steps: 4 there, 8 now"."""
    (kind, before), (other, now) = _unfolded(before), _unfolded(now)
    if kind == other and isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from differences(before.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    elif (kind, before) != (other, now):
        yield f"{name}: {kind or repr(before)} there, {other or repr(now)} now"


def _unfolded(value: Any) -> tuple[str, Any]:
    """Class path and settings of what is built from one; "" and the value itself otherwise."""
    if isinstance(value, dict) and set(value) == {"class_path", "init_args"}:
        return value["class_path"], value["init_args"]
    return "", value


def plain(value: Any) -> Any:
    """Arguments as YAML values: paths as text, settings and models as class path and arguments."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return describe_factory(value) if isinstance(value, type | partial) else describe(value)


def describe(thing: Any) -> dict[str, Any]:
    """Class path and constructor arguments of an object that keeps each argument as an attribute of the same name."""
    names = [f.name for f in fields(thing)] if is_dataclass(thing) else list(inspect.signature(type(thing).__init__).parameters)[1:]
    arguments = {name: _value(getattr(thing, name)) for name in names}
    return {"class_path": f"{type(thing).__module__}.{type(thing).__qualname__}", "init_args": arguments}


def describe_factory(factory: Callable) -> dict[str, Any]:
    """Class path and settings of a class, or of a `functools.partial` of one, as it stands in a configuration.

    Arguments without a default are left out: whoever calls the factory supplies them.

    Raises:
        UserError: the factory is a function, of which no description could be saved.
    """
    parts = (factory.func, *factory.args) if isinstance(factory, partial) else (factory,)  # jsonargparse puts the class among the arguments
    cls = next((part for part in parts if isinstance(part, type)), None)
    if cls is None:
        raise UserError(f"{factory!r} is a function, not a class.", "Name a class by its class path.")
    defaults = {name: p.default for name, p in inspect.signature(cls).parameters.items() if p.default is not p.empty}
    arguments = {**defaults, **(factory.keywords if isinstance(factory, partial) else {})}
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": {name: _value(value) for name, value in arguments.items()}}


def _value(value: Any) -> Any:
    if hasattr(value, "items"):  # dict or ModuleDict
        return {key: _value(entry) for key, entry in value.items()}
    return plain(value)


def build(spec: Any, where: str = "model.yaml") -> Any:
    """The inverse of `describe`: build nested objects from class paths of the allowed packages only.

    Raises:
        UserError: a class path is outside the allowed packages or no module, or arguments do not fit.
    """
    from torch import nn

    if isinstance(spec, list):
        return [build(entry, where) for entry in spec]
    if not isinstance(spec, dict):
        return spec
    if set(spec) != {"class_path", "init_args"}:
        return {key: build(entry, where) for key, entry in spec.items()}
    module, _, name = str(spec["class_path"]).rpartition(".")
    if module.split(".")[0] not in PACKAGES:
        raise UserError(f"{where}: {spec['class_path']!r} is not of {', '.join(PACKAGES)}; it is not built.", "Is this folder a model of medldm?")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{where}: {spec['class_path']!r} does not exist here.", "Use the version of medldm that wrote it.") from error
    own_setting = isinstance(cls, type) and cls.__module__.startswith("medldm.") and is_dataclass(cls)
    if not (isinstance(cls, type) and (issubclass(cls, nn.Module) or own_setting)):
        raise UserError(f"{where}: {spec['class_path']!r} is no module; it is not built.", "Is this folder a model of medldm?")
    try:
        return cls(**{key: build(entry, where) for key, entry in spec["init_args"].items()})
    except TypeError as error:
        raise UserError(f"{where}: {spec['class_path']} does not take these arguments ({error}).") from error


def save_model(root: Path, model: Any) -> None:
    """Write `model.safetensors` and `model.yaml` atomically; equal weights give equal bytes."""
    from safetensors.torch import save_file

    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with atomic(Path(root) / "model.safetensors") as temporary:
        save_file(tensors, temporary)
    write_yaml(Path(root) / "model.yaml", describe(model))


def load_model(root: Path) -> Any:
    """Build the model of a finished run and load its weights, checked against the recorded sha256.

    Raises:
        UserError: no finished run, a changed or damaged weight file, or an architecture that does not fit the weights.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root} does not exist." if not root.exists() else f"{root} is a file and holds no run.")
    if not (root / "provenance.json").is_file():
        state = "is not finished" if (root / "config.yaml").is_file() else "holds no run"
        raise UserError(f"{root} {state} (no provenance.json).", "Give the folder of a finished training.")
    weights = root / "model.safetensors"
    if not weights.is_file():
        command = read_json(root / "provenance.json").get("command")
        raise UserError(f"{root} holds no model; it was written by {command!r}.", "Give the folder of a training run.")
    if sha256(weights) != read_json(root / "provenance.json").get("outputs", {}).get("model.safetensors"):
        raise UserError(f"{weights} is not the file that the training wrote (its sha256 differs).", "Restore it from a copy, or train again.")
    model = build(read_yaml(root / "model.yaml"), f"{root}/model.yaml")
    if not hasattr(model, "load_state_dict"):
        raise UserError(f"{root}/model.yaml describes no model.", "Restore it from a copy, or train again.")
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{weights} does not fit {root}/model.yaml ({str(error)[:300]}).") from error
    return model.eval()
