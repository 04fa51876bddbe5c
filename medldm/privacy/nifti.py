"""NIfTI files and what lies beside them: texts of the header and extensions go, numbers and voxels stay as they are, byte by byte, but for faces."""

import gzip
import io
import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from medldm.data.dicom.foreign import distrust
from medldm.data.sources import BadCase
from medldm.privacy.deidentify import Action
from medldm.privacy.faces import UNKNOWN, Finding
from medldm.privacy.identifiers import Identifiers, kind_of
from medldm.privacy.vocabulary import SIDECAR
from medldm.privacy.voxels import search, without_face
from medldm.volume import LIMIT_BYTES

BESIDE = (".json", ".bval", ".bvec")


@dataclass(frozen=True)
class Layout:
    """Where a version of the header keeps what.

    Args:
        size: bytes of the header.
        texts: field -> first byte and length.
        dim: format and first byte of the 8 numbers of dimensions.
        bits: first byte of the bits a voxel.
        offset: format and first byte of where the voxels begin.
    """

    size: int
    texts: dict[str, tuple[int, int]]
    dim: tuple[str, int]
    bits: int
    offset: tuple[str, int]


#: nifti1.h, and nifti2.h
FIRST = Layout(
    348,
    {"data_type": (4, 10), "db_name": (14, 18), "regular": (32, 7), "limits": (140, 8), "descrip": (148, 80), "aux_file": (228, 24),
     "intent_name": (328, 16)},
    ("8h", 40), 72, ("f", 108),
)  # fmt: skip
SECOND = Layout(540, {"descrip": (240, 80), "aux_file": (320, 24), "intent_name": (508, 16), "unused_str": (525, 15)}, ("8q", 16), 14, ("q", 168))


def suffix_of(name: str) -> str:
    """The suffix of a NIfTI file or of one that lies beside it, in small letters; "" for others."""
    lower = name.lower()
    return next((s for s in (".nii.gz", ".nii", *BESIDE) if lower.endswith(s)), "")


def collect(path: Path, into: Identifiers) -> None:
    """Take what a NIfTI file or its sidecar says of the patient; a damaged one is refused for this when it is read again.

    Args:
        path: its suffix says what it is.
        into: the identifiers of its patient.
    """
    try:
        with distrust(""):
            if suffix_of(path.name) == ".json":
                _collect_sidecar(json.loads(path.read_bytes().decode("utf-8-sig")), into)
            elif suffix_of(path.name) not in BESIDE:
                with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else open(path, "rb") as stream:
                    head = stream.read(SECOND.size)
                for at, length in _layout(head)[0].texts.values():
                    into.add("words", head[at : at + length].decode("utf-8", "ignore"))
    except BadCase:
        return


def _collect_sidecar(content: Any, into: Identifiers) -> None:
    """The values of a sidecar that DICOM attributes of the same names would tell of a patient."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    for name, value in content.items() if isinstance(content, dict) else ():
        tag = tag_for_keyword(name)
        kind = kind_of(tag, dictionary_VR(tag)) if tag is not None and name not in SIDECAR else ""
        for text in value if isinstance(value, list) else [value]:
            if kind and isinstance(text, str | int):
                into.add(kind, str(text))


def find_face(path: Path) -> tuple[Finding, ...]:
    """Look for a face in a NIfTI file; nothing is found in a damaged one, which is refused for this when it is read again."""
    try:
        with distrust(""):
            content = _content(path)
    except BadCase:
        return ()
    try:
        with distrust(""):
            return search(content)
    except BadCase:
        return (Finding(UNKNOWN),)


def deidentify(path: Path, known: Identifiers, findings: Sequence[Finding] = ()) -> tuple[bytes, list[Action]]:
    """A NIfTI file or one beside it, de-identified.

    Args:
        path: its suffix says what it is.
        known: what is sought in what is left.
        findings: of faces in it; those that are there become air.

    Returns:
        The bytes of the new file, and what was done.

    Raises:
        BadCase: the file is refused.
    """
    suffix = suffix_of(path.name)
    with distrust(""):
        if suffix == ".json":
            return _sidecar(path.read_bytes(), known)
        if suffix in BESIDE:
            return _table(path.read_bytes(), known), []
        content = _content(path)
        for finding in findings:
            content = without_face(content, finding) if finding.face else content
        data, done = _volume(content, known)
        done += [finding.action for finding in findings]
        if suffix == ".nii":
            return data, done
        buffer = io.BytesIO()
        with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0, compresslevel=6) as stream:
            stream.write(data)
        return buffer.getvalue(), [*done, ("gzip header", "made anew")]


def _content(path: Path) -> bytes:
    """The bytes of a file, inflated where it is compressed, up to the largest volume there is.

    Raises:
        BadCase: there are less of them than its header announces, or far more.
    """
    if suffix_of(path.name) == ".nii":
        data = path.read_bytes()
        size = _end(data, *_layout(data))
    else:
        with gzip.open(path, "rb") as stream:
            head = stream.read(SECOND.size)
            size = _end(head, *_layout(head))
            data = head + stream.read(max(0, size - len(head)))
            while stream.read(1 << 20):  # to the checksum at the end
                if stream.tell() > size + LIMIT_BYTES // 64:
                    raise BadCase("", "unreadable", "inflates to more than its header announces.")
    if len(data) < size:
        raise BadCase("", "unreadable", "is cut short.")
    return data


def _layout(data: bytes) -> tuple[Layout, str]:
    """The version and byte order of a header.

    Raises:
        BadCase: it is none, or one of a pair of files.
    """
    for layout in (FIRST, SECOND):
        for order in "<>":
            if data[:4] == struct.pack(order + "i", layout.size):
                magic = data[344:348] if layout is FIRST else data[4:8]
                if magic not in (b"n+1\0", b"n+2\0"):
                    raise BadCase("", "unsupported", "is Analyze or half of a pair of files; make one NIfTI file of it.")
                return layout, order
    raise BadCase("", "unreadable", "has the name of a NIfTI file and does not begin like one.")


def _field(data: bytes, order: str, place: tuple[str, int]) -> tuple[Any, ...]:
    return struct.unpack_from(order + place[0], data, place[1])


def _end(data: bytes, layout: Layout, order: str) -> int:
    """Where the voxels end."""
    dims = _field(data, order, layout.dim)
    if not 1 <= dims[0] <= 7 or min(dims[1 : dims[0] + 1]) < 1:
        raise BadCase("", "unreadable", "has a malformed size.")
    begin = int(_field(data, order, layout.offset)[0])
    bits = _field(data, order, ("h", layout.bits))[0]
    end = begin + (prod(dims[1 : dims[0] + 1]) * bits + 7) // 8
    if begin < layout.size + 4 or end > LIMIT_BYTES or bits < 1:
        raise BadCase("", "unreadable", "has a malformed size.")
    return end


def _volume(data: bytes, known: Identifiers) -> tuple[bytes, list[Action]]:
    """Header without texts, no extensions, the same voxels, and nothing after them."""
    layout, order = _layout(data)
    end, begin = _end(data, layout, order), int(_field(data, order, layout.offset)[0])
    head, done = bytearray(data[: layout.size]), []
    for name, (at, length) in layout.texts.items():
        if any(head[at : at + length]):
            head[at : at + length] = bytes(length)
            done.append((name, "emptied"))
    if begin > layout.size + 4:
        done.append(("extensions", "removed"))
    struct.pack_into(order + layout.offset[0], head, layout.offset[1], layout.size + 4)
    if len(data) > end:
        done.append(("bytes after the voxels", "removed"))
    if known.in_bytes(bytes(head)):
        raise BadCase("", "identifier", "holds a trace of the patient in numbers of its header.")
    return bytes(head) + bytes(4) + data[begin:end], done


def _sidecar(data: bytes, known: Identifiers) -> tuple[bytes, list[Action]]:
    """Parameters of the acquisition that are numbers, or codes without a trace; nothing else of a sidecar."""
    content = json.loads(data.decode("utf-8-sig"))
    if not isinstance(content, dict):
        raise BadCase("", "unreadable", "is no sidecar of names and values.")
    kept = {name: value for name, value in content.items() if name in SIDECAR and _is_parameter(value, known)}
    names = [name if name in SIDECAR else "(another name)" for name in content if name not in kept]
    return (json.dumps(kept, indent=1) + "\n").encode(), [(name, "removed") for name in names]


def _is_parameter(value: Any, known: Identifiers) -> bool:
    if isinstance(value, list):
        return all(_is_parameter(entry, known) for entry in value)
    if isinstance(value, str):
        return len(value) <= 64 and not known.in_text(value, code=True) and not known.in_text(value)
    return isinstance(value, bool) or (isinstance(value, int | float) and not known.in_number(str(value)))


def _table(data: bytes, known: Identifiers) -> bytes:
    """A table of numbers, as it is.

    Raises:
        BadCase: it holds anything else, or a number of the patient.
    """
    words = data.decode("ascii", "replace").split()
    if not all(re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", word) for word in words):
        raise BadCase("", "unreadable", "is no table of numbers.")
    if any(known.in_number(word) for word in words):
        raise BadCase("", "identifier", "holds a trace of the patient among its numbers.")
    return data
