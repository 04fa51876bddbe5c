"""Copies of training cases: how close the nearest training image is, beside the same for real images that were held out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medldm.metrics.base import Images, Metric, Score, block_means, centre_crop, common_size, not_computable
from medldm.metrics.bootstrap import summarise, summarise_share

LONGEST = 64
DEVIATIONS = 4.0
CLOSEST = 1 - 1e-6
SMOOTHING = 1.5  # voxels


@dataclass(frozen=True)
class Likeness:
    """Pearson correlations of images with training images, all of them cut to one box.

    Args:
        generated: of each generated with each training image [n, training].
        held_out: of each held-out real image with each training image [m, training].
    """

    generated: np.ndarray
    held_out: np.ndarray

    @property
    def threshold(self) -> float:
        """Above it a generated case is a copy; nan where fewer than two cases were held out."""
        return copy_threshold(self.held_out.max(1)) if len(self.held_out) > 1 else math.nan

    def closest(self, count: int) -> list[tuple[int, int, float]]:
        """The generated cases most like a training case, that case, and their correlation, most alike first."""
        order = np.argsort(-self.generated.max(1), kind="stable")[:count]
        return [(int(i), int(self.generated[i].argmax()), float(self.generated[i].max())) for i in order]


@dataclass(frozen=True)
class NearestTraining(Metric):
    """Largest Pearson correlation of each image with any training image.

    `nearest_train` (mean over generated), `nearest_train_real` (mean over held-out real), `copies_threshold` (4 standard deviations
    above the mean of the held-out real, on Fisher's scale) and `copies` (generated cases above it). Images are cut to the box, around
    the centre, that fits into all of them, and smoothed: a generated image without noise would correlate more with any image than a
    real one does. It finds whole-image copies; a copied detail or a shifted, turned or mirrored copy escapes it.

    Args:
        training: the images that the generator was trained on.
        seed: of the bootstrap over patients.
    """

    training: Images
    seed: int = 0

    def __call__(self, generated: Images, reference: Images) -> list[Score]:
        """Four scores; `reference` holds the held-out real cases, without two of which there is no threshold."""
        return self.scores(self.likeness(generated, reference), generated, reference)

    def likeness(self, generated: Images, reference: Images) -> Likeness:
        """How much the images of both groups look like the training images."""
        size = common_size(self.training, generated, reference)
        training = _rows(self.training, size)
        return Likeness(*((_rows(images, size) @ training.T).astype(np.float64) for images in (generated, reference)))

    def scores(self, likeness: Likeness, generated: Images, reference: Images) -> list[Score]:
        """The scores of a likeness that is known; see `__call__`."""
        found, real, threshold = likeness.generated.max(1), likeness.held_out.max(1), likeness.threshold
        own, held_out = generated.patients, reference.patients
        near = [summarise("nearest_train", found, own, seed=self.seed), summarise("nearest_train_real", real, held_out, seed=self.seed)]
        if np.isnan(threshold):
            return near + [not_computable(name, generated, "two held-out cases are needed") for name in ("copies_threshold", "copies")]
        return [
            *near,
            summarise("copies_threshold", real, held_out, statistic=copy_threshold, seed=self.seed),
            summarise_share("copies", found > threshold, own, "cases"),
        ]


def copy_threshold(real: np.ndarray) -> float:
    """tanh(mean + 4 standard deviations) of artanh of the held-out similarities [n], which keeps it below 1 (Fisher 1915)."""
    z = np.arctanh(np.clip(real, None, CLOSEST))
    return float(np.tanh(np.mean(z) + DEVIATIONS * np.std(z, ddof=1)))


def _rows(images: Images, size: Sequence[int]) -> np.ndarray:
    """Each image as a row of mean 0 and length 1, so that a product of rows is a Pearson correlation.

    Axes above 64 voxels are averaged in blocks first: a copy survives it, and the memory stays small.
    """
    block = -(-max(size) // LONGEST)
    rows = []
    for i in range(len(images)):
        voxels = ndimage.gaussian_filter(centre_crop(images.image(i), size), (0, SMOOTHING, SMOOTHING, SMOOTHING))
        voxels = block_means(voxels, block)
        row = voxels.ravel() - voxels.mean()
        rows.append(row / max(float(np.linalg.norm(row)), 1e-12))
    return np.stack(rows)
