"""Surrogates from a catalogue: for each real case the synthetic one that shows most nearly the same, none of which repeats a patient.

The way of case-based explanations (Campos et al. 2024): synthetic cases first, those too much like any patient dropped, then retrieval.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from medldm.metrics.base import Images
from medldm.metrics.features import Features
from medldm.metrics.kernels import squared_distances
from medldm.privacy.copies import CopySearch, limit

Progress = Callable[[Iterable, str], Iterable]


def distinct(catalogue: Images, real: Images, likeness: float = 0.05, progress: Progress = lambda steps, title: steps) -> list[int]:
    """The cases of a catalogue that are no more like any patient than patients are like each other.

    Args:
        catalogue: synthetic cases.
        real: the patients whom nobody shall be led to.
        likeness: share of patients who are more like their nearest neighbour than a case may be, in (0, 1).
        progress: takes steps and a title, and gives the steps one after the other.
    """
    search, patients = CopySearch(real), np.array(real.patients)
    first = np.unique(patients, return_index=True)[1].tolist()
    near = []
    for index in progress(first, "patients among themselves"):
        others = np.flatnonzero(patients != patients[index]).tolist()
        near.append(search.nearest(real.image(index)[0], real.spacing(index), others).similarity)
    highest = limit(near, likeness)
    alike = [search.nearest(catalogue.image(i)[0], catalogue.spacing(i)).similarity for i in progress(range(len(catalogue)), "catalogue")]
    return [index for index, similarity in enumerate(alike) if similarity <= highest]


def retrieved(catalogue: Images, real: Images, features: Sequence[Features]) -> list[int]:
    """For each real case another case of the catalogue, so that all together are as near as can be (Kuhn 1955).

    Args:
        catalogue: as many synthetic cases as real ones, or more.
        real: the cases.
        features: what is compared, each number in standard deviations of the real cases, each kind of features with the same weight.
    """
    cost = np.zeros((len(real), len(catalogue)))
    for kind in features:
        one, other = kind.cases(real), kind.cases(catalogue)
        scale = np.where(one.std(0) > 0, one.std(0), 1)
        cost += squared_distances(one / scale, other / scale) / one.shape[1]
    return linear_sum_assignment(cost)[1].tolist()
