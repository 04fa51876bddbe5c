"""Intensities in 16 bits, as DICOM stores them: what is written, and what everybody reads from it again."""

from dataclasses import dataclass

import numpy as np
import torch

from medldm.volume import Volume

LARGEST = 65535


@dataclass(frozen=True)
class Rounded:
    """One contrast: intensity = slope * stored value + intercept.

    Slope and intercept are the texts that stand in the file, so that every reader computes the same float32 voxels.

    Args:
        stored: uint16 [I J K].
        slope: the step between two intensities.
        intercept: the smallest intensity.
        source: what was rounded [1 I J K].
    """

    stored: np.ndarray
    slope: str
    intercept: str
    source: Volume

    @property
    def volume(self) -> Volume:
        """What a reader gets, its place in the float32 of NIfTI headers."""
        voxels = (self.stored.astype(np.float64) * float(self.slope) + float(self.intercept)).astype(np.float32)
        affine = self.source.affine.astype(np.float32).astype(np.float64)
        return Volume(torch.from_numpy(voxels[None]), affine, self.source.unit)


def rounded(volume: Volume) -> list[Rounded]:
    """Each contrast within half a step of 1/65535 of its range; exact where all intensities are whole numbers, as HU are.

    Args:
        volume: an image [C I J K] of finite voxels.
    """
    return [_rounded(volume.with_data(volume.data[channel : channel + 1])) for channel in range(len(volume.data))]


def _rounded(contrast: Volume) -> Rounded:
    voxels = contrast.data[0].numpy().astype(np.float64)
    low, high = float(voxels.min()), float(voxels.max())
    whole = high - low <= LARGEST and bool((voxels == np.rint(voxels)).all())
    slope = "1" if whole or low == high else f"{(high - low) / LARGEST:.9g}"  # 9 digits fit into DS, and hold any float32
    intercept = f"{low:.9g}"
    stored = np.rint((voxels - float(intercept)) / float(slope)).clip(0, LARGEST)
    return Rounded(stored.astype(np.uint16), slope, intercept, contrast)


def half_turn(volume: Volume) -> Volume:
    """The same in space with I and J counted from their other ends: RAS+ axes become left, posterior, superior, and back again."""
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :2] @ (np.array(volume.shape[:2]) - 1)
    affine[:3, :2] *= -1
    return Volume(volume.data.flip(1, 2), affine, volume.unit)
