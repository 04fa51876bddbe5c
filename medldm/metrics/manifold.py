"""Where generated cases lie among real ones: near them, everywhere among them, or too near to one of them."""

from dataclasses import dataclass

import numpy as np

from medldm.metrics.kernels import squared_distances

NEIGHBOURS = 5


@dataclass(frozen=True)
class Neighbourhood:
    """Per case, what precision, recall, density, coverage and authenticity are means of.

    Args:
        precise: generated cases within reach of a real one [n], 0 or 1.
        dense: real cases within whose reach a generated one lies, over k [n].
        recalled: real cases within reach of a generated one [m], 0 or 1.
        covered: real cases with a generated one within their reach [m], 0 or 1.
    """

    precise: np.ndarray
    dense: np.ndarray
    recalled: np.ndarray
    covered: np.ndarray


def neighbourhood(generated: np.ndarray, real: np.ndarray, k: int = NEIGHBOURS) -> Neighbourhood:
    """Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020) case by case.

    The reach of a case is its distance to its k-th neighbour in its own cohort.

    Args:
        generated, real: features [n, d] and [m, d], n and m above k.
        k: neighbours.
    """
    across = np.sqrt(squared_distances(generated, real))
    reach_real, reach_generated = _reach(real, k), _reach(generated, k)
    within = across <= reach_real[None, :]
    return Neighbourhood(
        precise=within.any(1).astype(np.float64),
        dense=within.sum(1) / k,
        recalled=(across <= reach_generated[:, None]).any(0).astype(np.float64),
        covered=(across.min(0) <= reach_real).astype(np.float64),
    )


def authentic(generated: np.ndarray, training: np.ndarray) -> np.ndarray:
    """1 for each generated case that is farther from its nearest training case than that one is from the nearest other (Alaa et al. 2022).

    Args:
        generated, training: features [n, d] and [m, d], m above 1.
    """
    across = np.sqrt(squared_distances(generated, training))
    nearest = across.argmin(1)
    return (across.min(1) > _reach(training, 1)[nearest]).astype(np.float64)


def _reach(x: np.ndarray, k: int) -> np.ndarray:
    """Distance of each row to its k-th nearest other row."""
    distances = np.sqrt(squared_distances(x, x))
    np.fill_diagonal(distances, np.inf)
    return np.partition(distances, k - 1, axis=1)[:, k - 1]
