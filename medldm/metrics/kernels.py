"""Maximum mean discrepancies of two samples: unbiased, with intervals over patients."""

from collections.abc import Callable

import numpy as np

from medldm.metrics.bootstrap import DRAWS, case_weights, interval

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


def median_bandwidth(x: np.ndarray) -> float:
    """Median distance between two rows of x [n, d]: the usual bandwidth of a Gaussian kernel (Gretton 2012)."""
    distances = np.sqrt(squared_distances(x, x))[np.triu_indices(len(x), 1)]
    return float(np.median(distances)) or 1.0


def gaussian(bandwidth: float) -> Kernel:
    """k(a, b) = exp(-|a - b|^2 / (2 bandwidth^2))."""
    return lambda x, y: np.exp(-squared_distances(x, y) / (2 * bandwidth**2))


def cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """k(a, b) = (a.b / d + 1)^3 of rows with d features: the kernel inception distance's (Binkowski et al. 2018)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def mmd2(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> float:
    """Unbiased squared maximum mean discrepancy (Gretton 2012, eq. 3); mean 0 for equal distributions.

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean k(x_i, y_j)

    Args:
        x: samples [n, d], n >= 2.
        y: samples [m, d], m >= 2.
        kernel: k of all pairs of rows.
    """
    once = np.ones((1, len(x))), np.ones((1, len(y)))
    return float(_weighted(x, y, kernel, np.arange(len(x)), np.arange(len(y)), *once)[0])


def mmd2_interval(
    x: np.ndarray, y: np.ndarray, kernel: Kernel, patients_x: list[str], patients_y: list[str], seed: int = 0
) -> tuple[float, float, float]:
    """MMD^2 of cases [n, d] and [m, d] without pairs of one patient, and its 95 % bootstrap interval over patients."""
    a, b = (np.unique(patients, return_inverse=True)[1] for patients in (patients_x, patients_y))
    value = float(_weighted(x, y, kernel, a, b, np.ones((1, len(x))), np.ones((1, len(y))))[0])
    weights = case_weights(patients_x, DRAWS, seed), case_weights(patients_y, DRAWS, seed + 1)
    return value, *interval(_weighted(x, y, kernel, a, b, *weights), int(min(a.max(), b.max())) + 1, centre=value)


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|x_i - y_j|^2 of all pairs of rows."""
    return ((x**2).sum(1)[:, None] + (y**2).sum(1)[None, :] - 2 * x @ y.T).clip(0)


def _weighted(
    x: np.ndarray, y: np.ndarray, kernel: Kernel, owner_x: np.ndarray, owner_y: np.ndarray, weights_x: np.ndarray, weights_y: np.ndarray
) -> np.ndarray:
    """MMD^2 of each row of case weights; pairs of one patient are left out, so that repeats in a resample do not count as likeness."""

    def within(z: np.ndarray, owner: np.ndarray, weights: np.ndarray) -> np.ndarray:
        others = (owner[:, None] != owner[None, :]).astype(np.float64)
        total = ((weights @ (kernel(z, z) * others)) * weights).sum(1)
        pairs = ((weights @ others) * weights).sum(1)
        return np.divide(total, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)

    across = ((weights_x @ kernel(x, y)) * weights_y).sum(1) / (weights_x.sum(1) * weights_y.sum(1))
    return within(x, owner_x, weights_x) + within(y, owner_y, weights_y) - 2 * across
