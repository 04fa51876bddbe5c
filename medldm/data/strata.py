"""What is known of patients, as columns of numbers, and how evenly a split shares it out."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from medldm.cohort import Covariate

LEVELS = 8  # categories of a covariate that count on their own
RARE = 0.05  # share of the patients below which a category cannot be balanced


@dataclass(frozen=True)
class Known:
    """One covariate of some patients.

    Args:
        name: of the covariate.
        numbers: [n], NaN where unknown; empty for categories.
        levels: category per patient, "" where unknown; empty for numbers.
    """

    name: str
    numbers: np.ndarray
    levels: tuple[str, ...] = ()

    def indicators(self) -> Iterator[tuple[str, np.ndarray]]:
        """Name and membership [n] of each category; those beyond the most frequent are one, "other"."""
        frequent = [level for level, _ in sorted(Counter(level for level in self.levels if level).most_common(), key=lambda c: (-c[1], c[0]))]
        shown = frequent if len(frequent) <= LEVELS else frequent[: LEVELS - 1]
        levels = np.array(self.levels)
        for level in shown:
            yield level, levels == level
        if len(shown) < len(frequent):
            yield "other", np.isin(levels, frequent[len(shown) :])

    def unknown(self) -> np.ndarray:
        """Where the value is missing [n]."""
        return np.array([level == "" for level in self.levels]) if self.levels else np.isnan(self.numbers)

    def rows(self, members: Mapping[str, np.ndarray]) -> Iterator[tuple[str, ...]]:
        """Rows of `medldm.data.splits.balance`.

        Args:
            members: split -> membership of each patient [n].
        """
        unknown, kinds = self.unknown(), list(self.indicators())
        if not self.levels:
            values = {name: self.numbers[inside & ~unknown] for name, inside in members.items()}
            others = {name: [v for other, v in values.items() if other != name] for name in values}
            yield f"{self.name}: mean ± SD", *(_mean(v) for v in values.values())
            yield f"{self.name}: p (KS, against the others)", *(_ks_p(v, np.concatenate([*others[name], v[:0]])) for name, v in values.items())
        for level, inside in [*kinds, ("unknown", unknown)] if unknown.any() else kinds:
            yield f"{self.name}: {level}", *(_share(inside[member]) for member in members.values())


@dataclass(frozen=True)
class Columns:
    """Covariates of some patients.

    Args:
        known: one each.
        count: patients.
    """

    known: tuple[Known, ...]
    count: int

    @classmethod
    def of(cls, patients: Sequence[str], strata: Mapping[str, Mapping[str, Covariate]]) -> Self:
        """The covariates of patients, sorted by name; those of which all values are numbers are numbers."""
        known = []
        for name in sorted({name for patient in patients for name in strata.get(patient, {})}):
            values = [strata.get(patient, {}).get(name) for patient in patients]
            if all(value is None or isinstance(value, int | float) for value in values):
                numbers = np.array([np.nan if value is None else float(value) for value in values])
                known.append(Known(name, np.where(np.isfinite(numbers), numbers, np.nan)))
            else:
                known.append(Known(name, np.zeros(0), tuple("" if value is None else str(value) for value in values)))
        return cls(tuple(known), len(patients))

    def described(self) -> Iterator[Known]:
        """Covariates that tell patients apart: not those with one value, nor names that nearly every patient has for his own."""
        for known in self.known:
            values = known.levels or tuple(known.numbers[~known.unknown()])
            if len(set(values)) > 1 and not (known.levels and len(set(values)) > max(LEVELS, self.count / 4)):
                yield known

    @cached_property
    def matrix(self) -> np.ndarray:
        """One column a number, a category, or the lack of a value, of mean 0 and variance 1, NaN where unknown [n, columns]."""
        columns = []
        for known in self.described():
            flags = [inside for _, inside in known.indicators()] + [known.unknown()]
            columns += [] if known.levels else [known.numbers]
            columns += [flag.astype(float) for flag in flags if RARE <= flag.mean() <= 1 - RARE]
        matrix = np.array(columns).T.reshape(self.count, -1)
        spread = np.nanstd(matrix, axis=0) if matrix.size else np.ones(0)
        return (matrix - np.nanmean(matrix, axis=0)) / np.where(spread > 0, spread, 1) if matrix.size else matrix

    def projected(self, rng: np.random.Generator) -> np.ndarray:
        """A random combination of all columns [n]; noise decides between equal patients."""
        matrix = np.nan_to_num(self.matrix)
        return matrix @ rng.normal(size=matrix.shape[1]) + 1e-6 * rng.random(self.count)

    def imbalance(self, splits: np.ndarray) -> float:
        """How far the splits are from the whole, as multiples of what chance does to a split of that size.

        The largest over splits and columns of sqrt(n) |standardised mean difference|, plus the largest of sqrt(n) D with the
        Kolmogorov-Smirnov distance D of numbers.

        Args:
            splits: name of each patient's split [n].
        """
        means, distances = [0.0], [0.0]
        for name in sorted(set(splits.tolist())):
            inside = splits == name
            for column, places in zip(self.matrix.T, self._places, strict=True):
                values = column[inside & ~np.isnan(column)]
                if len(values):
                    means.append(np.sqrt(len(values)) * abs(values.mean()))
                if len(values) and len(places):
                    distances.append(np.sqrt(len(values)) * _ks_distance(values, places))
        return float(max(means) + max(distances))

    @cached_property
    def _places(self) -> list[np.ndarray]:
        """Sorted known values of each column of numbers; none for columns of two values, whose means say all."""
        sorted_values = [np.sort(column[~np.isnan(column)]) for column in self.matrix.T]
        return [values if len(np.unique(values)) > 2 else values[:0] for values in sorted_values]


def _ks_distance(part: np.ndarray, whole: np.ndarray) -> float:
    """Largest difference of the distribution functions of a part and of the sorted whole."""
    share = np.searchsorted(np.sort(part), whole, "right") / len(part)
    return float(np.abs(share - np.searchsorted(whole, whole, "right") / len(whole)).max())


def _ks_p(values: np.ndarray, others: np.ndarray) -> str:
    from scipy.stats import ks_2samp

    return f"{ks_2samp(values, others).pvalue:.2f}" if len(values) and len(others) else ""


def _mean(values: np.ndarray) -> str:
    return f"{values.mean():.3g} ± {values.std():.3g}" if len(values) else ""


def _share(inside: np.ndarray) -> str:
    return f"{100 * inside.mean():.0f} %" if len(inside) else ""
