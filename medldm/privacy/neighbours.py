"""Whether generated cases lie closer to the patients a model was trained on than to others, in features of whole images."""

from collections.abc import Sequence

import numpy as np

from medldm.metrics.base import Images, Score
from medldm.metrics.bootstrap import summarise, summarise_share
from medldm.metrics.features import Features
from medldm.metrics.kernels import squared_distances

PERMUTATIONS = 2000


def closeness(generated: Images, training: Images, held_out: Images, features: Features, seed: int = 0) -> list[Score]:
    """Scores of distances between images that need no model, only what it made.

    `nndr` is the distance to the nearest training case over that to the second, and `nndr_real` the same of held-out cases: copies have values
    near 0. `closer_to_training` is the share of generated cases nearer to a training patient than to as many held-out ones, .5 without copies;
    its row holds the p of a permutation of real patients. `authenticity` is a score of the comparison of cohorts.

    Args:
        generated: images under test.
        training: images that their model was trained on.
        held_out: images of other patients.
        features: what distances are measured in, each in standard deviations of the real cases.
        seed: of the choice of training patients and of permutations.
    """
    made, seen, unseen = (features.cases(images) for images in (generated, training, held_out))
    scale = np.concatenate([seen, unseen]).std(0)
    made, seen, unseen = (rows / np.where(scale > 0, scale, 1) for rows in (made, seen, unseen))
    scores = [
        summarise(f"nndr_{features.name}", ratio(made, seen), generated.patients),
        summarise(f"nndr_{features.name}_real", ratio(unseen, seen), held_out.patients),
    ]
    rng = np.random.default_rng(seed)
    pairs = min(len(set(images.patients)) for images in (training, held_out))
    trained, others = (_one_each(rows, images.patients, rng)[:pairs] for rows, images in ((seen, training), (unseen, held_out)))
    near, p = closer(made, trained, others, rng)
    share = summarise_share(f"closer_to_training_{features.name}", near, generated.patients)
    return [*scores, share.computed(f"{pairs} patients of each kind, p={p:.3f}")]


def ratio(of: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Distance of each row [n d] to the nearest of other rows [m d] over that to the second; nan with fewer than two."""
    if len(to) < 2:
        return np.full(len(of), np.nan)
    nearest = np.sqrt(np.partition(squared_distances(of, to), 1, axis=1)[:, :2])
    return nearest[:, 0] / np.maximum(nearest[:, 1], 1e-12)


def closer(made: np.ndarray, seen: np.ndarray, unseen: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """1 for each generated row whose nearest real row was seen, and the p that seen and unseen patients can be exchanged.

    Under the null any half of the real rows could have been the training set; p = (1 + #{permuted share >= share}) / (1 + permutations).

    Args:
        made: generated rows [n d].
        seen, unseen: as many real rows [m d] of each kind.
        rng: draws permutations.
    """
    nearest = squared_distances(made, np.concatenate([seen, unseen])).argmin(1)
    near = nearest < len(seen)
    halves = rng.permuted(np.tile(np.arange(2 * len(seen)) < len(seen), (PERMUTATIONS, 1)), axis=1)
    shares = halves[:, nearest].mean(1)
    return near.astype(np.float64), float((1 + (shares >= near.mean()).sum()) / (1 + PERMUTATIONS))


def _one_each(rows: np.ndarray, patients: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """The first row of each patient, in random order."""
    _, first = np.unique(patients, return_index=True)
    return rows[rng.permutation(first)]
