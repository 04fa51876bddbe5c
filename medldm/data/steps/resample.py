"""A grid of another spacing over the same field of view."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage

from medldm.data.plausible import SPACING_MM
from medldm.data.steps.base import Change, Step
from medldm.data.steps.grid import Grid, copied
from medldm.errors import UserError
from medldm.types import Shape3
from medldm.volume import Volume

UNCHANGED_MM = 1e-4


@dataclass(frozen=True)
class Resample(Step):
    """Interpolate to a spacing; axes and centre of the field of view stay, so that every landmark keeps its place.

    Images: cubic B-spline (Unser 1999), clipped per channel to the lowest and highest value that was there, so that its
    overshoot makes no new extremes. Where an axis gets coarser they are smoothed before by a Gaussian of variance
    (new^2 - old^2) / (8 ln 2), which turns a point spread as wide as the old voxel into one as wide as the new
    (Cardoso et al. 2015). Label maps: linear interpolation of each label on its own, then the label of the largest share;
    without smoothing, which would shrink what is small (a ball of 8 voxels radius still loses 7 % of its volume at half
    the resolution, where ties go to the smaller label).

    Args:
        spacing: mm along I, J, K, each from 0.05 to 20.

    Raises:
        UserError: these are not three such lengths.
    """

    spacing: tuple[float, float, float]

    def __post_init__(self):
        if len(self.spacing) != 3 or not all(SPACING_MM[0] <= s <= SPACING_MM[1] for s in self.spacing):
            raise UserError(
                f"spacing {self.spacing} is not three lengths from {SPACING_MM[0]:g} to {SPACING_MM[1]:g} mm.",
                "Give for example --spacing '[1, 1, 1]'.",
            )

    def plan(self, image: Volume, label: Volume | None = None) -> "Resampled":
        """The grid of the new spacing; the same grid where the spacing is this one already."""
        old, new = np.array(image.spacing), np.array(self.spacing)
        before = Grid.of(image)
        if np.allclose(old, new, rtol=0, atol=UNCHANGED_MM):
            return Resampled(before, before)
        shape = np.maximum(1, np.rint(np.array(image.shape) * old / new)).astype(int)
        step = new / old
        offset = (np.array(image.shape) - 1) / 2 - step * (shape - 1) / 2
        affine = image.affine.copy()
        affine[:3, :3] *= step
        affine[:3, 3] += image.affine[:3, :3] @ offset
        return Resampled(before, Grid.at(tuple(shape), affine))


@dataclass(frozen=True)
class Resampled(Change):
    """Voxels interpolated on a grid with the same axes.

    Args:
        before: the grid of the case.
        after: the grid that follows.
    """

    before: Grid
    after: Grid

    def __call__(self, volume: Volume) -> Volume:
        """Interpolate on the grid `after`.

        Raises:
            UserError: the volume is not on the grid `before`.
        """
        self.before.expect(volume)
        if self.before == self.after:
            return volume
        variance = np.maximum(self.after.spacing**2 - self.before.spacing**2, 0) / (8 * np.log(2))
        return _interpolated(volume, self.before, self.after, np.sqrt(variance) / self.before.spacing)

    def undo(self, volume: Volume) -> Volume:
        """Interpolate what the volume covers of the grid `before`; all of it where the volume is whole.

        Without smoothing: what comes from an image has no finer detail than that image.

        Raises:
            UserError: the volume is neither on the grid `after` nor on a part of it, or lies between the voxels of `before`.
        """
        first = self.after.find(volume)
        source = self.after.window(first, volume.shape)
        if self.before == self.after:
            return copied(volume, source, source)
        step, offset = _relation(self.after, self.before)
        start, shape = [], []
        for axis, count in enumerate(self.before.shape):
            at = offset[axis] + step[axis] * np.arange(count)  # places of the old voxels, counted in new voxels
            end = first[axis] + volume.shape[axis]
            low = first[axis] - 0.5 if first[axis] else -np.inf  # the border of the whole grid counts as inside, its voxels
            high = end - 0.5 if end < self.after.shape[axis] else np.inf  # never reach quite as far as those of the old grid
            inside = np.flatnonzero((at >= low) & (at < high))
            if not len(inside):
                raise UserError("A volume covers no voxel of the source.", "Give a larger part of the prepared grid.")
            start.append(int(inside[0]))
            shape.append(len(inside))
        return _interpolated(volume, source, self.before.window(tuple(start), tuple(shape)), np.zeros(3))


def _relation(source: Grid, target: Grid) -> tuple[np.ndarray, np.ndarray]:
    """(step, offset) per axis with source index = offset + step * target index."""
    index = np.linalg.solve(source.matrix, target.matrix)
    if not np.allclose(index[:3, :3], np.diag(np.diag(index)[:3]), rtol=0, atol=1e-6):
        raise UserError("Two grids do not have the same axes.", "Restore the record of the steps from a copy.")
    return np.diag(index)[:3].copy(), index[:3, 3]


def _interpolated(volume: Volume, source: Grid, target: Grid, sigma: np.ndarray) -> Volume:
    """Voxels [C I J K] of `source` on `target`, images smoothed before by `sigma` voxels [3]."""
    step, offset = _relation(source, target)
    if volume.unit == "label":
        at = [np.clip(o + s * np.arange(m), 0, n - 1) for o, s, m, n in zip(offset, step, target.shape, source.shape, strict=True)]
        data = np.stack([_largest_share(channel, at) for channel in volume.data.numpy()])
    else:
        data = np.stack([_spline(channel, step, offset, target.shape, sigma) for channel in volume.data.numpy()])
    return replace(volume, data=torch.from_numpy(data), affine=target.matrix.copy())


def _spline(image: np.ndarray, step: np.ndarray, offset: np.ndarray, shape: Shape3, sigma: np.ndarray) -> np.ndarray:
    smooth = ndimage.gaussian_filter(image, sigma, mode="nearest") if sigma.any() else image
    result = ndimage.affine_transform(smooth, step, offset, output_shape=shape, order=3, mode="nearest", output=np.float32)
    return np.clip(result, image.min(), image.max(), out=result)


def _largest_share(labels: np.ndarray, at: list[np.ndarray]) -> np.ndarray:
    """The label with the largest interpolated share at each place; ties go to the smaller label.

    Each label is interpolated only where it can have a share, which makes many small labels as cheap as a few.

    Args:
        labels: label map [I J K].
        at: rising places along each axis, counted in voxels, within the map.
    """
    smallest = labels.min()
    boxes = ndimage.find_objects((labels - smallest).astype(np.int32) + 1)
    best = np.zeros([len(a) for a in at], np.float32)
    result = np.zeros(best.shape, labels.dtype)
    for value, box in enumerate(boxes, start=int(smallest)):
        if box is None:
            continue
        reach = tuple(slice(int(a.searchsorted(b.start - 1, "right")), int(a.searchsorted(b.stop, "left"))) for a, b in zip(at, box, strict=True))
        wide = tuple(slice(max(0, b.start - 1), b.stop + 1) for b in box)
        share = (labels[wide] == value).astype(np.float32)
        for axis, (a, r, w) in enumerate(zip(at, reach, wide, strict=True)):
            share = _linear(share, axis, a[r] - w.start)
        larger = share > best[reach]
        result[reach][larger] = value
        best[reach][larger] = share[larger]
    return result


def _linear(values: np.ndarray, axis: int, at: np.ndarray) -> np.ndarray:
    """Linear interpolation along one axis at places within it."""
    lower = np.floor(at).astype(int)
    weight = (at - lower).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
    upper = np.minimum(lower + 1, values.shape[axis] - 1)
    return values.take(lower, axis) * (1 - weight) + values.take(upper, axis) * weight
