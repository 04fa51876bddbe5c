"""The header of a NRRD file: lines of `field: value` up to an empty one.

    space              LPS, RAS or LAS, the axes of the world
    space directions   the step along each voxel axis in millimetres, (x,y,z); `none` for an axis of channels
    space origin       position of the first voxel

After http://teem.sourceforge.net/nrrd/format.html.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medldm.data.itk_header import (
    AGAIN,
    LPS,
    Header,
    damaged,
    known_fields,
    no_single_number,
    ras_affine,
    real_numbers,
    refuse_no_length,
    shape_of,
    whole_numbers,
)
from medldm.volume import BadVolume

TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
#: Signs that turn the axes of a space into RAS.
SPACES = {
    **dict.fromkeys(("left-posterior-superior", "lps", "left-posterior-superior-time", "lpst"), LPS),
    **dict.fromkeys(("right-anterior-superior", "ras", "right-anterior-superior-time", "rast"), (1.0, 1.0, 1.0)),
    **dict.fromkeys(("left-anterior-superior", "las", "left-anterior-superior-time", "last"), (-1.0, 1.0, 1.0)),
}
#: Kinds of axes along which each entry is an image of its own; other kinds make one vector, colour or complex number of all.
CHANNELS = ("list", "time", "domain", "space", "???", "none")
ENCODINGS = {"raw": False, "gzip": True, "gz": True}
#: Names of fields, without the spaces that some writers put between their words.
KNOWN = (
    "type", "dimension", "sizes", "endian", "encoding", "space", "spacedirections", "spaceorigin", "spacings", "kinds",
    "byteskip", "lineskip", "datafile",
)  # fmt: skip


def nrrd_header(path: Path, head: bytes) -> Header:
    """Read the header of a NRRD file.

    Args:
        path: the file, for messages.
        head: its beginning.

    Raises:
        BadVolume: it is no NRRD, damaged, or of a kind that is not read.
    """
    if not re.match(rb"NRRD000\d\r?\n", head):
        raise BadVolume(path, "unreadable", "is not a NRRD file.", AGAIN)
    end = re.search(rb"\n\r?\n", head)
    lines = re.findall(r"^([^#:\n]+):(?!=)(.*)$", head[: end.start() if end else None].decode("latin-1"), re.MULTILINE)
    fields = known_fields(path, [(name.lower().replace(" ", ""), value.strip()) for name, value in lines], KNOWN)
    shape = shape_of(path, "dimension", "sizes", fields)
    if not end and "datafile" not in fields:
        raise damaged(path, "it has no end")
    encoding = fields.get("encoding", "").lower()
    if encoding not in ENCODINGS or not {*whole_numbers(path, "byteskip", fields), *whole_numbers(path, "lineskip", fields)} <= {0}:
        reason = "holds its voxels as text, packed by bzip2, or behind a second header; raw and gzip are read."
        raise BadVolume(path, "unreadable", reason, "Write it again, for example with SimpleITK.")
    affine, channels, placed = _place(path, fields, len(shape))
    return Header(
        shape,
        _type(path, fields, channels, len(shape)),
        affine,
        end.end() if end else len(head),
        ENCODINGS[encoding],
        data_file=fields.get("datafile", "").removeprefix("./"),
        channels=channels,
        placed=placed,
    )


def _type(path: Path, fields: Mapping[str, str], channels: int, axes: int) -> np.dtype:
    """The type of one voxel, after refusing what is not one number."""
    kinds = fields.get("kinds", "").lower().split()
    kind = fields.get("type", "").lower()
    if kind == "block" or (axes == 4 == len(kinds) and kinds[channels] not in CHANNELS):
        raise BadVolume(path, *no_single_number())
    if kind not in TYPES:
        raise damaged(path, "its type is unknown")
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "").lower(), "|" if TYPES[kind][1] == "1" else "")
    if not order:
        raise damaged(path, "its endian is unknown")
    return np.dtype(order + TYPES[kind])


def _place(path: Path, fields: Mapping[str, str], axes: int) -> tuple[np.ndarray, int, bool]:
    """Voxel index -> RAS+ millimetres [4 4], which of 4 axes counts channels, and whether the header says all of this.

    Where it does not, the world is taken as LPS and the axes as its own, as ITK takes them.
    """
    space = fields.get("space", "").lower()
    signs = SPACES.get(space, LPS)
    if "spacedirections" not in fields:
        spacing = real_numbers(path, "spacings", fields["spacings"], axes) if "spacings" in fields else np.ones(axes)
        refuse_no_length(path, spacing[:3])
        return ras_affine(path, np.diag(spacing[:3]), np.zeros(3), signs), 3, False
    vectors = re.findall(r"none|\([^()]*\)", fields["spacedirections"].lower())
    columns, channels = _columns(path, vectors, axes)
    origin = np.zeros(len(columns))
    if "spaceorigin" in fields:
        origin = real_numbers(path, "space origin", fields["spaceorigin"].strip("()"), len(columns))
    return ras_affine(path, columns, origin, signs), channels, space in SPACES and "spaceorigin" in fields


def _columns(path: Path, vectors: Sequence[str], axes: int) -> tuple[np.ndarray, int]:
    """The directions as columns [3 3] or [4 4], and which axis counts channels where there are 4."""
    steps = [vector for vector in vectors if vector != "none"]
    if len(vectors) != axes or len(steps) not in (3, 4):
        raise damaged(path, f"{len(steps)} space directions for {axes} axes")
    columns = np.stack([real_numbers(path, "space directions", step.strip("()"), len(steps)) for step in steps], axis=1)
    return columns, list(vectors).index("none") if len(steps) < axes else 3
