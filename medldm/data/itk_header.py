"""What the text in front of the voxels says, in MetaImage and in NRRD files alike.

Both are read without ITK. Tried with SimpleITK 2.5: a damaged MetaImage header ends the process (abort, segmentation fault), voxels that
cannot be unpacked come back as whatever the memory held, and the checksum of a gzip stream is not looked at.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medldm.volume import BadVolume

AGAIN = "Copy or write it again from its source, or take it out."
LONGEST = 1 << 31  # voxels along an axis
#: Signs that turn the world axes of ITK into RAS.
LPS = (-1.0, -1.0, 1.0)


@dataclass(frozen=True)
class Header:
    """Where and what the voxels are.

    Args:
        shape: voxels along the stored axes, the fastest first.
        dtype: of one stored voxel.
        affine: voxel index -> RAS+ millimetres [4 4].
        length: bytes of the header.
        zipped: True where the voxels are a zlib or gzip stream.
        zipped_bytes: its length, where the header tells.
        data_file: name of the file that holds the voxels; "" where they follow the header.
        channels: which of 4 axes counts channels.
        placed: False where the header does not say where the image lies, so that the affine is a guess.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    affine: np.ndarray
    length: int
    zipped: bool = False
    zipped_bytes: int | None = None
    data_file: str = ""
    channels: int = 3
    placed: bool = True


def damaged(path: Path, what: str) -> BadVolume:
    """The error for a header that contradicts its format.

    Args:
        path: the file.
        what: which part of it; never its text, which may tell who the patient is.
    """
    return BadVolume(path, "unreadable", f"has a damaged header ({what}).", AGAIN)


def no_single_number() -> tuple[str, str, str]:
    """Status, reason and fix for voxels that are vectors, colours or complex numbers."""
    return (
        "voxel_type",
        "has several numbers a voxel (a vector, a colour or a complex number); one real number was expected.",
        "Give magnitude, or one channel per file.",
    )


def known_fields(path: Path, pairs: Iterable[tuple[str, str]], known: Sequence[str]) -> dict[str, str]:
    """The fields of these names, each of which may be given once; free text is left out.

    Raises:
        BadVolume: one is given twice.
    """
    fields: dict[str, str] = {}
    for name, value in pairs:
        if name in fields:
            raise damaged(path, f"{name} is given twice")
        if name in known:
            fields[name] = value
    return fields


def shape_of(path: Path, count: str, sizes: str, fields: Mapping[str, str]) -> tuple[int, ...]:
    """Voxels along 3 axes, or 4 where one counts channels.

    Args:
        path: the file, for messages.
        count: name of the field that counts the axes.
        sizes: name of the field that has the sizes.
        fields: all fields.

    Raises:
        BadVolume: the fields contradict each other, or there are more or fewer axes.
    """
    shape = whole_numbers(path, sizes, fields)
    if whole_numbers(path, count, fields) != (len(shape),):
        raise damaged(path, f"{count} does not count {sizes}")
    if len(shape) not in (3, 4):
        raise BadVolume(path, "unreadable", f"has {len(shape)} axes; 3 were expected, or 4 where one counts channels.", "Give one volume per file.")
    return shape


def whole_numbers(path: Path, name: str, fields: Mapping[str, str]) -> tuple[int, ...]:
    """The whole numbers of a field, "" or absent being none.

    Raises:
        BadVolume: a word of it is no whole number, or far too large.
    """
    words = fields.get(name, "").split()
    if not all(re.fullmatch("[+-]?[0-9]{1,10}", word) and abs(int(word)) < LONGEST for word in words):
        raise damaged(path, f"{name} is not whole numbers")
    return tuple(map(int, words))


def real_numbers(path: Path, name: str, text: str, count: int) -> np.ndarray:
    """So many numbers between spaces, commas or parentheses.

    Raises:
        BadVolume: they are more, fewer, or no numbers.
    """
    try:
        numbers = np.array([float(word) for word in text.replace(",", " ").split()])
    except ValueError as error:
        raise damaged(path, f"{name} is not numbers") from error
    if len(numbers) != count:
        raise damaged(path, f"{name} has {len(numbers)} numbers; {count} were expected")
    return numbers


def refuse_no_length(path: Path, spacing: Sequence[float]) -> None:
    """Refuse a voxel size that is not positive.

    Raises:
        BadVolume: an axis has length 0, a negative or an infinite one.
    """
    if not all(0 < length < float("inf") for length in spacing):
        sizes = " x ".join(f"{length:g}" for length in spacing)
        raise BadVolume(path, "spacing", f"has voxel size {sizes} mm.", "Convert it again with its voxel size.")


def ras_affine(path: Path, columns: np.ndarray, origin: np.ndarray, signs: Sequence[float]) -> np.ndarray:
    """Voxel index -> RAS+ millimetres [4 4].

    Args:
        path: the file, for messages.
        columns: step along each voxel axis in the file's world [3 3], or [4 4] where the last axis is none of space.
        origin: position of the first voxel in the file's world [3] or [4].
        signs: of RAS against the file's world [3].

    Raises:
        BadVolume: the fourth axis goes through space, or another one through time.
    """
    if columns[3:, :3].any() or columns[:3, 3:].any():
        raise damaged(path, "its channels lie at different positions")
    affine = np.eye(4)
    affine[:3, :3] = np.array(signs)[:, None] * columns[:3, :3]
    affine[:3, 3] = np.array(signs) * origin[:3]
    return affine + 0.0  # no -0.0
