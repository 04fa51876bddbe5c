"""Intensities to [-1, 1], per channel, so that one network serves all scanners."""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch

from medldm.data.steps.base import Step
from medldm.errors import UserError
from medldm.volume import Volume


class Rescale(Step):
    """Clip to the limits of each channel and map them to [-1, 1]: y = 2 (x - low) / (high - low) - 1. Labels stay as they are."""

    @abstractmethod
    def limits(self, volume: Volume) -> list[tuple[float, float]]:
        """(low, high) per channel, in the unit of the volume."""

    def __call__(self, volume: Volume) -> Volume:
        """Scale voxels [C I J K] to [-1, 1].

        Raises:
            UserError: a channel is (almost) constant: its limits coincide.
        """
        if volume.unit == "label":
            return volume
        low, high = (column[:, None, None, None] for column in torch.tensor(self.limits(volume), dtype=torch.float64).T)
        if not bool((high > low).all()):
            raise UserError(f"The image is almost constant: its intensity limits coincide at {low.flatten().tolist()}.", "Take it out.")
        scaled = 2 * (volume.data.double() - low) / (high - low) - 1
        return Volume(scaled.clamp(-1, 1).float(), volume.affine, "a.u.")


@dataclass(frozen=True)
class Percentile(Rescale):
    """Limits at two percentiles of all voxels of a channel: for arbitrary intensities such as MRI.

    Args:
        low: lower percentile, 0 to 100.
        high: upper percentile, above `low`.
    """

    low: float = 0.5
    high: float = 99.5

    def __post_init__(self):
        if not 0 <= self.low < self.high <= 100:
            raise UserError(f"Percentiles {self.low} and {self.high} are not two rising numbers in 0 to 100.")

    def limits(self, volume: Volume) -> list[tuple[float, float]]:
        """The two percentiles of each channel."""
        return [tuple(float(v) for v in np.percentile(channel.numpy(), (self.low, self.high))) for channel in volume.data]


@dataclass(frozen=True)
class Window(Rescale):
    """Fixed limits for all images: for calibrated intensities such as HU.

    Args:
        low: value that becomes -1.
        high: value that becomes 1.
    """

    low: float
    high: float

    def __post_init__(self):
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise UserError(f"The window {self.low} to {self.high} is empty.", "Give for example --window '[-20, 100]'.")

    def limits(self, volume: Volume) -> list[tuple[float, float]]:
        """The window, once per channel."""
        return [(self.low, self.high)] * len(volume.data)
