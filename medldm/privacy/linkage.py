"""How well an attacker links images to the patients of a gallery: by details after alignment, and by features of whole images."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from medldm.metrics.base import Images, Score
from medldm.metrics.bootstrap import case_weights, interval, summarise, summarise_share
from medldm.metrics.features import Features
from medldm.metrics.kernels import squared_distances
from medldm.privacy.copies import CopySearch

Progress = Callable[[Iterable, str], Iterable]
Answer = Literal["not linked", "linked", "underpowered"]

FEWEST = 10  # patients of a gallery
AUC = 0.6
LEVEL = 0.95


@dataclass(frozen=True)
class Linkage:
    """Similarities of probes to the patients of a gallery, as one attack sees them.

    Args:
        similarity: [probes, gallery], larger where more alike.
        truth: the patient of the gallery that each probe belongs to [probes].
    """

    similarity: np.ndarray
    truth: np.ndarray

    @property
    def ranks(self) -> np.ndarray:
        """Rank of the true patient for each probe [probes], 1 the best; a tie counts half."""
        own = self.similarity[np.arange(len(self.truth)), self.truth][:, None]
        return 1 + (self.similarity > own).sum(1) + 0.5 * ((self.similarity == own).sum(1) - 1)

    def answer(self) -> tuple[Answer, str]:
        """Whether probes can be linked, and why: rank 1 more often than max(3 / N, twice what 95 of 100 guessers reach), or AUC above .6."""
        size = self.similarity.shape[1]
        if min(self.similarity.shape) < FEWEST:
            return "underpowered", f"a gallery of {size} patients and {len(self.truth)} probes says nothing; {FEWEST} are needed"
        first, auc = float((self.ranks < 2).mean()), self.auc()
        allowed = max(3 / size, 2 * chance(len(self.truth), size))
        told = f"rank 1 for {first:.1%} of {len(self.truth)} probes (chance {1 / size:.1%}, allowed {allowed:.1%}), AUC {auc:.2f} (allowed {AUC})"
        return ("not linked" if first <= allowed and auc <= AUC else "linked"), told

    def auc(self) -> float:
        """Probability that a probe is more like its own patient than like another one."""
        return float(1 - ((self.ranks - 1) / (self.similarity.shape[1] - 1)).mean())

    def equal_error(self) -> float:
        """The rate at which as many strangers are accepted as owners refused, over all thresholds."""
        own = self.similarity[np.arange(len(self.truth)), self.truth]
        mask = np.ones_like(self.similarity, bool)
        mask[np.arange(len(self.truth)), self.truth] = False
        others = np.sort(self.similarity[mask])
        thresholds = np.sort(self.similarity.ravel())
        refused = np.searchsorted(np.sort(own), thresholds) / len(own)
        accepted = 1 - np.searchsorted(others, thresholds) / len(others)
        best = np.abs(refused - accepted).argmin()
        return float((refused[best] + accepted[best]) / 2)

    def scores(self, attack: str) -> list[Score]:
        """`rank1_<attack>`, `mean_reciprocal_rank_<attack>` (with one true patient the mean average precision), `link_auc_...`, `link_eer_...`."""
        probes, size = [str(i) for i in range(len(self.truth))], self.similarity.shape[1]
        on = f"gallery of {size} patients, chance {1 / size:.3f}"
        own = 1 - (self.ranks - 1) / (size - 1)
        drawn = case_weights(probes) @ own / len(own)
        found = [
            summarise_share(f"rank1_{attack}", self.ranks < 2, probes),
            summarise(f"mean_reciprocal_rank_{attack}", 1 / self.ranks, probes),
            Score(f"link_auc_{attack}", self.auc(), *interval(drawn, len(own)), len(own)),
            Score(f"link_eer_{attack}", self.equal_error(), np.nan, np.nan, len(own)),
        ]
        return [score.computed(on) for score in found]


def chance(probes: int, gallery: int) -> float:
    """Share of probes that guesses link in at most 5 of 100 tries more often."""
    return float(stats.binom.ppf(LEVEL, probes, 1 / gallery) / probes)


def by_details(gallery: Images, probes: Images, truth: np.ndarray, progress: Progress = lambda steps, title: steps) -> Linkage:
    """The attack of `CopySearch`: aligned details; the most similar patients are aligned finely, so that the first rank is the strongest attack's."""
    search, rows = CopySearch(gallery), []
    for index in progress(range(len(probes)), "linking"):
        image, spacing = probes.image(index)[0], probes.spacing(index)
        row = search.similarities(image, spacing)
        row[search.nearest(image, spacing).index] = max(row.max(), 1.0) + 1.0
        rows.append(row)
    return Linkage(np.stack(rows), truth)


def by_features(gallery: Images, probes: Images, truth: np.ndarray, features: Features) -> Linkage:
    """The attack by features of whole images, each in standard deviations of the gallery."""
    known, asked = features.cases(gallery), features.cases(probes)
    scale = np.where(known.std(0) > 0, known.std(0), 1)
    return Linkage(-squared_distances(asked / scale, known / scale), truth)
