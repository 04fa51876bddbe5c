"""Whether a generated cohort repeats the patients that its model was trained on: a verdict, and what it rests on."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medldm.metrics.base import Images, Score
from medldm.metrics.bootstrap import share_interval, summarise, summarise_share
from medldm.privacy.copies import CopySearch, limit

Progress = Callable[[Iterable, str], Iterable]
State = Literal["pass", "fail", "inconclusive"]

FALSE_ALARMS = 0.05
FEWEST = 20  # held-out patients: with fewer, the most similar of all is no limit at 5 %
PLANTED = 20
LEAST_PLANTED = 10  # patients of the training; with fewer a search that finds all copies may still be one that misses a fourth of them
FOUND = 0.95  # of the planted copies; a search that finds fewer says nothing of others
UNSEEN = 0.2  # share of copies that has to be ruled out


@dataclass(frozen=True)
class Audit:
    """Similarities to the most similar training case, see `CopySearch`.

    Args:
        held_out: of one case of each patient that was not trained on.
        generated: of each generated case.
        planted: of copies made here: cases of different training patients, mirrored, turned by 5 degrees, shifted by a voxel, with noise of 5 %.
    """

    held_out: tuple[float, ...]
    generated: tuple[float, ...]
    planted: tuple[float, ...]

    @property
    def limit(self) -> float:
        """Above it a case is a copy; 5 % of patients who were not trained on lie above it, too.

        With fewer than 19 of them it is the largest of their similarities, so that even then what is more alike stays behind.
        """
        found = limit(self.held_out, FALSE_ALARMS)
        return found if math.isfinite(found) else max(self.held_out)

    @property
    def copies(self) -> list[bool]:
        """Which generated cases are copies."""
        return [similarity > self.limit for similarity in self.generated]

    def verdict(self) -> tuple[State, str]:
        """Pass, fail or inconclusive, and why."""
        if len(self.held_out) < FEWEST:
            return "inconclusive", f"{len(self.held_out)} held-out patients are too few to tell copies from likeness; {FEWEST} are needed"
        found = float(np.mean([similarity > self.limit for similarity in self.planted]))
        if found < FOUND:
            return "inconclusive", f"the search finds {found:.0%} of planted copies, too few to say that there are no others"
        share = float(np.mean(self.copies))
        low, high = share_interval(share, len(self.generated))
        told = f"{share:.0%} [{low:.0%}, {high:.0%}] of {len(self.generated)} generated cases are more like a training case than 95 % of others are"
        if low > FALSE_ALARMS:
            return "fail", told
        if len(self.planted) < LEAST_PLANTED:
            return "inconclusive", f"{len(self.planted)} patients of the training are too few to test the search on; {LEAST_PLANTED} are needed"
        if high > UNSEEN:
            return "inconclusive", f"{told}; more cases are needed to rule out {UNSEEN:.0%}"
        return "pass", told

    def scores(self) -> list[Score]:
        """Figures with their intervals: `copy_similarity` (generated), `..._held_out`, `..._planted`, `copy_limit`, `copy_share`, `copies_found`."""
        groups = {"": self.generated, "_held_out": self.held_out, "_planted": self.planted}
        names = {suffix: [f"{suffix}{i}" for i in range(len(values))] for suffix, values in groups.items()}
        scores = [summarise(f"copy_similarity{suffix}", values, names[suffix]) for suffix, values in groups.items()]
        return [
            *scores,
            Score("copy_limit", self.limit, math.nan, math.nan, len(self.held_out)),
            summarise_share("copy_share", self.copies, names[""]),
            summarise_share("copies_found", [similarity > self.limit for similarity in self.planted], names["_planted"]),
        ]


def audit(training: Images, held_out: Images, generated: Images, progress: Progress = lambda steps, title: steps, seed: int = 0) -> Audit:
    """Search for copies of training cases.

    Args:
        training: real cases that the generator was trained on.
        held_out: real cases of other patients.
        generated: what is audited.
        progress: takes steps and a title, and gives the steps one after the other.
        seed: decides which training cases are planted, and how they are changed.
    """
    search = CopySearch(training)
    first, own = (list({p: i for i, p in reversed(list(enumerate(part.patients)))}.values()) for part in (held_out, training))

    def nearest(images: Images, indices: Iterable[int], title: str) -> tuple[float, ...]:
        return tuple(search.nearest(images.image(i)[0], images.spacing(i)).similarity for i in progress(list(indices), title))

    rng = np.random.default_rng(seed)
    chosen = rng.permutation(sorted(own))[:PLANTED]
    copies = [(copied(training.image(i)[0], rng), training.spacing(i)) for i in chosen]
    planted = tuple(search.nearest(*copy).similarity for copy in progress(copies, "planted copies"))
    return Audit(nearest(held_out, first, "held-out patients"), nearest(generated, range(len(generated)), "generated cases"), planted)


def copied(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A copy that does not look like one: an image [I J K] mirrored, turned by 5 degrees, shifted by a voxel, with noise of 5 % of its range."""
    axis = rng.normal(size=3)
    matrix = Rotation.from_rotvec(np.radians(5) * axis / np.linalg.norm(axis)).as_matrix()
    middle = (np.array(image.shape) - 1) / 2
    mirrored = np.flip(image, int(rng.integers(3)))
    turned = ndimage.affine_transform(mirrored, matrix, middle - matrix @ middle + rng.choice([-1, 1], 3), order=1, mode="nearest")
    return (turned + rng.normal(0, 0.05 * np.ptp(image), image.shape)).astype(np.float32)
