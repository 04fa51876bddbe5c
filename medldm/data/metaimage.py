"""The header of a MetaImage file: lines of `Key = value`, the last being ElementDataFile.

    TransformMatrix   one line of the matrix per voxel axis: its direction in LPS; the identity where it is not given
    Offset            position of the first voxel in LPS millimetres; 0 where it is not given
    ElementSpacing    millimetres

After https://itk.org/Wiki/ITK/MetaIO/Documentation. Each is known by some other names.
"""

import re
from collections.abc import Mapping
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
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4", "MET_LONG": "i4",
    "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
SPACING = ("ElementSpacing", "ElementSize")
MATRIX = ("TransformMatrix", "Orientation", "Rotation")
ORIGIN = ("Offset", "Position", "Origin")
SCALING = {"ElementToIntensityFunctionSlope": "1", "ElementToIntensityFunctionOffset": "0"}  # which change nothing
LARGE_END_FIRST = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
KNOWN = (
    "NDims", "DimSize", "ElementType", "ElementNumberOfChannels", "HeaderSize", "BinaryData", "CompressedData", "CompressedDataSize",
    "ElementDataFile", *SPACING, *MATRIX, *ORIGIN, *SCALING, *LARGE_END_FIRST,
)  # fmt: skip


def metaimage_header(path: Path, head: bytes) -> Header:
    """Read the header of a MetaImage.

    Args:
        path: the file, for messages.
        head: its beginning.

    Raises:
        BadVolume: it is no MetaImage, damaged, or of a kind that is not read.
    """
    end = re.search(rb"^ElementDataFile[ \t]*[=:][^\n]*(\n|\Z)", head, re.MULTILINE)
    if not end:
        raise BadVolume(path, "unreadable", "is not a MetaImage file.", AGAIN)
    lines = [re.split("[=:]", line, maxsplit=1) for line in head[: end.end()].decode("latin-1").split("\n")]
    fields = known_fields(path, [(line[0].strip(), line[1].strip()) for line in lines if len(line) == 2], KNOWN)
    shape = shape_of(path, "NDims", "DimSize", fields)
    where = fields["ElementDataFile"]
    return Header(
        shape,
        _type(path, fields),
        _affine(path, fields, len(shape)),
        end.end(),
        _is_true(path, fields, "CompressedData"),
        next(iter(whole_numbers(path, "CompressedDataSize", fields)), None),
        "" if where.lower() == "local" else where,
        placed=any(name in fields for name in SPACING),
    )


def _type(path: Path, fields: Mapping[str, str]) -> np.dtype:
    """The type of one voxel, after refusing what is no binary number, or not the number that is meant."""
    kind = fields.get("ElementType", "")
    if fields.get("ElementNumberOfChannels", "1") != "1" or kind.endswith("_ARRAY"):
        raise BadVolume(path, *no_single_number())
    if kind not in TYPES:
        raise damaged(path, "its ElementType is unknown")
    if not _is_true(path, fields, "BinaryData") or whole_numbers(path, "HeaderSize", fields) not in ((), (0,)):
        raise BadVolume(path, "unreadable", "holds its voxels as text, or behind a second header.", "Write it again, for example with SimpleITK.")
    if any(real_numbers(path, name, fields.get(name, same), 1) != float(same) for name, same in SCALING.items()):
        raise BadVolume(path, "unreadable", "asks for a scaling of its voxels, which programs do not agree on.", "Write it again with scaled voxels.")
    swapped = any(_is_true(path, fields, name) for name in LARGE_END_FIRST)
    return np.dtype((">" if swapped else "<") + TYPES[kind])


def _affine(path: Path, fields: Mapping[str, str], axes: int) -> np.ndarray:
    """Voxel index -> RAS+ millimetres [4 4]."""
    found = {}
    for names, default in ((SPACING, np.ones(axes)), (MATRIX, np.eye(axes).ravel()), (ORIGIN, np.zeros(axes))):
        name = next((name for name in names if name in fields), "")
        found[names] = real_numbers(path, name, fields[name], default.size) if name else default
    refuse_no_length(path, found[SPACING][:3])
    columns = found[MATRIX].reshape(axes, axes).T * found[SPACING]
    return ras_affine(path, columns, found[ORIGIN], LPS)


def _is_true(path: Path, fields: Mapping[str, str], name: str) -> bool:
    """A field that is True or False, which it is where it is not given."""
    word = fields.get(name, "False").lower()
    if word not in ("true", "false", "1", "0"):
        raise damaged(path, f"{name} is neither True nor False")
    return word in ("true", "1")
