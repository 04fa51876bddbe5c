"""Series of DICOM images as volumes that are searched for a face: all planes of one orientation, whatever their gaps, tilt and contrasts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from medldm.data.dicom.foreign import distrust
from medldm.data.dicom.grouping import SAME_AXES
from medldm.data.dicom.pixels import read_planes
from medldm.data.dicom.tags import items, text, whole
from medldm.data.sources import BadCase
from medldm.privacy.faces import FEW_PIXELS, FEW_SLICES, SMALL, UNKNOWN, Finding, look, may_show_face
from medldm.privacy.slices import Slice, slices_of
from medldm.volume import Volume

FINEST_MM = (1.0, 2.0, 2.0)  # from slice to slice, row and column of a volume that is searched; the search itself looks at 4 mm
SAME_PLACE = 1  # decimals of mm of the heights of slices; those of one height are contrasts of one place


def search(paths: Sequence[Path]) -> list[tuple[Finding, ...]]:
    """Look for faces in a series, one orientation after the other.

    Args:
        paths: its files, in order.

    Returns:
        For each file, what was found in the volumes that it is a part of.
    """
    from pydicom import dcmread

    found: list[dict[Finding, None]] = [{} for _ in paths]
    slices: list[Slice] = []
    odd: set[int] = set()  # files whose stored values are no intensities
    nowhere: dict[int, int] = {}  # file without a place in space -> planes that could be those of a face
    for number, path in enumerate(paths):
        try:
            with distrust(""):
                dataset = dcmread(path, stop_before_pixels=True, force=True)
                large = min(whole(dataset, "Rows"), whole(dataset, "Columns")) >= FEW_PIXELS
                nowhere[number] = whole(dataset, "NumberOfFrames", 1) if large else 0
                odd |= set() if _is_plain(dataset) else {number}
                own = list(slices_of(dataset, number))
                slices += own
                if own:
                    del nowhere[number]
        except BadCase:
            nowhere.setdefault(number, FEW_SLICES)
    for number in nowhere:
        found[number][Finding(SMALL if sum(nowhere.values()) < FEW_SLICES else UNKNOWN)] = None
    for stack in _stacks(slices):
        try:
            with distrust(""):
                shown = _search(stack, paths, odd)
        except BadCase:
            shown = dict.fromkeys((one.file for one in stack), Finding(UNKNOWN))
        for number, finding in shown.items():
            found[number][finding] = None
    return [tuple(findings) for findings in found]


@dataclass(frozen=True)
class _Stack:
    """Slices of one orientation.

    Args:
        slices: in any order; several may lie in one place.
    """

    slices: tuple[Slice, ...]

    @cached_property
    def axes(self) -> np.ndarray:
        """Unit vectors across the planes, down their rows and along their columns, as columns [3 3]."""
        return self.slices[0].axes

    @cached_property
    def chosen(self) -> list[Slice]:
        """One slice of each height, upwards; of several contrasts, the same one everywhere."""
        by_height: dict[float, Slice] = {}
        for one in sorted(self.slices, key=lambda one: one.telling):
            by_height.setdefault(round(float(one.affine[:3, 3] @ self.axes[:, 0]), SAME_PLACE), one)
        return [by_height[height] for height in sorted(by_height)]

    @cached_property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and highest centres of pixels along the axes, mm [3] each."""
        ends = [(one.affine @ [0, *end, 1])[:3] @ self.axes for one in self.slices for end in ((0, 0), np.array(one.size) - 1)]
        return np.min(ends, 0), np.max(ends, 0)

    @cached_property
    def step(self) -> np.ndarray:
        """Millimetres between most slices, between rows and between columns [3]."""
        heights = [float(one.affine[:3, 3] @ self.axes[:, 0]) for one in self.chosen]
        gap = float(np.median(np.diff(heights))) if len(heights) > 1 else 0.0
        return np.array([gap, *np.linalg.norm(self.slices[0].affine[:3, 1:3], axis=0)])

    @property
    def may_show_face(self) -> bool:
        """False where it is too small."""
        low, high = self.box
        size = np.max([one.size for one in self.slices], 0)
        return may_show_face((len(self.chosen), *size), high - low + self.step)

    def volume(self, paths: Sequence[Path]) -> tuple[Volume, set[int]]:
        """The chosen slices on an upright grid, linear between them, and the numbers of files that could not be read."""
        low, high = self.box
        pitch = np.maximum(self.step, FINEST_MM)
        shape = np.ceil((high - low) / pitch).astype(int) + 1
        planes = np.full((len(self.chosen), *shape[1:]), np.nan, np.float32)
        bad = set()
        for number in {one.file for one in self.chosen}:
            own = [k for k, one in enumerate(self.chosen) if one.file == number]
            try:
                frames = read_planes(paths[number], [self.chosen[k].frame for k in own], self.chosen[own[0]].whole, "")
                for k, frame in zip(own, frames, strict=True):
                    planes[k] = _resampled(self.chosen[k], frame, self.axes, low[1:], pitch[1:], shape[1:])
            except BadCase:
                bad.add(number)
        heights = np.array([float(one.affine[:3, 3] @ self.axes[:, 0]) for one in self.chosen])
        at = np.interp(low[0] + pitch[0] * np.arange(shape[0]), heights, np.arange(len(heights)))
        below = np.minimum(at.astype(int), len(heights) - 2)
        weight = (at - below).astype(np.float32)[:, None, None]
        voxels = planes[below] * (1 - weight) + planes[below + 1] * weight
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = self.axes * pitch, self.axes @ low
        filled = np.where(np.isnan(voxels), np.nanmin(planes, initial=np.inf), voxels)
        return Volume(torch.from_numpy(filled)[None], affine, self.chosen[0].unit), bad


def _is_plain(dataset: Any) -> bool:
    """True where stored values are intensities, up to slope and intercept."""
    plain = text(dataset, "PhotometricInterpretation") == "MONOCHROME2" and whole(dataset, "SamplesPerPixel", 1) == 1
    return plain and not items(dataset, "ModalityLUTSequence")


def _stacks(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices by orientation, with tolerance for rounding."""
    stacks: list[list[Slice]] = []
    for one in slices:
        same = (stack for stack in stacks if np.abs(stack[0].axes - one.axes).max() < SAME_AXES)
        if (stack := next(same, None)) is None:
            stacks.append([one])
        else:
            stack.append(one)
    return stacks


def _search(slices: Sequence[Slice], paths: Sequence[Path], bad: set[int]) -> dict[int, Finding]:
    """What a stack shows, for each of its files; those that cannot be read take no part.

    Args:
        slices: of one orientation.
        paths: of the files.
        bad: numbers of files that are of no use.
    """
    files = {one.file for one in slices}
    if not _Stack(tuple(slices)).may_show_face:
        return dict.fromkeys(files, Finding(SMALL))
    lost = dict.fromkeys(files & bad, Finding(UNKNOWN))
    good = _Stack(tuple(one for one in slices if one.file not in bad))
    if not good.slices:
        return lost
    if not good.may_show_face:
        return {**dict.fromkeys(files - bad, Finding(SMALL)), **lost}
    volume, unread = good.volume(paths)
    if unread:
        return _search(slices, paths, bad | unread)
    return {**dict.fromkeys(files - bad, look(volume)), **lost}


def _resampled(one: Slice, frame: np.ndarray, axes: np.ndarray, low: np.ndarray, pitch: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Intensities of a slice on the rows and columns of the grid, smoothed where these are wider; NaN outside.

    Raises:
        BadCase: they are beyond all bounds.
    """
    spacing = np.linalg.norm(one.affine[:3, 1:3], axis=0)
    with np.errstate(over="ignore"):  # found below
        values = (one.of(frame) * one.scale[0] + one.scale[1]).astype(np.float32)
    if not np.isfinite(values).all():
        raise BadCase("", "unreadable", "has intensities beyond all bounds (its rescale slope is damaged).")
    smooth = ndimage.gaussian_filter(values, np.sqrt(np.maximum((pitch / spacing) ** 2 - 1, 0) / (8 * np.log(2))), mode="nearest")
    offset = (low - (one.affine[:3, 3] @ axes)[1:]) / spacing
    return ndimage.affine_transform(smooth, np.diag(pitch / spacing), offset, output_shape=tuple(shape), order=1, mode="constant", cval=np.nan)
