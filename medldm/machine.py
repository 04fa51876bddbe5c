"""Settings of the process that must be made before torch and MLflow are imported, and what the processor can do."""

import ctypes
import os
import platform
import re
from pathlib import Path

from medldm.errors import UserError

# Parameter numbers of glibc's <malloc.h>.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def tune_allocator() -> bool:
    """Let glibc keep freed blocks instead of giving every large tensor back to the kernel.

    Large activations are otherwise mapped, zeroed page by page and unmapped in every layer: 4-5 times the cost of the
    elementwise operation itself. Call it before torch is imported.

    Returns:
        True when the settings took effect; False on another C library.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 256 << 20}
    return all(mallopt(parameter, value) == 1 for parameter, value in settings.items())


def share_processors() -> None:
    """OpenMP threads spin for microseconds, then sleep, while they wait for each other; the user's own settings win.

    Where another process wants the same processors, threads that spin for long keep the one that they wait for from running: a
    training step of 2 threads took 0.16 s on 2 idle processors, and beside one busy process 2.3 s with libgomp's default and
    0.6 s with this. Call it before torch is imported.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def bound_tracking() -> None:
    """No telemetry, and a tracking server that does not answer costs seconds rather than minutes; the user's own settings win.

    MLflow reads these when it is imported, which MONAI does as well.
    """
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    }.items():
        os.environ.setdefault(name, value)


def cpu_has_bf16() -> bool:
    """True when the processor multiplies bfloat16 natively (AVX-512 BF16, AMX or Arm); emulated bfloat16 is slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def memory_of_process(word: str) -> int:
    """Bytes that this process holds in memory now ("VmRSS") or has held at most ("VmHWM"), on Linux."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(word))


def peak_memory() -> str:
    """How much memory this process has held at most, for people; "an unknown amount" where the system does not tell."""
    return bytes_text(memory_of_process("VmHWM")) if Path("/proc/self/status").is_file() else "an unknown amount"


def bytes_text(count: float) -> str:
    """Bytes for people: "6.01 GiB", or "310 MiB" below one GiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def parse_bytes(text: str) -> int:
    """Bytes that a text such as "8GB" (10^9), "500MiB" (2^20) or "1.5 GiB" names.

    Raises:
        UserError: it is no number with such a unit.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B\s*", text, re.IGNORECASE)
    if not found:
        raise UserError(f"{text!r} is no amount of memory.", "Give for example 8GB or 500MiB.")
    number, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))
