"""The planes of DICOM images in space, and air in place of the face in each of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from medldm.data.dicom.geometry import LPS_TO_RAS
from medldm.data.dicom.headers import CAPTURES, IMAGES, STORAGE, Header
from medldm.data.dicom.planes import planes_of
from medldm.data.dicom.tags import items, text, whole
from medldm.data.sources import BadCase
from medldm.privacy.deface import region
from medldm.privacy.faces import Finding
from medldm.privacy.pixels import pack, unpacked

#: CT and MR; PET: classic, legacy converted, enhanced; cone beams.
VOLUMES = {*IMAGES, *(STORAGE + kind for kind in ("128", "128.1", "130", "13.1.1", "13.1.2"))}
MODALITIES = ("CT", "MR", "PT")


@dataclass(frozen=True, eq=False)
class Slice:
    """A plane in space: a classic slice, a frame, a tile of a mosaic.

    Args:
        file: number of its file.
        frame: of the file, counted from 0.
        whole: rows and columns of the frame.
        corner: row and column of the frame where it begins.
        size: its rows and columns.
        affine: (any, row, column) -> RAS+ mm [4 4]; the first column is the unit normal.
        scale: slope and intercept: intensity = slope * stored value + intercept.
        unit: "HU" or "a.u.".
        telling: what tells it from others at its place.
    """

    file: int
    frame: int
    whole: tuple[int, int]
    corner: tuple[int, int]
    size: tuple[int, int]
    affine: np.ndarray
    scale: tuple[float, float]
    unit: str
    telling: tuple[str, ...]

    @property
    def axes(self) -> np.ndarray:
        """Unit vectors across the plane, down its rows and along its columns, as columns [3 3]."""
        return self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)

    def of(self, frame: np.ndarray) -> np.ndarray:
        """Its part of a frame [rows columns], as a view."""
        return frame[self.corner[0] : self.corner[0] + self.size[0], self.corner[1] : self.corner[1] + self.size[1]]


def series_of(dataset: Any, path: Path) -> str:
    """The series of a file whose images may form a volume of the body; "" for other objects, and for captures without a place in space.

    Args:
        dataset: its header.
        path: its folder stands for a series without UID.
    """
    kind = text(dataset, "SOPClassUID")
    measured = "Rows" in dataset and (kind in VOLUMES or text(dataset, "Modality").upper() in MODALITIES)
    placed = "ImagePositionPatient" in dataset or bool(items(dataset, "PerFrameFunctionalGroupsSequence"))
    return (text(dataset, "SeriesInstanceUID") or str(path.parent)) if measured and (placed or not kind.startswith(CAPTURES)) else ""


def slices_of(dataset: Any, file: int = 0) -> Iterator[Slice]:
    """The planes of an image file.

    Raises:
        BadCase: one of them has no place in space.
    """
    for plane in planes_of(Header(Path(), modality=text(dataset, "Modality").upper(), data=dataset)):
        row, column = np.array(plane.orientation).reshape(2, 3)
        side, (height, width) = ceil(sqrt(plane.tiles)) or 1, plane.size
        for tile in range(plane.tiles or 1):
            affine = np.eye(4)
            origin = np.array(plane.position) + tile * np.array(plane.step)
            affine[:3] = np.column_stack([np.cross(row, column), column * plane.spacing[0], row * plane.spacing[1], origin])
            corner = (tile // side * height, tile % side * width)
            frame = (plane.frame, (side * height, side * width), corner, plane.size)
            yield Slice(file, *frame, LPS_TO_RAS @ affine, (plane.slope, plane.intercept), plane.unit, plane.telling)


def without_face(dataset: Any, finding: Finding) -> bool:
    """Put air in place of the face in each slice that it reaches into; then, compressed pixels are stored uncompressed.

    Args:
        dataset: a file, with its places in space; changed in place.
        finding: what `search` found in it.

    Returns:
        True where pixels changed.

    Raises:
        BadCase: nothing here decodes the pixels, or their form is another than whole numbers of whole bytes.
    """
    matrix = np.array(finding.matrix)
    masks = [(one, region((1, *one.size), one.affine, matrix)[0]) for one in slices_of(dataset)]
    if not any(mask.any() for _, mask in masks):
        return False
    data = unpacked(dataset)
    bits, size, signed = whole(dataset, "BitsStored"), whole(dataset, "BitsAllocated"), whole(dataset, "PixelRepresentation") == 1
    order = "<" if dataset.original_encoding[1] else ">"
    plain = whole(dataset, "SamplesPerPixel", 1) == 1 and size in (8, 16, 32) and 0 < bits <= size and whole(dataset, "HighBit") == bits - 1
    if not plain or (order == ">" and size == 8):  # whose bytes may have changed places
        raise BadCase("", "pixels", "has pixels of another form than whole numbers, from which a face is not removed.")
    pixels = data[:, 0].view(f"{order}{'i' if signed else 'u'}{size // 8}")[..., 0]
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    for one, mask in masks:
        fill = np.rint((finding.air - one.scale[1]) / one.scale[0])
        one.of(pixels[one.frame])[mask] = int(np.clip(fill, low, high))
    pack(dataset, data)
    return True
