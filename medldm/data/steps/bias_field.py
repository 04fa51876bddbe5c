"""The smooth shading of MRI, estimated and divided out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import ndimage

from medldm.data.steps.base import Change, Step
from medldm.errors import UserError
from medldm.types import Shape3
from medldm.volume import Volume

NODES = 13  # of the lattice, along each axis: N4's last level has 8 spans
DIGITS = 4  # of the logarithm: 0.01 % of an intensity


@dataclass(frozen=True)
class BiasField(Step):
    """Divide each channel by its shading, as N4 estimates it (Tustison et al. 2010) on a coarser image; for MRI alone.

    Shading outside the mask, where N4 only extrapolates, is held within the range it has inside.

    Args:
        resolution: mm of the voxels that N4 works on; the image is averaged down to about this.
        iterations: at most this many per level; each level has twice as many spline spans as the one before, beginning with 1.
        mask: voxels that N4 uses: above the threshold of Otsu (1979) or above the "mean"; intensities up to 0 never count.
    """

    resolution: float = 6.0
    iterations: tuple[int, ...] = (50, 50, 50, 50)
    mask: Literal["otsu", "mean"] = "otsu"

    def __post_init__(self):
        if not (np.isfinite(self.resolution) and self.resolution > 0):
            raise UserError(f"resolution {self.resolution} is not a length in mm.")
        if not self.iterations or min(self.iterations) < 1:
            raise UserError(f"iterations {self.iterations} are not whole numbers of at least 1, one per level.")
        if self.mask not in ("otsu", "mean"):
            raise UserError(f"mask {self.mask!r} is neither 'otsu' nor 'mean'.")

    def plan(self, image: Volume, label: Volume | None = None) -> "Shading":
        """Estimate the shading of each channel; one thread, so that equal images have equal estimates.

        Raises:
            UserError: a channel has no positive intensities to estimate it from.
        """
        nodes = tuple(min(NODES, 2 * n) for n in image.shape)
        scale = (np.array(image.shape) - 1) / np.maximum(np.array(nodes) - 1, 1)
        affine = image.affine @ np.diag([*np.where(scale > 0, scale, 1), 1.0])
        fields = [self._lattice(channel.numpy(), image.spacing, nodes) for channel in image.data]
        rounded = tuple(tuple(float(v) for v in field.round(DIGITS).ravel()) for field in fields)
        return Shading(tuple(tuple(float(a) for a in row) for row in affine), nodes, rounded)

    def _lattice(self, channel: np.ndarray, spacing: tuple[float, ...], nodes: Shape3) -> np.ndarray:
        """Logarithm of the shading at nodes from the first voxel to the last of each axis."""
        import SimpleITK as sitk

        shrink = [max(1, min(n // 4, round(self.resolution / s))) for n, s in zip(channel.shape, spacing, strict=True)]
        with _one_thread():
            whole = sitk.GetImageFromArray(channel.astype(np.float32))
            whole.SetSpacing(spacing[::-1])
            small = sitk.BinShrink(whole, shrink[::-1])
            inside = self._inside(sitk.GetArrayViewFromImage(small))
            mask = sitk.GetImageFromArray(inside.astype(np.uint8))
            mask.CopyInformation(small)
            n4 = sitk.N4BiasFieldCorrectionImageFilter()
            n4.SetMaximumNumberOfIterations(list(self.iterations))
            n4.Execute(small, mask)
            field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(small))
        limits = field[inside].min(), field[inside].max()
        places = [(np.linspace(0, n - 1, m) - (s - 1) / 2) / s for n, m, s in zip(channel.shape, nodes, shrink, strict=True)]
        values = ndimage.map_coordinates(field, np.meshgrid(*places, indexing="ij"), order=3, mode="nearest", output=np.float64)
        return np.clip(values, *limits)

    def _inside(self, image: np.ndarray) -> np.ndarray:
        from skimage.filters import threshold_otsu

        inside = (image > (threshold_otsu(image.ravel()) if self.mask == "otsu" else image.mean())) & (image > 0)
        if not inside.any():
            raise UserError("The image has no positive intensities to estimate its shading from.", "Correct the bias before intensities are scaled.")
        return inside


@dataclass(frozen=True)
class Shading(Change):
    """Intensities divided by exp(field); the field is a cubic B-spline through the nodes of a lattice in space.

    Args:
        affine: index of a node -> RAS+ millimetres, 4 rows of 4 numbers.
        nodes: number of nodes along each axis.
        logarithms: of the shading at the nodes, last axis fastest, one tuple a channel.
    """

    affine: tuple[tuple[float, ...], ...]
    nodes: Shape3
    logarithms: tuple[tuple[float, ...], ...]

    def __call__(self, volume: Volume) -> Volume:
        """Divide voxels [C I J K] by the shading at their places.

        Raises:
            UserError: the volume has another number of channels.
        """
        return self._scaled(volume, -1.0)

    def undo(self, volume: Volume) -> Volume:
        """Multiply by the same shading, for a volume on any grid: nothing but rounding is lost.

        Raises:
            UserError: the volume has another number of channels.
        """
        return self._scaled(volume, 1.0)

    def _scaled(self, volume: Volume, sign: float) -> Volume:
        if volume.unit == "label":
            return volume
        if len(volume.data) != len(self.logarithms):
            raise UserError(f"A volume has {len(volume.data)} channels; {len(self.logarithms)} were expected.", "Give those of the prepared image.")
        index = np.linalg.solve(np.array(self.affine), volume.affine)
        factors = []
        for channel in self.logarithms:
            lattice = np.array(channel).reshape(self.nodes)
            field = ndimage.affine_transform(lattice, index[:3, :3], index[:3, 3], output_shape=volume.shape, order=3, mode="nearest")
            factors.append(torch.from_numpy(np.exp(sign * field).astype(np.float32)))
        return volume.with_data(volume.data * torch.stack(factors))


@contextmanager
def _one_thread() -> Iterator[None]:
    """ITK sums over threads in an order that varies; with one thread it does not."""
    import SimpleITK as sitk

    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
