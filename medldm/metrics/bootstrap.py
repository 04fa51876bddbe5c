"""95 % intervals by resampling patients, never cases: scans of one patient are not independent."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from medldm.metrics.base import Score

DRAWS = 2000
LEVEL = 0.975
STUDENT = 8  # patients below which percentiles of a resample are too few values to be an interval


def patient_draws(count: int, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Indexes [draws, count] of patients drawn with replacement."""
    return np.random.default_rng(seed).integers(count, size=(draws, count))


def case_weights(patients: Sequence[str], draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """How often each case stands in each bootstrap sample [draws, cases]; cases of one patient stand or fall together."""
    _, owner = np.unique(np.asarray(patients), return_inverse=True)
    chosen = patient_draws(owner.max() + 1, draws, seed)
    counts = np.stack([np.bincount(row, minlength=chosen.shape[1]) for row in chosen])
    return counts[:, owner].astype(np.float64)


def interval(drawn: Sequence[float] | np.ndarray, patients: int, centre: float | None = None) -> tuple[float, float]:
    """95 % interval of a statistic from its bootstrap draws.

    Of 8 patients and more the percentile interval, widened (Hesterberg 2015, "expanded percentile"): the tails hold
    Phi(-sqrt(n / (n - 1)) t) each, t Student's .975 quantile of n - 1 degrees of freedom; a plain one of 8 patients covers the mean in 89 of
    100 cases, this one in 94. Of fewer, Student's: the mean of the draws -+ t sqrt(n / (n - 1)) times their standard deviation.

    Args:
        drawn: the statistic of each bootstrap sample; nan where a sample does not define it.
        patients: n, in the smallest sample; 2 at least.
        centre: shift the draws so that their median is this value. For distances: repeated cases make every bootstrap
            sample look less varied than its source, so distances between resamples are biased upwards.
    """
    drawn = np.asarray(drawn, dtype=np.float64)
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn) or patients < 2:
        return float("nan"), float("nan")
    if patients < STUDENT:
        middle = float(np.mean(drawn)) if centre is None else centre
        reach = float(stats.t.ppf(LEVEL, patients - 1) * np.sqrt(patients / (patients - 1)) * np.std(drawn))
        return middle - reach, middle + reach
    shift = 0.0 if centre is None else centre - np.median(drawn)
    tail = float(stats.norm.cdf(-np.sqrt(patients / (patients - 1)) * stats.t.ppf(LEVEL, patients - 1)))
    low, high = np.percentile(drawn, [100 * tail, 100 * (1 - tail)]) + shift
    return float(low), float(high)


def bootstrap(
    values_per_patient: Sequence[Sequence[float] | np.ndarray],
    statistic: Callable[[np.ndarray], float] = np.mean,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % bootstrap interval over patients (Efron & Tibshirani 1993); see `interval`.

    Args:
        values_per_patient: one entry per patient, with a value (or a row of values) for each of the patient's cases.
        statistic: of the cases' values [cases ...]; the mean by default.
        draws: bootstrap samples.
        seed: of the draws.
    """
    groups = [np.asarray(values, dtype=np.float64) for values in values_per_patient if len(values)]
    if len(groups) < 2:
        return float("nan"), float("nan")
    chosen = patient_draws(len(groups), draws, seed)
    return interval([statistic(np.concatenate([groups[i] for i in row])) for row in chosen], len(groups))


def share_interval(share: float, patients: int) -> tuple[float, float]:
    """95 % interval of a share of patients (Clopper & Pearson 1934): 0 of 32 says "at most .11", and not "never"."""
    found, others = share * patients, (1 - share) * patients
    low = float(stats.beta.ppf(1 - LEVEL, found, others + 1)) if found > 0 else 0.0
    return low, float(stats.beta.ppf(LEVEL, found + 1, others)) if others > 0 else 1.0


def summarise_share(name: str, values: Sequence[float] | np.ndarray, patients: Sequence[str], unit: str = "") -> Score:
    """The share of cases for which something is true, with the exact interval of as many patients.

    Args:
        name: of the score.
        values: 0 or 1 per case.
        patients: the patient of each case.
        unit: "cases" for the number of cases instead of their share.
    """
    share, people = float(np.mean(values)), len(set(patients))
    low, high = share_interval(share, people)
    scale = len(patients) if unit == "cases" else 1
    return Score(name, scale * share, scale * low, scale * high, people, unit)


def summarise(
    name: str,
    values: Sequence[float] | np.ndarray,
    patients: Sequence[str],
    unit: str = "",
    statistic: Callable[[np.ndarray], float] = np.mean,
    seed: int = 0,
) -> Score:
    """A statistic over cases with its interval over patients.

    Args:
        name: of the score.
        values: one value (or row of values) per case.
        patients: the patient of each case.
        unit: of the statistic.
        statistic: of all cases' values; the mean by default.
        seed: of the bootstrap.
    """
    values, owners = np.asarray(values, dtype=np.float64), np.asarray(patients)
    groups = [values[owners == patient] for patient in sorted(set(patients))]
    low, high = bootstrap(groups, statistic, seed=seed)
    return Score(name, float(statistic(values)), low, high, len(groups), unit)
