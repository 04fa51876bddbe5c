"""One intensity scale for a cohort, learned from its histograms."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from medldm.data.steps.base import Step
from medldm.data.steps.intensity import PiecewiseLinear, foreground
from medldm.errors import UserError
from medldm.volume import Volume

PERCENTILES = (1, *range(10, 100, 10), 99)


@dataclass(frozen=True)
class Nyul(Step):
    """Bring the deciles of each image to those of the cohort (Nyúl & Udupa 1999; with deciles, Nyúl, Udupa & Zhang 2000).

    Percentiles 1, 10, 20 ... 90, 99 of each training image are mapped linearly so that the first becomes -1 and the last 1; their
    means over the images are the landmarks. An image is mapped by straight lines from its percentiles to the landmarks; what
    lies outside percentiles 1 and 99 is clipped.

    Args:
        landmarks: 11 rising numbers from -1 to 1 per channel, as `fit` finds them; give those of another cohort to share its scale.
        above: count only voxels above this intensity, or above the "mean" of the channel; by default all.
    """

    landmarks: tuple[tuple[float, ...], ...] = ()
    above: Literal["mean"] | float | None = None

    def __post_init__(self):
        for channel in self.landmarks:
            if len(channel) != len(PERCENTILES) or not (np.diff(channel) >= 0).all() or not -1 <= channel[0] <= channel[-1] <= 1:
                raise UserError(f"The landmarks {channel} are not {len(PERCENTILES)} rising numbers from -1 to 1.", "Leave them out, to learn them.")

    def fit(self, images: Iterable[Volume]) -> "Nyul":
        """The landmarks of a cohort, where none are given.

        Raises:
            UserError: there is no image, an image is almost constant, or images differ in their number of channels.
        """
        if self.landmarks:
            return self
        total, count = np.zeros(0), 0
        for image in images:
            knots = np.array([self._percentiles(channel) for channel in image.data.numpy()])
            scaled = 2 * (knots - knots[:, :1]) / (knots[:, -1:] - knots[:, :1]) - 1
            if count and scaled.shape != total.shape:
                raise UserError(f"An image has {len(scaled)} channels; those before it have {len(total)}.")
            total, count = (total + scaled if count else scaled), count + 1
        if not count:
            raise UserError("There is no training image to learn an intensity scale from.", "Prepare with more cases, or give the landmarks.")
        return replace(self, landmarks=tuple(tuple(float(v) for v in channel) for channel in total / count))

    def plan(self, image: Volume, label: Volume | None = None) -> PiecewiseLinear:
        """Lines from the percentiles of this image to the landmarks.

        Raises:
            UserError: no landmarks are known, for another number of channels, or a channel is almost constant.
        """
        if image.unit == "label":
            return PiecewiseLinear((), (), "label")
        if len(self.landmarks) != len(image.data):
            raise UserError(f"Nyul knows the landmarks of {len(self.landmarks)} channels; the image has {len(image.data)}.", "Fit it to a cohort.")
        lines = [_rising(self._percentiles(channel), np.array(marks)) for channel, marks in zip(image.data.numpy(), self.landmarks, strict=True)]
        return PiecewiseLinear(tuple(source for source, _ in lines), tuple(target for _, target in lines), image.unit)

    def _percentiles(self, channel: np.ndarray) -> np.ndarray:
        knots = np.percentile(foreground(channel, self.above), PERCENTILES)
        if not knots[-1] > knots[0]:
            raise UserError(f"The image is almost constant: its percentiles 1 and 99 coincide at {knots[0]}.", "Take it out.")
        return knots


def _rising(source: np.ndarray, target: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The knots without those that the next one repeats in either scale: many voxels of air share one intensity."""
    smallest = 1e-9 * (source[-1] - source[0])
    keep = [n for n in range(len(source)) if n == len(source) - 1 or (source[n + 1] - source[n] > smallest and target[n + 1] - target[n] > 1e-9)]
    if len(keep) < 2:
        raise UserError("The image is almost constant between all landmarks of the cohort.", "Take it out.")
    return tuple(float(v) for v in source[keep]), tuple(float(v) for v in target[keep])
