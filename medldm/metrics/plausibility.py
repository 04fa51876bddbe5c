"""Are generated label maps anatomy? Pieces of structures, which of them touch, and how large they are, beside real label maps."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import ndimage, stats

from medldm.metrics.base import Images, Metric, Score, sizes
from medldm.metrics.bootstrap import DRAWS, case_weights, interval, summarise, summarise_share
from medldm.metrics.segmentation import FACES, cohort_volumes, count_lesions


@dataclass(frozen=True)
class Plausibility(Metric):
    """Topology and volumes of label maps.

    `pieces_<label>` (mean number of connected components where the structure is), `whole` (share of cases whose structures are one piece
    each), `touching_<a>_<b>` (share of cases in which two structures touch) and `volume_w1_<label>` (Wasserstein-1 distance between the
    volumes of the two cohorts in mm3); the first three also as `..._real`, of the reference.

    Args:
        seed: of the bootstrap over patients.
    """

    seed: int = 0

    def __call__(self, generated: Images, reference: Images) -> list[Score]:
        """Scores; none without label maps."""
        if not (generated.labelled and reference.labelled):
            return []
        names = generated.cohort.labels
        made, real = ([_topology(images.label(i), sorted(names)) for i in range(len(images))] for images in (generated, reference))
        scores = []
        for title in _titles(names):
            for end, rows, images in (("", made, generated), ("_real", real, reference)):
                known = [(row[title], patient) for row, patient in zip(rows, images.patients, strict=True) if title in row]
                if known:
                    values, patients = zip(*known, strict=True)
                    name = f"{_named(title, names)}{end}"
                    counted = len(title) == 1  # pieces are numbers, the others true or false
                    scores.append(summarise(name, values, patients, seed=self.seed) if counted else summarise_share(name, values, patients))
        return scores + self._volumes(generated, reference)

    def _volumes(self, generated: Images, reference: Images) -> list[Score]:
        names, a, b = generated.cohort.labels, cohort_volumes(generated), cohort_volumes(reference)
        weights = [case_weights(images.patients, DRAWS, self.seed + n) for n, images in enumerate((generated, reference))]
        fewest, told = sizes(generated, reference)
        scores = []
        for column, value in enumerate(sorted(names)):
            x, y = a[:, column], b[:, column]
            found = float(stats.wasserstein_distance(x, y))
            drawn = [stats.wasserstein_distance(x, y, u, v) for u, v in zip(*weights, strict=True)]
            low, high = interval(drawn, fewest, centre=found)
            scores.append(Score(f"volume_w1_{names[value]}", found, float(np.maximum(low, 0)), high, fewest, "mm3", told))
        return scores


def _titles(names: dict[int, str]) -> list[tuple[int, ...]]:
    """() for "whole", (a,) for pieces of a, (a, b) for a and b touching."""
    values = sorted(names)
    return [*((value,) for value in values), (), *combinations(values, 2)]


def _named(title: tuple[int, ...], names: dict[int, str]) -> str:
    start = ("whole", "pieces", "touching")[len(title)]
    return "_".join([start, *(names[value] for value in title)])


def _topology(label: np.ndarray, values: list[int]) -> dict[tuple[int, ...], float]:
    """Values of one label map by title; what concerns a structure that is not there is left out."""
    pieces = {value: count_lesions(label, value) for value in values}
    found: dict[tuple[int, ...], float] = {(value,): float(count) for value, count in pieces.items() if count}
    found[()] = float(all(count <= 1 for count in pieces.values()))
    for a, b in combinations(values, 2):
        if pieces[a] and pieces[b]:
            found[a, b] = float((ndimage.binary_dilation(label == a, FACES) & (label == b)).any())
    return found
