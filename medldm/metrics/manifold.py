"""Where generated cases lie among real ones: near them, everywhere among them, or too near to one of them."""

from collections.abc import Sequence
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


def neighbourhood(
    generated: np.ndarray, real: np.ndarray, generated_patients: Sequence[str], real_patients: Sequence[str], k: int = NEIGHBOURS
) -> Neighbourhood:
    """Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020) case by case.

    The reach of a case is its distance to its k-th neighbour in its own cohort, other scans of the same patient left out.

    Args:
        generated, real: features [n, d] and [m, d].
        generated_patients, real_patients: the patient of each row, more than k of either.
        k: neighbours.
    """
    across = np.sqrt(squared_distances(generated, real))
    reach_real, reach_generated = _reach(real, real_patients, k), _reach(generated, generated_patients, k)
    within = across <= reach_real[None, :]
    return Neighbourhood(
        precise=within.any(1).astype(np.float64),
        dense=within.sum(1) / k,
        recalled=(across <= reach_generated[:, None]).any(0).astype(np.float64),
        covered=(across.min(0) <= reach_real).astype(np.float64),
    )


def authentic(generated: np.ndarray, training: np.ndarray, patients: Sequence[str]) -> np.ndarray:
    """1 for each generated case that is farther from its nearest training case than that one is from the nearest other patient's.

    Source: Alaa et al. 2022.

    Args:
        generated, training: features [n, d] and [m, d].
        patients: the patient of each training row, more than one.
    """
    across = np.sqrt(squared_distances(generated, training))
    nearest = across.argmin(1)
    return (across.min(1) > _reach(training, patients, 1)[nearest]).astype(np.float64)


def _reach(x: np.ndarray, patients: Sequence[str], k: int) -> np.ndarray:
    """Distance of each row to the k-th nearest row of other patients."""
    owners = np.unique(patients, return_inverse=True)[1]
    distances = np.where(owners[:, None] == owners, np.inf, np.sqrt(squared_distances(x, x)))
    return np.partition(distances, k - 1, axis=1)[:, k - 1]
