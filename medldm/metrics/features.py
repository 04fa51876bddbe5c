"""Named features of images, for distances between cohorts: offline, pinned, the same for every image size."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from medldm.metrics.base import Images

LEVELS = 3
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class View:
    """What features see of a cohort from one side: whole volumes, or all slices of one orientation.

    Args:
        rows: features [rows, d].
        case: position of the case that each row belongs to [rows].
    """

    rows: np.ndarray
    case: np.ndarray

    def of_cases(self, cases: np.ndarray) -> "View":
        """The rows of some cases, given by their positions in increasing order."""
        mine = np.isin(self.case, cases)
        return View(self.rows[mine], np.searchsorted(cases, self.case[mine]))


class Features(ABC):
    """A named way to describe images by numbers.

    Args:
        name: stands in the names of scores, such as "haar_v1".
        sha256: of the weights; "" for a formula.
    """

    name: str
    sha256: str = ""

    @abstractmethod
    def views(self, images: Images) -> list[View]:
        """Features of every case, from every side that the distance is averaged over."""

    def of(self, images: Images) -> list[View]:
        """`views`, worked out once for the same images."""
        if self.name not in images.features:
            whole, cases = images.part_of or (None, None)
            images.features[self.name] = self.views(images) if whole is None else [view.of_cases(cases) for view in self.of(whole)]
        return images.features[self.name]

    def cases(self, images: Images) -> np.ndarray:
        """One row per case [cases, d]: means over its rows, the views one after the other."""
        means = []
        for view in self.of(images):
            total = np.zeros((len(images), view.rows.shape[1]))
            np.add.at(total, view.case, view.rows)
            means.append(total / np.bincount(view.case, minlength=len(images))[:, None])
        return np.concatenate(means, axis=1)

    def __str__(self) -> str:
        return f"{self.name} (sha256 {self.sha256})" if self.sha256 else self.name


class Haar(Features):
    """`haar_v1` of each case, the channels of an image one after the other."""

    name = "haar_v1"

    def views(self, images: Images) -> list[View]:
        """One row per case."""
        rows = [np.concatenate([haar_v1(channel) for channel in images.image(i)]) for i in range(len(images))]
        return [View(np.stack(rows), np.arange(len(images)))]


def haar_v1(image: np.ndarray) -> np.ndarray:
    """Texture and contrast of a 3-D image in 47 numbers ("haar_v1").

    Mean magnitude and standard deviation of each of the 7 detail bands of a 3-level orthonormal Haar transform (Mallat 1989),
    finest level first, then the intensity quantiles .05, .25, .5, .75 and .95. An odd axis loses its last voxel; an axis
    shorter than 8 voxels is first extended by its edge.

    Args:
        image: voxels [I J K].
    """
    rest = np.asarray(image, dtype=np.float64)
    quantiles = np.quantile(rest, QUANTILES)
    rest = np.pad(rest, [(0, max(0, 2**LEVELS - n)) for n in rest.shape], mode="edge")
    found = []
    for _ in range(LEVELS):
        rest, *details = _haar_bands(rest)
        found += [statistic for band in details for statistic in (np.abs(band).mean(), band.std())]
    return np.concatenate([found, quantiles])


def _haar_bands(x: np.ndarray) -> list[np.ndarray]:
    """The 8 bands of one level, the smooth one first."""
    bands = [x]
    for axis in range(3):
        halves = []
        for band in bands:
            even = np.moveaxis(band, axis, 0)[: band.shape[axis] // 2 * 2]
            first, second = even[::2], even[1::2]
            halves += [np.moveaxis(part / np.sqrt(2), 0, axis) for part in (first + second, first - second)]
        bands = halves
    return bands
