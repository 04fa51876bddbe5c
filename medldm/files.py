"""Files that are either whole or absent: atomic writing, checksums, small YAML/JSON/CSV documents."""

import csv
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from medldm.errors import OutOfSpace, UserError

YAML_LIMIT = 1 << 20  # a configuration is never a megabyte; a bomb of aliases is


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary file beside `path`; put it in place only when the block ends without an error.

    The temporary file lies in the same folder (a rename across file systems is a copy) and keeps the suffixes, which
    decide the format for many writers.

    Raises:
        OutOfSpace: the disk is full; the old file is intact and the temporary one removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".tmp-", suffix="-" + path.name, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files that only the owner can read
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(path.parent).free
            raise OutOfSpace(
                f"The disk is full while writing {path} ({free / 2**20:.0f} MiB free).", "Free some space and run the same command again."
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as a CSV document; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_csv(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV document atomically, the header first."""
    write_text(path, csv_text(rows))


def write_json(path: Path, content: Any) -> None:
    """Write a JSON document atomically, keys in the given order."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON document of names and values, or say what is wrong with it."""
    try:
        return _mapping(json.loads(Path(path).read_text(encoding="utf-8")), path)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}).") from error


def write_yaml(path: Path, content: Any) -> None:
    """Write a YAML document of plain values atomically."""
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML document of names and plain values (no tags), or say what is wrong with it."""
    path = Path(path)
    try:
        if path.stat().st_size > YAML_LIMIT:
            raise UserError(f"{path} is larger than {YAML_LIMIT} bytes: not a configuration.")
        return _mapping(yaml.safe_load(path.read_text(encoding="utf-8")), path)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not plain YAML ({error}).") from error


def _mapping(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold names and values.", "Restore it, or make its folder again.")
    return content


def sha256(*paths: Path) -> str:
    """SHA-256 of the files' bytes, one after the other, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def sha256_of(content: Any) -> str:
    """SHA-256 of a JSON-like value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
