"""The training cohort's conditions as a distribution: what to ask for when the user asks for nothing.

A model folder must not carry patients' rows, so quantiles and one correlation matrix are kept instead (a Gaussian
copula, Nelsen 2006).
"""

import math
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
import torch

from medldm.diffusion.conditions.base import Value

LEVELS = np.linspace(0.025, 0.975, 39)  # the extremes belong to single patients
SMALLEST_EIGENVALUE = 1e-3
NORMAL = NormalDist()


@dataclass(frozen=True)
class Population:
    """Joint distribution of conditions.

    Args:
        quantiles: name -> values at 39 even levels from 2.5 % to 97.5 %.
        discrete: names whose values are whole numbers, or positions in `categories`.
        categories: name -> names of the categories.
        correlation: of the normal scores, in the order of `quantiles`.
    """

    quantiles: dict[str, list[float]] = field(default_factory=dict)
    discrete: list[str] = field(default_factory=list)
    categories: dict[str, list[str]] = field(default_factory=dict)
    correlation: list[list[float]] = field(default_factory=list)

    @classmethod
    def fit(cls, rows: list[dict[str, Value]], generator: torch.Generator) -> "Population":
        """Fit to the cases' conditions; ties are ranked at random, missing values count as average."""
        quantiles, discrete, categories, ranks = {}, [], {}, []
        for name in rows[0]:
            values = [row[name] for row in rows]
            if any(isinstance(value, str) for value in values):
                categories[name] = sorted({str(value) for value in values if value is not None})
                values = [None if value is None else float(categories[name].index(str(value))) for value in values]
            present = np.array([math.nan if value is None else value for value in values])
            known = present[~np.isnan(present)]
            whole = name in categories or bool(np.all(known == np.rint(known)) and len(np.unique(known)) <= 16)
            discrete += [name] if whole else []
            quantiles[name] = np.quantile(known, LEVELS, method="inverted_cdf" if whole else "linear").tolist()
            ranks.append(_ranks(present, generator))
        with np.errstate(invalid="ignore"):  # a constant correlates with nothing
            spearman = np.nan_to_num(np.atleast_2d(np.corrcoef(np.array(ranks))))
        # Of normal scores with Spearman's rank correlation rho, the correlation is 2 sin(pi / 6 rho) (Pearson 1907).
        correlation = _nearest_correlation(2 * np.sin(np.pi / 6 * spearman))
        return cls(quantiles, discrete, categories, correlation.round(6).tolist())

    def draw(self, generator: torch.Generator, fixed: dict[str, Value] | None = None) -> dict[str, Value]:
        """One case's conditions, given those that are fixed (a fixed None stays missing and tells nothing)."""
        fixed = fixed or {}
        names = list(self.quantiles)
        normal = torch.randn(len(names), generator=generator, dtype=torch.float64).numpy()
        given = [i for i, name in enumerate(names) if fixed.get(name) is not None]
        free = [i for i in range(len(names)) if i not in given]
        covariance = np.array(self.correlation).reshape(len(names), len(names))
        known = np.array([self._score(names[i], fixed[names[i]]) for i in given])
        gain = covariance[np.ix_(free, given)] @ np.linalg.pinv(covariance[np.ix_(given, given)])
        left = covariance[np.ix_(free, free)] - gain @ covariance[np.ix_(given, free)]
        scores = gain @ known + np.linalg.cholesky(left + 1e-6 * np.eye(len(free))) @ normal[free] if free else []
        drawn = {names[i]: self._value(names[i], float(score)) for i, score in zip(free, scores, strict=True)}
        return {name: fixed.get(name, drawn.get(name)) for name in names}

    def beyond(self, fixed: dict[str, Value]) -> list[str]:
        """Names of the numbers that lie outside the training cohort's middle 95 %."""
        numbers = {name: value for name, value in fixed.items() if isinstance(value, float | int) and name not in self.categories}
        return [name for name, value in numbers.items() if not self.quantiles[name][0] <= value <= self.quantiles[name][-1]]

    def _value(self, name: str, score: float) -> Value:
        level = LEVELS[0] + (LEVELS[-1] - LEVELS[0]) * NORMAL.cdf(score)
        if name not in self.discrete:
            return float(np.interp(level, LEVELS, self.quantiles[name]))
        value = self.quantiles[name][int(np.abs(LEVELS - level).argmin())]
        return self.categories[name][int(value)] if name in self.categories else float(value)

    def _score(self, name: str, value: Value) -> float:
        number = float(self.categories[name].index(str(value))) if name in self.categories else float(value)
        table = np.array(self.quantiles[name])
        below, above = np.searchsorted(table, number, "left"), np.searchsorted(table, number, "right")
        return NORMAL.inv_cdf(min(max((below + above) / 2 / len(table), 0.0125), 0.9875))


def _nearest_correlation(matrix: np.ndarray) -> np.ndarray:
    """A positive definite matrix with unit diagonal: with more conditions than patients the estimate is singular."""
    values, vectors = np.linalg.eigh(matrix)
    definite = vectors @ np.diag(values.clip(SMALLEST_EIGENVALUE)) @ vectors.T
    scale = np.sqrt(np.diag(definite))
    return definite / np.outer(scale, scale)


def _ranks(values: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """Ranks in (0, 1), ties in random order, the middle where a value is missing."""
    known = ~np.isnan(values)
    count = int(known.sum())
    order = np.lexsort((torch.rand(count, generator=generator).numpy(), values[known]))
    ranks = np.full(len(values), 0.5)
    ranks[np.flatnonzero(known)[order]] = (np.arange(count) + 0.5) / count
    return ranks
