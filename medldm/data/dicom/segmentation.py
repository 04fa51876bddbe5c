"""Structures drawn on a series (DICOM SEG, RTSTRUCT) as a label map on its grid."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medldm.data.dicom.foreign import distrust
from medldm.data.dicom.geometry import LPS_TO_RAS, Grid, straighten
from medldm.data.dicom.headers import SEGMENTATION, Header
from medldm.data.dicom.pixels import iterate_frames, read_dataset
from medldm.data.dicom.series import Series
from medldm.data.dicom.tags import first, identifying, items, number, numbers, text, whole
from medldm.data.sources import BadCase, Stored
from medldm.volume import LIMIT_RATIO, Volume

#: A frame or contour belongs to a slice when it lies within this share of the gap from it.
NEAR = 0.1
#: Dates, years and numbers that are too long for anatomy.
NUMBERS = re.compile(r"\d{1,4}[.\-/]\d{1,2}[.\-/]\d{1,4}|\d{5,}|(?<!\d)(?:19|20)\d\d(?!\d)")
BEGINS, ENDS = r"(?:(?<![^\W_])|(?<=[a-z])(?=[A-Z]))", r"(?:(?![^\W_])|(?<=[a-z])(?=[A-Z0-9]))"  # of words, also in AnnaKoch2
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


@dataclass(frozen=True)
class Structures:
    """What an object draws, and on what.

    Args:
        header: the file, without its data.
        names: number in the file -> structure name.
        series_uids: series that it refers to.
        sop_uids: images that it refers to.
    """

    header: Header
    names: tuple[tuple[int, str], ...]
    series_uids: frozenset[str]
    sop_uids: frozenset[str]


@dataclass(frozen=True)
class Segmentation(Stored):
    """Structures as a label map on the grid of a series.

    Where structures overlap, the larger label value wins.

    Args:
        name: pseudonym.
        series: the images.
        objects: for each file its path and number in the file -> label value.
    """

    name: str
    series: Series
    objects: tuple[tuple[Path, tuple[tuple[int, int], ...]], ...]

    @property
    def short(self) -> str:
        """The pseudonym."""
        return self.name

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the structures."""
        return tuple(path for path, _ in self.objects)

    def read(self) -> Volume:
        """Label map [1 I J K] on the grid of the series as it is read; on a tilted one by the nearest pixel.

        A fractional segment counts where it is above one half, a contour holds the pixels whose centres lie inside, and contours of
        one structure on one slice are combined by exclusive or, so that an inner one is a hole.
        """
        grid = self.series.grid
        labels = np.zeros(grid.shape, np.float32)
        for path, values in self.objects:
            with distrust(self.name):
                dataset = read_dataset(path)
                paint = _paint_frames if text(dataset, "SOPClassUID") == SEGMENTATION else _paint_contours
                paint(dataset, dict(values), grid, labels, self.name)
        if not self.series.tilt_degrees:
            return Volume(torch.from_numpy(labels[None]), grid.matrix, "label")
        upright, starts = grid.straight()
        return Volume(torch.from_numpy(straighten(labels, starts, upright.shape, 0, nearest=True)[None]), upright.matrix, "label")


def structures_of(header: Header) -> Structures:
    """What the header of a SEG or RTSTRUCT says.

    Raises:
        BadCase: it is malformed, or draws nothing.
    """
    with distrust(""):
        data, series, images = header.data, set(), set()
        if header.sop_class == SEGMENTATION:
            if text(data, "SegmentationType").upper() not in ("BINARY", "FRACTIONAL"):
                raise BadCase("", "unsupported", "is a segmentation that is neither binary nor fractional.")
            names = [(whole(item, "SegmentNumber"), text(item, "SegmentLabel")) for item in items(data, "SegmentSequence")]
            references = items(data, "ReferencedSeriesSequence")
            drawn = {number for number, _ in names}
        else:
            names = [(whole(item, "ROINumber"), text(item, "ROIName")) for item in items(data, "StructureSetROISequence")]
            studies = [study for frame in items(data, "ReferencedFrameOfReferenceSequence") for study in items(frame, "RTReferencedStudySequence")]
            references = [one for study in studies for one in items(study, "RTReferencedSeriesSequence")]
            drawn = {whole(roi, "ReferencedROINumber") for roi in items(data, "ROIContourSequence") if any(_closed(roi))}
        for reference in references:
            series.add(text(reference, "SeriesInstanceUID"))
            for image in (*items(reference, "ReferencedInstanceSequence"), *items(reference, "ContourImageSequence")):
                images.add(text(image, "ReferencedSOPInstanceUID"))
        private = identifying(data)
        kept = tuple((n, _clean(name, private) or f"structure_{n}") for n, name in names if n in drawn)
        if not kept:
            raise BadCase("", "no_volume", "draws no structure.")
        return Structures(header.without_data(), kept, frozenset(series - {""}), frozenset(images - {""}))


def frame_places(dataset: Any) -> tuple[list[tuple[float, ...]], tuple[float, ...], tuple[float, ...]]:
    """Positions of the frames of a SEG, LPS mm, and the orientation and pixel spacing of the first.

    Raises:
        BadCase: it has no frame, or one that does not say where it lies.
    """
    shared = first(dataset, "SharedFunctionalGroupsSequence")
    found = [_where(shared, frame, "") for frame in items(dataset, "PerFrameFunctionalGroupsSequence")]
    if not found:
        raise BadCase("", "no_volume", "has no frame.")
    return [position for position, _, _ in found], *found[0][1:]


def label_values(structures: Iterable[Structures]) -> dict[str, int]:
    """Structure name -> label value: one for each name of an archive, 1, 2 ... in the order of the names."""
    names = sorted({name for one in structures for _, name in one.names})
    return {name: value for value, name in enumerate(names, start=1)}


def _clean(name: str, private: frozenset[str]) -> str:
    """A structure's name of letters, digits and `_`, without dates, long numbers and words that tell who the patient is."""
    name = NUMBERS.sub(" ", name)
    for word in sorted(private, key=len, reverse=True):
        name = re.sub(rf"{BEGINS}(?i:{re.escape(word)}){ENDS}", " ", name)
    return re.sub(r"[\W_]+", "_", name).strip("_")


def _closed(roi: Any) -> list[Any]:
    return [contour for contour in items(roi, "ContourSequence") if text(contour, "ContourGeometricType").upper() in CLOSED]


def _paint_frames(dataset: Any, values: dict[int, int], grid: Grid, labels: np.ndarray, name: str) -> None:
    """Put the frames of a SEG on the slices at their places [I J K]."""
    size = (whole(dataset, "Rows"), whole(dataset, "Columns"))
    shared, frames = first(dataset, "SharedFunctionalGroupsSequence"), items(dataset, "PerFrameFunctionalGroupsSequence")
    half = 0.5
    if text(dataset, "SegmentationType").upper() == "FRACTIONAL":
        half = 0.5 * (number(dataset, "MaximumFractionalValue") or 255)
    segment = [whole(_group(shared, frame, "SegmentIdentificationSequence"), "ReferencedSegmentNumber") for frame in frames]
    order = sorted(range(len(frames)), key=lambda n: values.get(segment[n], 0))
    claimed = -(-size[0] * size[1] * len(frames) * whole(dataset, "BitsAllocated") // 8)
    held = len(dataset.PixelData)
    if claimed > (held * LIMIT_RATIO if dataset.file_meta.TransferSyntaxUID.is_compressed else held):
        raise BadCase(name, "unreadable", f"is truncated: {held} of {claimed} bytes of pixels.")
    painted = 0
    for n, plane in zip(order, iterate_frames(dataset, order, size), strict=True):
        if segment[n] in values and (place := _place(shared, frames[n], grid, size, name)):
            k, i, j, u, v = place
            on_slice, inside = labels[:, :, k], np.greater(plane[np.ix_(v, u)].T, half)
            on_slice[np.ix_(i, j)] = np.where(inside, values[segment[n]], on_slice[np.ix_(i, j)])
            painted += 1
    if not painted:
        raise BadCase(name, "grid_mismatch", "has no frame on a slice of its series.")


def _group(shared: Any, frame: Any, keyword: str) -> Any:
    return first(frame, keyword) or first(shared, keyword)


def _place(
    shared: Any, frame: Any, grid: Grid, size: tuple[int, int], name: str
) -> tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Where a frame lies on the grid: slice k, voxels (i, j), and the frame's columns u and rows v there; None beyond its ends."""
    position, orientation, spacing = _where(shared, frame, name)
    axes = np.column_stack([np.array(orientation[:3]) * spacing[1], np.array(orientation[3:]) * spacing[0], position])
    index = np.linalg.inv(grid.matrix) @ LPS_TO_RAS @ np.vstack([axes, [0, 0, 1]])  # pixel (u, v, 1) -> voxel (i, j, k, 1)
    if abs(index[2, :2]) @ size[::-1] > NEAR or abs(index[0, 1]) * size[0] + abs(index[1, 0]) * size[1] > 0.5:
        raise BadCase(name, "grid_mismatch", "has a frame that lies turned against its series.")
    k = _slice(float(index[2, 2]), grid, name)
    if k is None:
        return None
    i, u = _nearest(index[0, 0], index[0, 2], grid.shape[0], size[1])
    j, v = _nearest(index[1, 1], index[1, 2], grid.shape[1], size[0])
    return k, i, j, u, v


def _where(shared: Any, frame: Any, name: str) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Position, orientation and pixel spacing of a frame."""
    position = numbers(_group(shared, frame, "PlanePositionSequence"), "ImagePositionPatient", 3)
    orientation = numbers(_group(shared, frame, "PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    spacing = numbers(_group(shared, frame, "PixelMeasuresSequence"), "PixelSpacing", 2)
    if position is None or orientation is None or spacing is None:
        raise BadCase(name, "no_position", "has a frame that does not say where it lies.")
    return position, orientation, spacing


def _nearest(scale: float, start: float, voxels: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Voxels along an axis that lie on pixels, and those pixels; pixel p lies at voxel scale * p + start."""
    at = np.rint((np.arange(voxels) - start) / scale).astype(int)
    inside = (at >= 0) & (at < pixels)
    return np.flatnonzero(inside), at[inside]


def _slice(k: float, grid: Grid, name: str) -> int | None:
    """The slice at height `k`; None above or below all slices."""
    if not -NEAR <= k <= grid.shape[2] - 1 + NEAR:
        return None
    if abs(k - round(k)) > NEAR:
        raise BadCase(name, "grid_mismatch", f"has a structure {abs(k - round(k)) * grid.gap:.3g} mm beside the nearest slice of its series.")
    return round(k)


def _paint_contours(dataset: Any, values: dict[int, int], grid: Grid, labels: np.ndarray, name: str) -> None:
    """Fill the contours of an RTSTRUCT on the slices at their places [I J K]."""
    from skimage.draw import polygon

    inverse = np.linalg.inv(grid.matrix) @ LPS_TO_RAS
    rois = sorted(items(dataset, "ROIContourSequence"), key=lambda roi: values.get(whole(roi, "ReferencedROINumber"), 0))
    painted = 0
    for roi in rois:
        masks: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(grid.shape[:2], bool))
        for contour in _closed(roi) if whole(roi, "ReferencedROINumber") in values else ():
            points = _points(contour, name) @ inverse[:3, :3].T + inverse[:3, 3]
            if np.ptp(points[:, 2]) > 2 * NEAR:
                raise BadCase(name, "grid_mismatch", "has contours that are not parallel to the slices of its series.")
            if (k := _slice(float(points[:, 2].mean()), grid, name)) is not None:
                masks[k][polygon(points[:, 0], points[:, 1], grid.shape[:2])] ^= True
        for k, mask in masks.items():
            labels[:, :, k][mask] = values[whole(roi, "ReferencedROINumber")]
        painted += len(masks)
    if not painted:
        raise BadCase(name, "grid_mismatch", "has no contour on a slice of its series.")


def _points(contour: Any, name: str) -> np.ndarray:
    """The points [N 3] of a contour, LPS mm."""
    data: Sequence[Any] = contour.get("ContourData") or ()
    points = np.array([float(value) for value in data])
    if len(points) < 9 or len(points) % 3 or not np.isfinite(points).all():
        raise BadCase(name, "unreadable", "has a contour without three points.")
    return points.reshape(-1, 3)
