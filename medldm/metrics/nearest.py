"""Copies of training cases: how close the nearest training image is, beside the same for real images that were held out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medldm.metrics.base import Images, Metric, Score, block_means, centre_crop, common_size, not_computable
from medldm.metrics.bootstrap import summarise

LONGEST = 64
DEVIATIONS = 4.0
CLOSEST = 1 - 1e-6
SMOOTHING = 1.5  # voxels


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
        if len(reference) < 2 or not len(self.training):
            return [not_computable("copies", generated, "two held-out cases and a training case are needed")]
        found, real = self.similarities(generated, reference)
        threshold = copy_threshold(real)
        own, held_out = generated.patients, reference.patients
        return [
            summarise("nearest_train", found, own, seed=self.seed),
            summarise("nearest_train_real", real, held_out, seed=self.seed),
            summarise("copies_threshold", real, held_out, statistic=copy_threshold, seed=self.seed),
            summarise("copies", found > threshold, own, "cases", statistic=np.sum, seed=self.seed),
        ]

    def pairs(self, generated: Images, count: int) -> list[tuple[int, int, float]]:
        """The generated cases most like a training case, that case, and their similarity, most alike first."""
        size = common_size(self.training, generated)
        found = _rows(generated, size) @ _rows(self.training, size).T
        order = np.argsort(-found.max(1), kind="stable")[:count]
        return [(int(i), int(found[i].argmax()), float(found[i].max())) for i in order]

    def similarities(self, generated: Images, reference: Images) -> tuple[np.ndarray, np.ndarray]:
        """Similarity to the nearest training image of each generated and each held-out case."""
        size = common_size(self.training, generated, reference)
        training = _rows(self.training, size)
        return tuple((_rows(images, size) @ training.T).max(1).astype(np.float64) for images in (generated, reference))


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
