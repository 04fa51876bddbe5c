"""How a generated cohort compares with a real one: scores, values per case, pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from medldm.metrics.base import Images, Score, not_computable
from medldm.metrics.classifier_score import ClassifierScore
from medldm.metrics.conditions import ConditionFidelity, correlation, volume_pairs
from medldm.metrics.distribution import FeatureDistance, IntensityDistance, intensity_edges, intensity_histograms
from medldm.metrics.diversity import Diversity
from medldm.metrics.features import Features, Haar
from medldm.metrics.nearest import Likeness, NearestTraining
from medldm.metrics.plausibility import Plausibility
from medldm.metrics.temporal import TemporalConsistency
from medldm.report.html import Figure, Figures
from medldm.report.mosaic import extent, mosaic
from medldm.report.plots import plot_intensities, plot_scatter
from medldm.report.reconstruction import Values, legend, stored_picture

NOT_HERE = "the cases that the generator was trained on are not in the reference"
SHOWN_GENERATED, SHOWN_REAL, SHOWN_PAIRS = 24, 12, 3


@dataclass(frozen=True)
class Synthesis:
    """The three groups of images that a synthesis is judged by.

    Args:
        generated: the synthetic cases.
        held_out: real cases that the generator did not see.
        training: real cases that it was trained on, or None where the reference has none.
        seed: of resampling and of the choice of pairs and parts.
        features: what distances are measured in.
        series: the contrasts of an image are its time points.
        trained_on: the generator was trained on `training`; if not, copies of training cases cannot be looked for there.
    """

    generated: Images
    held_out: Images
    training: Images | None
    seed: int = 0
    features: Sequence[Features] = (Haar(),)
    series: bool = False
    trained_on: bool = True

    @cached_property
    def likeness(self) -> Likeness | None:
        """How much the images look like the training images, worked out once."""
        return NearestTraining(self.training).likeness(self.generated, self.held_out) if self.training and self.trained_on else None

    def scores(self) -> Iterator[Score]:
        """All scores; `..._real` is the same measure of real against real (training against held-out cases)."""
        part = self.training.take(len(self.generated), self.seed) if self.training else None
        for features in self.features:
            yield from FeatureDistance(features, self.training, self.training if self.trained_on else None, self.seed)(self.generated, self.held_out)
            if not (self.training and self.trained_on):
                yield not_computable(f"authenticity_{features.name}", self.generated, NOT_HERE)
            if part:
                yield from _real(FeatureDistance(features, self.training, None, self.seed)(part, self.held_out))
            yield from ClassifierScore(features, self.seed)(self.generated, self.training or self.held_out)
        if self.series:
            yield from TemporalConsistency(self.seed)(self.generated, self.held_out)
        yield from IntensityDistance(self.seed)(self.generated, self.held_out)
        if part:
            yield from _real(IntensityDistance(self.seed)(part, self.held_out))
        yield from Diversity(seed=self.seed)(self.generated, self.held_out)
        if self.training and self.likeness:
            yield from NearestTraining(self.training, self.seed).scores(self.likeness, self.generated, self.held_out)
        else:
            yield not_computable("copies", self.generated, NOT_HERE)
        yield from Plausibility(self.seed)(self.generated, self.held_out)
        yield from ConditionFidelity(self.seed)(self.generated, self.training or self.held_out)

    def values(self) -> tuple[list[Values], list[Values]]:
        """Values of each generated and of each held-out case."""
        generated: list[Values] = [{} for _ in self.generated.cases]
        held_out: list[Values] = [{} for _ in self.held_out.cases]
        if self.likeness:
            threshold = self.likeness.threshold
            for row, value in zip(generated, self.likeness.generated.max(1), strict=True):
                row |= {"nearest_train": float(value)} | ({"copy": float(value > threshold)} if np.isfinite(threshold) else {})
            for row, value in zip(held_out, self.likeness.held_out.max(1), strict=True):
                row["nearest_train"] = float(value)
        for pair in volume_pairs(self.generated):
            for index, asked, found in zip(pair.cases, pair.requested, pair.measured, strict=True):
                generated[index] |= {f"requested_{pair.name}": float(asked), f"measured_{pair.name}": float(found)}
        return generated, held_out

    def _nearest(self) -> list[Figures]:
        """The generated cases most like a training case, above that case."""
        if not self.training or not self.likeness:
            return []
        figures = []
        for made, real, likeness in self.likeness.closest(SHOWN_PAIRS):
            pair = stored_picture(self.generated, made), stored_picture(self.training, real)
            told = f"{self.generated.cases[made].case} and {self.training.cases[real].case}: correlation {likeness:.3f}"
            figures.append(Figure("", mosaic([[p] for p in pair], names=("generated", "nearest training case")), told))
        caption = f"The {len(figures)} generated cases that are most like a training case, each above that case; "
        caption += f"above a correlation of {self.likeness.threshold:.3f} it is called a copy."
        return [Figures("Nearest training cases", figures, caption, legend(self.generated))]

    def figures(self, values: Sequence[Values]) -> list[Figures | Figure]:
        """Generated cases, requested against measured, real cases, intensities."""
        found = [_cards("Generated", self.generated, SHOWN_GENERATED, values), *self._scatter(), *self._nearest()]
        found += [_cards("Real, to compare", self.held_out, SHOWN_REAL, [{}] * len(self.held_out)), self._intensities()]
        return found

    def _scatter(self) -> list[Figure]:
        panels = []
        for pair in volume_pairs(self.generated):
            r = correlation(np.stack([pair.requested, pair.measured], axis=1))
            panels.append((f"{pair.name}   r = {r:.2f}, n = {len(pair.cases)}", pair.unit, pair.requested, pair.measured))
        caption = "One point per generated case; on the dashed line the label map has exactly the volume that was asked for."
        return [Figure("Requested against measured", plot_scatter(panels), caption)] if panels else []

    def _intensities(self) -> Figure:
        edges = intensity_edges(self.generated, self.held_out)
        shares = {"generated": intensity_histograms(self.generated, edges), "real": intensity_histograms(self.held_out, edges)}
        caption = "Mean over cases; the bands hold the middle 80 % of cases."
        return Figure("Intensities", plot_intensities(edges, shares, self.generated.cohort.unit), caption)


def _cards(title: str, images: Images, count: int, values: Sequence[Values]) -> Figures:
    """The first cases, each with its planes and its volumes."""
    shown = range(min(count, len(images)))
    pictures = [stored_picture(images, i) for i in shown]
    box = np.max([extent(picture) for picture in pictures], axis=0)
    figures = [Figure("", mosaic([[picture]], box=box), _caption(images, i, values[i])) for i, picture in zip(shown, pictures, strict=True)]
    caption = f"The first {len(shown)} of {len(images)} cases, not selected; all at one scale: axial, coronal, sagittal, patient's right on the left."
    return Figures(title, figures, caption, legend(images))


def _caption(images: Images, index: int, values: Values) -> str:
    """Name of the case, and the volume that was asked for beside the one that was found."""
    total = "volume_total" if "requested_volume_total" in values else next((k[10:] for k in values if k.startswith("requested_")), "")
    if not total:
        return images.cases[index].case
    asked, found = values[f"requested_{total}"], values[f"measured_{total}"]
    what = total.removeprefix("volume_").replace("_", " ")
    return f"{images.cases[index].case}: {what} {found:.0f} mm³ of {asked:.0f} requested"


def _real(scores: Sequence[Score]) -> Iterator[Score]:
    """Scores of real against real, under names that say so."""
    return (score.renamed(f"{score.name}_real") for score in scores)
