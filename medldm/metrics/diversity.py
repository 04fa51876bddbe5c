"""How different the images of one cohort are from one another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from medldm.metrics.base import Images, Metric, Score, centre_crop, common_size, not_computable
from medldm.metrics.bootstrap import DRAWS, case_weights, interval
from medldm.metrics.paired import ms_ssim_batch

BATCH_VOXELS = 1 << 20
FEWEST = 3  # patients: two make one pair, which has no interval


@dataclass(frozen=True)
class Diversity(Metric):
    """Mean MS-SSIM between two images of one cohort: `pairwise_ms_ssim` and, of the reference, `pairwise_ms_ssim_real`.

    Lower is more diverse; a generator that repeats itself lies above the real cohort. Images are cut to the box, around
    the centre, that fits into all of them. Two scans of one patient are no pair.

    Args:
        pairs: at most so many pairs of a cohort, chosen by `seed`.
        seed: of the pairs and of the bootstrap over patients.
    """

    pairs: int = 500
    seed: int = 0

    def __call__(self, generated: Images, reference: Images) -> list[Score]:
        """A score for each of the two cohorts; one without a pair of patients has none to compute."""
        size = common_size(generated, reference)
        named = (("pairwise_ms_ssim", generated), ("pairwise_ms_ssim_real", reference))
        few = f"at least {FEWEST} patients are needed"
        enough = [len(set(images.patients)) >= FEWEST for _, images in named]
        return [self._score(*one, size) if fits else not_computable(*one, few) for one, fits in zip(named, enough, strict=True)]

    def _score(self, name: str, images: Images, size: Sequence[int]) -> Score:
        first, second = self._choose(images.patients)
        values = np.concatenate([_similarity(images, first[s], second[s], size) for s in _batches(len(first), size)])
        weights = case_weights(images.patients, DRAWS, self.seed)
        pair_weights = weights[:, first] * weights[:, second]
        totals = pair_weights.sum(1)
        drawn = np.divide(pair_weights @ values, totals, out=np.full(len(totals), np.nan), where=totals > 0)
        return Score(name, float(values.mean()), *interval(drawn, len(set(images.patients))), len(set(images.patients)))

    def _choose(self, patients: list[str]) -> tuple[np.ndarray, np.ndarray]:
        first, second = np.triu_indices(len(patients), 1)
        names = np.asarray(patients)
        allowed = np.flatnonzero(names[first] != names[second])
        if len(allowed) > self.pairs:
            allowed = np.sort(np.random.default_rng(self.seed).permutation(allowed)[: self.pairs])
        return first[allowed], second[allowed]


def _batches(count: int, size: Sequence[int]) -> list[slice]:
    step = max(1, BATCH_VOXELS // int(np.prod(size)))
    return [slice(start, start + step) for start in range(0, count, step)]


def _similarity(images: Images, first: np.ndarray, second: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """MS-SSIM of the pairs (first[n], second[n])."""
    a, b = (torch.from_numpy(np.stack([centre_crop(images.image(i), size) for i in side])) for side in (first, second))
    return ms_ssim_batch(a, b).double().numpy()
