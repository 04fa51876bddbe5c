"""Distances between two cohorts as distributions: features (MMD, Frechet) and intensities (Wasserstein)."""

from dataclasses import dataclass

import numpy as np

from medldm.metrics.base import Images, Metric, Score
from medldm.metrics.bootstrap import DRAWS, case_weights, interval, patient_draws
from medldm.metrics.features import feature_matrix

FRECHET_DRAWS = 500
BINS = 1024


def median_bandwidth(x: np.ndarray) -> float:
    """Median distance between two rows of x [n, d]: the usual bandwidth of a Gaussian kernel (Gretton 2012)."""
    distances = np.sqrt(_squared_distances(x, x))[np.triu_indices(len(x), 1)]
    return float(np.median(distances)) or 1.0


def mmd2(x: np.ndarray, y: np.ndarray, bandwidth: float) -> float:
    """Unbiased squared maximum mean discrepancy (Gretton 2012, eq. 3) with a Gaussian kernel; mean 0 for equal distributions.

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean k(x_i, y_j),  k = exp(-|a - b|^2 / (2 bandwidth^2))

    Args:
        x: samples [n, d], n >= 2.
        y: samples [m, d], m >= 2.
        bandwidth: of the kernel.
    """
    once = np.ones((1, len(x))), np.ones((1, len(y)))
    return float(_weighted_mmd2(x, y, bandwidth, np.arange(len(x)), np.arange(len(y)), once[0], once[1])[0])


def _weighted_mmd2(
    x: np.ndarray, y: np.ndarray, bandwidth: float, owner_x: np.ndarray, owner_y: np.ndarray, weights_x: np.ndarray, weights_y: np.ndarray
) -> np.ndarray:
    """MMD^2 of each row of case weights; pairs of one patient are left out, so that repeats in a resample do not count as likeness."""

    def within(z: np.ndarray, owner: np.ndarray, weights: np.ndarray) -> np.ndarray:
        others = (owner[:, None] != owner[None, :]).astype(np.float64)
        total = ((weights @ (_kernel(z, z, bandwidth) * others)) * weights).sum(1)
        pairs = ((weights @ others) * weights).sum(1)
        return np.divide(total, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)

    across = ((weights_x @ _kernel(x, y, bandwidth)) * weights_y).sum(1) / (weights_x.sum(1) * weights_y.sum(1))
    return within(x, owner_x, weights_x) + within(y, owner_y, weights_y) - 2 * across


def frechet_distance(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """Frechet distance of two Gaussians (Dowson & Landau 1982; Heusel 2017): |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)).

    Args:
        mean_a, mean_b: means [d].
        cov_a, cov_b: covariances [d, d], symmetric and positive semi-definite.
    """
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Frechet distance of two samples [n, d] and [m, d], with covariances shrunk after Ledoit & Wolf (2004) so that n < d works."""
    from sklearn.covariance import ledoit_wolf

    return frechet_distance(x.mean(0), ledoit_wolf(x)[0], y.mean(0), ledoit_wolf(y)[0])


def intensity_histograms(images: Images, edges: np.ndarray) -> np.ndarray:
    """Share of each case's voxels between two edges [cases, bins]; each row sums to 1, values outside stand in the outer bins."""
    rows = [np.histogram(images.image(i).clip(edges[0], edges[-1]), edges)[0] for i in range(len(images))]
    return np.stack([row / row.sum() for row in rows])


def intensity_edges(*groups: Images) -> np.ndarray:
    """Edges of 1024 equal bins over the range of all images."""
    images = [group.image(i) for group in groups for i in range(len(group))]
    low, high = min(float(i.min()) for i in images), max(float(i.max()) for i in images)
    return np.linspace(low, high if high > low else low + 1, BINS + 1)


@dataclass(frozen=True)
class FeatureDistance(Metric):
    """MMD^2 and Frechet distance of haar_v1 features, standardised by the reference: `mmd2_haar_v1`, `frechet_haar_v1`.

    Args:
        seed: of the bootstrap over the patients of both cohorts.
    """

    seed: int = 0

    def __call__(self, generated: Images, reference: Images) -> list[Score]:
        """Two scores, or none where a cohort has fewer than three cases."""
        if min(len(generated), len(reference)) < 3:
            return []
        x, y = feature_matrix(generated), feature_matrix(reference)
        mean, std = y.mean(0), y.std(0)
        x, y = ((z - mean) / np.where(std > 0, std, 1.0) for z in (x, y))
        n = len(set(generated.patients))
        return [
            Score("mmd2_haar_v1", *self._mmd(x, y, generated.patients, reference.patients), n),
            Score("frechet_haar_v1", *self._frechet(x, y, generated.patients, reference.patients), n),
        ]

    def _mmd(self, x: np.ndarray, y: np.ndarray, patients_x: list[str], patients_y: list[str]) -> tuple[float, float, float]:
        bandwidth = median_bandwidth(y)
        a, b = (np.unique(patients, return_inverse=True)[1] for patients in (patients_x, patients_y))
        value = float(_weighted_mmd2(x, y, bandwidth, a, b, np.ones((1, len(x))), np.ones((1, len(y))))[0])
        weights_x, weights_y = case_weights(patients_x, DRAWS, self.seed), case_weights(patients_y, DRAWS, self.seed + 1)
        return value, *interval(_weighted_mmd2(x, y, bandwidth, a, b, weights_x, weights_y), centre=value)

    def _frechet(self, x: np.ndarray, y: np.ndarray, patients_x: list[str], patients_y: list[str]) -> tuple[float, float, float]:
        value = frechet(x, y)
        drawn = [frechet(x[a], y[b]) for a, b in zip(_resamples(patients_x, self.seed), _resamples(patients_y, self.seed + 1), strict=True)]
        return value, *interval(drawn, centre=value)


@dataclass(frozen=True)
class IntensityDistance(Metric):
    """Wasserstein-1 distance between the intensities of two cohorts, each case with the same weight: `intensity_w1`.

    W1 = integral |F_generated - F_reference|, over 1024 bins of the common range (error below one bin).

    Args:
        seed: of the bootstrap over the patients of both cohorts.
    """

    seed: int = 0

    def __call__(self, generated: Images, reference: Images) -> list[Score]:
        """One score, in the unit of the images."""
        edges = intensity_edges(generated, reference)
        x, y = intensity_histograms(generated, edges), intensity_histograms(reference, edges)
        value = float(_wasserstein(x.mean(0), y.mean(0), edges))
        weights = case_weights(generated.patients, DRAWS, self.seed), case_weights(reference.patients, DRAWS, self.seed + 1)
        pooled_x, pooled_y = (w @ z / w.sum(1, keepdims=True) for w, z in zip(weights, (x, y), strict=True))
        low, high = interval(_wasserstein(pooled_x, pooled_y, edges), centre=value)
        return [Score("intensity_w1", value, max(0.0, low), high, len(set(generated.patients)), generated.cohort.unit)]


def _wasserstein(p: np.ndarray, q: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """W1 of histograms [..., bins] with the same edges."""
    return np.abs(np.cumsum(p - q, axis=-1)).sum(-1) * (edges[1] - edges[0])


def _resamples(patients: list[str], seed: int) -> list[np.ndarray]:
    """Case indexes of bootstrap samples of the patients."""
    names, owner = np.unique(patients, return_inverse=True)
    cases = [np.flatnonzero(owner == p) for p in range(len(names))]
    return [np.concatenate([cases[p] for p in row]) for row in patient_draws(len(names), FRECHET_DRAWS, seed)]


def _kernel(x: np.ndarray, y: np.ndarray, bandwidth: float) -> np.ndarray:
    return np.exp(-_squared_distances(x, y) / (2 * bandwidth**2))


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return ((x**2).sum(1)[:, None] + (y**2).sum(1)[None, :] - 2 * x @ y.T).clip(0)
