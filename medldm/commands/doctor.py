"""Is this machine fit for the work?"""

import importlib.util
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from medldm.errors import UserError
from medldm.machine import cpu_has_bf16

LEAST_MEMORY_GIB = 4.0
LEAST_DISK_GIB = 2.0
SAFE_TORCH = (2, 10)  # before it, CVE-2026-24747: memory corruption by a received checkpoint


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Args:
        topic: what was looked at.
        found: what it is.
        problem: why the work cannot be done with it; "" when it can.
        advice: what would be better, though the work can be done.
    """

    topic: str
    found: str
    problem: str = ""
    advice: str = ""


def doctor() -> None:
    """Show versions, devices, threads, memory, disk and the tracking store.

    Raises:
        UserError: the machine is unusable; each reason is named.
    """
    findings = list(packages())
    if not any(f.problem for f in findings):  # what follows needs the packages
        findings += [*processor(), *accelerators(), *room(Path.cwd()), store()]
    _show(findings)
    problems = [f"{f.topic}: {f.problem}" for f in findings if f.problem]
    if problems:
        raise UserError("This machine is not usable. " + " ".join(problems))


def packages() -> Iterator[Finding]:
    """Python and every required package against the range that `pyproject.toml` asks for; extras where installed."""
    from packaging.requirements import Requirement

    yield Finding("medldm", version("medldm"))
    yield Finding("Python", platform.python_version())
    needed = [Requirement(text) for text in requires("medldm") or []]
    for requirement in needed:
        if requirement.marker is None:
            yield _package(requirement.name, requirement.specifier)
    extras = metadata("medldm").get_all("Provides-Extra") or []
    for extra in extras:
        names = [r.name for r in needed if r.marker is not None and r.marker.evaluate({"extra": extra})]
        missing = [name for name in names if _installed(name) is None]
        yield Finding(f"extra {extra}", "lacks " + ", ".join(missing) if missing else "installed")
    if importlib.util.find_spec("torchvision"):
        yield _torchvision()


def _package(name: str, allowed) -> Finding:
    found = _installed(name)
    if found is None:
        return Finding(name, "absent", f"not installed; run: pip install '{name}{allowed}'.")
    if not allowed.contains(found, prereleases=True):
        return Finding(name, found, f"version {found} is outside {allowed}; run: pip install '{name}{allowed}'.")
    old = name == "torch" and tuple(int(part) for part in found.split(".")[:2]) < SAFE_TORCH
    return Finding(name, found, advice="CVE-2026-24747 is fixed in 2.10; use it where you load files of others." if old else "")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _torchvision() -> Finding:
    """It is not needed, but a build for another torch breaks the import of pytorch_lightning."""
    trial = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, timeout=120, check=False)
    broken = "it cannot be imported, which breaks pytorch_lightning; run: pip uninstall torchvision." if trial.returncode else ""
    return Finding("torchvision", _installed("torchvision") or "present", broken)


def processor() -> Iterator[Finding]:
    """Threads and instructions."""
    import psutil
    import torch

    yield Finding("machine", f"{platform.system()} {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads, cores = torch.get_num_threads(), psutil.cpu_count(logical=False) or usable
    advice = "" if threads <= usable else f"more threads than usable processors; set OMP_NUM_THREADS={usable}."
    yield Finding("threads", f"{threads} of torch; {usable} usable processors, {cores} physical cores", advice=advice)
    yield Finding("bfloat16 on CPU", "native" if cpu_has_bf16() else "not native: training runs in float32")


def accelerators() -> Iterator[Finding]:
    """GPUs that torch can use."""
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "ROCm" if torch.version.hip else "CPU only"
    yield Finding("torch build", build)
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        bf16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
        yield Finding(f"GPU {index}", f"{about.name}, {about.total_memory / 2**30:.0f} GiB, {bf16}")
    if not torch.cuda.device_count():
        advice = "torch was built for a GPU and finds none; check the driver." if torch.version.cuda or torch.version.hip else ""
        yield Finding("GPU", "none", advice=advice)


def room(folder: Path) -> Iterator[Finding]:
    """Memory and the disk of a folder."""
    import psutil

    memory = psutil.virtual_memory()
    total, free = _memory_limit(memory.total) / 2**30, memory.available / 2**30
    little = f"{total:.1f} GiB is less than the {LEAST_MEMORY_GIB:g} GiB that the smallest training needs." if total < LEAST_MEMORY_GIB else ""
    yield Finding("memory", f"{total:.1f} GiB, {min(free, total):.1f} free", little)
    disk = shutil.disk_usage(folder).free / 2**30
    full = f"{disk:.1f} GiB free in the working folder; {LEAST_DISK_GIB:g} are needed." if disk < LEAST_DISK_GIB else ""
    yield Finding("disk", f"{disk:.1f} GiB free in the working folder", full)


def _memory_limit(total: int) -> int:
    """Bytes of the machine, or of the container (control group version 2) if that is less."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def store() -> Finding:
    """The tracking store, by writing a run into it (into a temporary one where MLFLOW_TRACKING_URI names none)."""
    from medldm.tracking import chain

    kind = "the server of MLFLOW_TRACKING_URI" if os.environ.get("MLFLOW_TRACKING_URI") else "SQLite"
    warned = logging.getLogger("medldm.tracking")
    level = warned.level
    warned.setLevel(logging.ERROR)  # the table says it
    try:
        with tempfile.TemporaryDirectory() as folder, chain(Path(folder), "doctor") as tracker:
            works = tracker.on
    finally:
        warned.setLevel(level)
    return Finding("tracking", f"{kind} works" if works else f"{kind} fails", advice="" if works else "commands run without tracking.")


def _show(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "found", "", box=None, pad_edge=False)
    for f in findings:
        note = f"[red]{f.problem}[/]" if f.problem else f"[yellow]{f.advice}[/]" if f.advice else "[green]ok[/]"
        table.add_row(f.topic, f.found, note)
    Console().print(table)
