"""Distances between two cohorts as distributions: named features (MMD, KID, Frechet, neighbours) and intensities (Wasserstein)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from medldm.metrics.base import Images, Metric, Score, not_computable, sizes
from medldm.metrics.bootstrap import DRAWS, case_weights, interval, summarise, summarise_share
from medldm.metrics.features import Features, Haar
from medldm.metrics.frechet import components, corrected_frechet, principal
from medldm.metrics.kernels import cubic, gaussian, median_bandwidth, mmd2_interval
from medldm.metrics.manifold import NEIGHBOURS, authentic, neighbourhood

FEWEST = 3  # patients
FEWEST_FRECHET = 4  # halves of fewer have no covariance
NEAR = ("precision", "recall", "density", "coverage")
ALL = ("mmd2", "kid", "frechet", *NEAR, "authenticity")
BINS = 1024


@dataclass(frozen=True)
class FeatureDistance(Metric):
    """How far two cohorts are from each other in named features, which are standardised by real cases.

    `mmd2_`, `kid_`, `frechet_`, `precision_`, `recall_`, `density_`, `coverage_` and, where there is a training cohort,
    `authenticity_`, each followed by the name of the features. Frechet distances are of as many principal components of the real
    features as the patients bear, and the mean over the views of the features; the others are of one row per case.

    Args:
        features: describe the images.
        basis: real cases that standardise the features and choose the components, best those of training; the reference where None.
        training: what the generator was trained on, for authenticity, or None.
        seed: of resampling.
    """

    features: Features = field(default_factory=Haar)
    basis: Images | None = None
    training: Images | None = None
    seed: int = 0

    def __call__(self, generated: Images, reference: Images) -> list[Score]:
        """Scores; one that cannot be computed is nan and says why."""
        few, _ = sizes(generated, reference)
        if few < FEWEST:
            return self._missing(
                ALL if self.training else ALL[:-1], generated, f"at least {FEWEST} patients of each cohort are needed, {few} is too few"
            )
        basis = self.basis or reference
        mean, std = _spread(self.features.cases(basis))
        x, y = ((self.features.cases(images) - mean) / std for images in (generated, reference))
        scores = [*self._kernels(x, y, generated, reference)]
        if few < FEWEST_FRECHET:
            scores += self._missing(["frechet"], generated, f"at least {FEWEST_FRECHET} patients of each cohort are needed, {few} is too few")
        else:
            scores.append(self._frechet(generated, reference, basis))
        scores += self._neighbours(x, y, generated, reference)
        if self.training and len(set(self.training.patients)) > 1:
            known = (self.features.cases(self.training) - mean) / std
            for end, rows, images in (("", x, generated), ("_real", y, reference)):
                score = self._share("authenticity", authentic(rows, known, self.training.patients), images)
                scores.append(score.renamed(score.name + end))
        return scores

    def _kernels(self, x: np.ndarray, y: np.ndarray, generated: Images, reference: Images) -> Iterator[Score]:
        for name, kernel in (("mmd2", gaussian(median_bandwidth(y))), ("kid", cubic)):
            found = mmd2_interval(x, y, kernel, generated.patients, reference.patients, self.seed)
            fewest, told = sizes(generated, reference)
            yield Score(f"{name}_{self.features.name}", *found, fewest, on=f"{self.features}; {told}")

    def _frechet(self, generated: Images, reference: Images, basis: Images) -> Score:
        groups = generated, reference, basis
        owners = [np.unique(images.patients, return_inverse=True)[1] for images in groups]
        views = [self.features.of(images) for images in groups]
        count = components(views[0][0].rows.shape[1], *(len(set(images.patients)) for images in groups))
        found = []
        for seed, (a, b, real) in enumerate(zip(*views, strict=True), self.seed):
            mean, std = _spread(real.rows)
            directions = principal((real.rows - mean) / std, count)
            x, y = ((view.rows - mean) / std @ directions for view in (a, b))
            found.append(corrected_frechet(x, y, owners[0][a.case], owners[1][b.case], seed))
        value, low, high = np.mean(found, axis=0)  # views are of the same patients, so their errors go together
        fewest, told = sizes(generated, reference)
        on = f"{self.features}; {count} principal component{'s' * (count > 1)}; {told}"
        return Score(f"frechet_{self.features.name}", float(value), float(low), float(high), fewest, on=on)

    def _neighbours(self, x: np.ndarray, y: np.ndarray, generated: Images, reference: Images) -> list[Score]:
        fewest, told = sizes(generated, reference)
        if fewest <= NEIGHBOURS:
            return self._missing(NEAR, generated, f"more than {NEIGHBOURS} patients of each cohort are needed")
        found = neighbourhood(x, y, generated.patients, reference.patients)
        dense = summarise(f"density_{self.features.name}", found.dense, generated.patients, seed=self.seed)
        return [
            self._share("precision", found.precise, generated),
            self._share("recall", found.recalled, reference),
            dense.computed(f"{self.features}; {told}"),
            self._share("coverage", found.covered, reference),
        ]

    def _share(self, name: str, values: np.ndarray, images: Images) -> Score:
        return summarise_share(f"{name}_{self.features.name}", values, images.patients).computed(str(self.features))

    def _missing(self, names: Sequence[str], images: Images, reason: str) -> list[Score]:
        return [not_computable(f"{name}_{self.features.name}", images, reason) for name in names]


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
        fewest, told = sizes(generated, reference)
        weights = case_weights(generated.patients, DRAWS, self.seed), case_weights(reference.patients, DRAWS, self.seed + 1)
        pooled_x, pooled_y = (w @ z / w.sum(1, keepdims=True) for w, z in zip(weights, (x, y), strict=True))
        low, high = interval(_wasserstein(pooled_x, pooled_y, edges), fewest, centre=value)
        return [Score("intensity_w1", value, float(np.maximum(low, 0)), high, fewest, generated.cohort.unit, told)]


def _wasserstein(p: np.ndarray, q: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """W1 of histograms [..., bins] with the same edges."""
    return np.abs(np.cumsum(p - q, axis=-1)).sum(-1) * (edges[1] - edges[0])


def _spread(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column; 1 for a constant one."""
    std = x.std(0)
    return x.mean(0), np.where(std > 0, std, 1.0)
