"""Intensities to [-1, 1], per channel, so that one network serves all scanners. Label maps stay as they are."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from medldm.data.steps.base import Change, Step
from medldm.errors import UserError
from medldm.volume import Volume


@dataclass(frozen=True)
class PiecewiseLinear(Change):
    """Straight lines between knots, per channel; what lies outside the outer knots gets their value.

    Args:
        source: rising intensities of the knots, one tuple a channel.
        target: rising intensities that they become, within [-1, 1].
        unit: unit of the volume before; afterwards it is "a.u.".
    """

    source: tuple[tuple[float, ...], ...]
    target: tuple[tuple[float, ...], ...]
    unit: str

    def __call__(self, volume: Volume) -> Volume:
        """Map voxels [C I J K].

        Raises:
            UserError: the volume has another number of channels.
        """
        return self._mapped(volume, self.source, self.target, "a.u.")

    def undo(self, volume: Volume) -> Volume:
        """Back to the intensities before; those that had been clipped come back as the limit that they were clipped to.

        Raises:
            UserError: the volume has another number of channels.
        """
        return self._mapped(volume, self.target, self.source, self.unit)

    def _mapped(self, volume: Volume, of: tuple, to: tuple, unit: str) -> Volume:
        if volume.unit == "label":
            return volume
        if len(volume.data) != len(of):
            raise UserError(f"A volume has {len(volume.data)} channels; {len(of)} were expected.", "Give the channels of the prepared image.")
        channels = [_lines(channel, np.array(x), np.array(y)) for channel, x, y in zip(volume.data.numpy(), of, to, strict=True)]
        return replace(volume, data=torch.from_numpy(np.stack(channels)), unit=unit)


def _lines(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Straight lines through the knots: y_n + (y_n+1 - y_n) (v - x_n) / (x_n+1 - x_n), slab by slab to spare memory."""
    result = np.empty(values.shape, np.float32)
    for slab, out in zip(values, result, strict=True):
        if len(x) > 2:
            out[:] = np.interp(slab, x, y)
        else:  # in this order of operations both limits are met exactly
            out[:] = y[0] + (y[1] - y[0]) * np.clip((slab.astype(np.float64) - x[0]) / (x[1] - x[0]), 0, 1)
    return result


class Rescale(Step):
    """Clip to the limits of each channel and map them to [-1, 1]: y = 2 (x - low) / (high - low) - 1."""

    @abstractmethod
    def limits(self, volume: Volume) -> list[tuple[float, float]]:
        """(low, high) per channel, in the unit of the volume."""

    def plan(self, image: Volume, label: Volume | None = None) -> PiecewiseLinear:
        """The limits of this image.

        Raises:
            UserError: a channel is (almost) constant: its limits coincide.
        """
        if image.unit == "label":
            return PiecewiseLinear((), (), "label")
        limits = tuple(self.limits(image))
        if not all(high > low for low, high in limits):
            raise UserError(f"The image is almost constant: its intensity limits coincide at {[low for low, _ in limits]}.", "Take it out.")
        return PiecewiseLinear(limits, ((-1.0, 1.0),) * len(limits), image.unit)


@dataclass(frozen=True)
class Percentile(Rescale):
    """Limits at two percentiles of a channel: for arbitrary intensities such as MRI.

    Args:
        low: lower percentile, 0 to 100.
        high: upper percentile, above `low`.
        above: count only voxels above this intensity, or above the "mean" of the channel; by default all.
    """

    low: float = 0.5
    high: float = 99.5
    above: Literal["mean"] | float | None = None

    def __post_init__(self):
        if not 0 <= self.low < self.high <= 100:
            raise UserError(f"Percentiles {self.low} and {self.high} are not two rising numbers in 0 to 100.")

    def limits(self, volume: Volume) -> list[tuple[float, float]]:
        """The two percentiles of each channel."""
        return [tuple(float(v) for v in np.percentile(foreground(c, self.above), (self.low, self.high))) for c in volume.data.numpy()]


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
        return [(float(self.low), float(self.high))] * len(volume.data)


@dataclass(frozen=True)
class ZScore(Rescale):
    """Limits at mean - clip * sd and mean + clip * sd of the foreground, so that y = (x - mean) / (clip * sd), clipped.

    Args:
        clip: standard deviations that become 1.
        above: foreground is what lies above this intensity, or above the "mean" of the channel; None takes all voxels.
    """

    clip: float = 3.0
    above: Literal["mean"] | float | None = "mean"

    def __post_init__(self):
        if not (np.isfinite(self.clip) and self.clip > 0):
            raise UserError(f"clip {self.clip} is not a number of standard deviations above 0.")

    def limits(self, volume: Volume) -> list[tuple[float, float]]:
        """Mean -+ clip * sd of each channel's foreground."""
        limits = []
        for channel in volume.data.numpy():
            voxels = foreground(channel, self.above)
            mean, sd = float(voxels.mean(dtype=np.float64)), float(voxels.std(dtype=np.float64))
            limits.append((mean - self.clip * sd, mean + self.clip * sd))
        return limits


def foreground(channel: np.ndarray, above: Literal["mean"] | float | None) -> np.ndarray:
    """Intensities of a channel [I J K] above its mean, above a threshold, or all (None); one row.

    Raises:
        UserError: nothing lies above it.
    """
    if above is None:
        return channel.ravel()
    voxels = channel[channel > (channel.mean(dtype=np.float64) if above == "mean" else above)]
    if not len(voxels):
        raise UserError(f"No intensity lies above {above}.", "Lower the threshold, or take the case out.")
    return voxels
