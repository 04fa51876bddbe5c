"""Weights from elsewhere, read as data: safetensors, or torch files without anything but tensors and plain values."""

import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medldm.errors import UserError

LARGEST = 16 << 30  # bytes; the largest autoencoders have half a gigabyte
DEEPEST = 4  # mappings within mappings
HEAD = 64  # bytes that tell the format
SAVE_AS = "Save its state dict, where the file is trusted: safetensors.torch.save_file(network.state_dict(), 'weights.safetensors')."
PLAIN = re.compile(r"[\w.\-]{1,80}")

#: Names within a mapping to what stands there; only tensors are of use.
Entries = Mapping[str, Any]


def read_weights(path: Path) -> dict[str, Entries]:
    """Every mapping of a file that holds tensors, by its place: "" for the whole file, or such as "state_dict".

    Nothing that could run code is loaded: a file that needs more than tensors and plain values is refused, and so is one whose
    parts claim to be larger than the file.

    Args:
        path: a .safetensors file, or what `torch.save` wrote; told apart by content.

    Raises:
        UserError: there is no such file, it is no file of weights, is damaged, or needs objects to be loaded.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder.", "Give the file with the weights, such as model.safetensors of a run.")
    if not path.is_file():
        raise UserError(f"{path} does not exist.", "Give a file of weights: .safetensors, .pt, .pth or .ckpt.")
    if path.stat().st_size > LARGEST:
        raise UserError(
            f"{path} has {path.stat().st_size >> 30} GiB; at most {LARGEST >> 30} are read.", "Save the state dict of the autoencoder alone."
        )
    with open(path, "rb") as stream:
        head = stream.read(HEAD)
    content = _safetensors(path) if head[8:9] == b"{" else _torch(path, head)
    found = dict(_mappings(content, "", 0))
    if not found:
        raise UserError(f"{path} holds no tensors by name.", SAVE_AS)
    return found


def shown(names: Iterable[str], most: int = 3) -> str:
    """The first names of a file for a message; those that are no plain words are left out, as they may hold anything."""
    plain = [name for name in names if PLAIN.fullmatch(name)]
    return ", ".join(plain[:most]) + (" ..." if len(plain) > most else "") if plain else "no plain names"


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged or not whole ({str(error)[:120]}).", "Copy it again.") from error


def _torch(path: Path, head: bytes) -> Any:
    if head[:4] != b"PK\x03\x04" and head[:1] != b"\x80":
        raise UserError(f"{path} {_what_else(head)}.", "Give a file of weights: .safetensors, .pt, .pth or .ckpt.")
    _check_archive(path, head)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on storages of older files: of no use to the user
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a hostile or cut file makes the reader say
        text = str(error)
        if wanted := re.search(r"GLOBAL ([\w.]{1,80})", text):
            raise UserError(f"{path} needs {wanted[1]} to be loaded by pickle, which can run any code; it is not loaded.", SAVE_AS) from error
        raise UserError(f"{path} is damaged, not whole, or no file of weights ({type(error).__name__}).", "Copy it again. " + SAVE_AS) from error


def _check_archive(path: Path, head: bytes) -> None:
    """Refuse archives that are cut off or that unpack to more than they are; torch never compresses."""
    if head[:1] != b"P":
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{path} is damaged or not whole ({str(error)[:120]}).", "Copy it again.") from error
    if any(e.filename.endswith("/constants.pkl") for e in entries):
        raise UserError(f"{path} is a TorchScript program, not weights.", SAVE_AS)
    if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or sum(e.file_size for e in entries) > path.stat().st_size:
        raise UserError(f"{path} is a compressed archive; files of weights are not.", SAVE_AS)


def _what_else(head: bytes) -> str:
    """What a file is that is no file of weights."""
    start = head.lstrip().lower()
    if not head:
        return "is empty"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page (perhaps the answer to a refused download)"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself (git lfs pull fetches it)"
    return "is no file of weights"


def _mappings(content: Any, place: str, depth: int) -> Iterable[tuple[str, Entries]]:
    if not isinstance(content, Mapping) or depth > DEEPEST or not all(isinstance(key, str) for key in content):
        return
    if any(isinstance(value, Tensor) for value in content.values()):
        yield place, content
    for key, value in content.items():
        yield from _mappings(value, f"{place}.{key}" if place else key, depth + 1)
