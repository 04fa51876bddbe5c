"""A grid of another spacing over the same field of view."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from medldm.data.steps.base import Step
from medldm.errors import UserError
from medldm.volume import Volume

UNCHANGED_MM = 1e-4


@dataclass(frozen=True)
class Resample(Step):
    """Interpolate to a spacing, axes and centre of the field of view unchanged.

    Images: linear interpolation. Where an axis gets coarser they are smoothed before by a Gaussian of variance
    (new^2 - old^2) / (8 ln 2), which turns a point spread as wide as the old voxel into one as wide as the new
    (Cardoso et al. 2015). Label maps: linear interpolation of each label on its own, then the label of the largest share;
    without smoothing, which would shrink what is small (a ball of 8 voxels radius still loses 7 % of its volume at half
    the resolution, where ties go to the background).

    Args:
        spacing: mm along I, J, K.
    """

    spacing: tuple[float, float, float]

    def __post_init__(self):
        if len(self.spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in self.spacing):
            raise UserError(f"spacing {self.spacing} is not three lengths in mm.", "Give for example --spacing '[1, 1, 1]'.")

    def __call__(self, volume: Volume) -> Volume:
        """Resample voxels [C I J K]; a volume of this spacing is returned as it is."""
        old, new = np.array(volume.spacing), np.array(self.spacing)
        if np.allclose(old, new, rtol=0, atol=UNCHANGED_MM):
            return volume
        shape = np.maximum(1, np.rint(np.array(volume.shape) * old / new)).astype(int)
        step = new / old
        offset = (np.array(volume.shape) - 1) / 2 - step * (shape - 1) / 2
        sigma = np.sqrt(np.maximum(new**2 - old**2, 0) / (8 * np.log(2))) / old

        def interpolate(voxels: np.ndarray) -> np.ndarray:
            return ndimage.affine_transform(voxels, step, offset, output_shape=tuple(shape), order=1, mode="nearest")

        channels = volume.data.numpy()
        if volume.unit == "label":
            data = np.stack([_largest_share(channel, interpolate) for channel in channels])
        else:
            data = np.stack([interpolate(ndimage.gaussian_filter(channel, sigma, mode="nearest")) for channel in channels])
        affine = volume.affine.copy()
        affine[:3, :3] *= step
        affine[:3, 3] += volume.affine[:3, :3] @ offset
        return Volume(torch.from_numpy(data), affine, volume.unit)


def _largest_share(labels: np.ndarray, interpolate: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The label with the largest interpolated share of each voxel; ties go to the smaller label."""
    values = np.unique(labels)
    best = interpolate((labels == values[0]).astype(np.float32))
    result = np.full(best.shape, values[0], labels.dtype)
    for value in values[1:]:
        share = interpolate((labels == value).astype(np.float32))
        result[share > best] = value
        best = np.maximum(best, share)
    return result
