"""Named features of an image for the distances between cohorts: offline, deterministic, the same for every image size."""

import numpy as np

from medldm.metrics.base import Images

LEVELS = 3
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


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


def feature_matrix(images: Images) -> np.ndarray:
    """haar_v1 of each case [cases, features]; the channels of an image one after the other."""
    return np.stack([np.concatenate([haar_v1(channel) for channel in images.image(i)]) for i in range(len(images))])


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
