"""Training, validation and test: by patient, alike in what is known of the patients, the same for the same seed."""

from collections.abc import Mapping, Sequence

import numpy as np

from medldm.cohort import Covariate
from medldm.data.strata import Columns
from medldm.errors import UserError

CANDIDATES = 64
BINS = 10

Strata = Mapping[str, Mapping[str, Covariate]]


def assign_splits(
    patients: Sequence[str],
    val: float = 0.05,
    test: float = 0.2,
    seed: int = 0,
    given: Mapping[str, str] | None = None,
    strata: Strata | None = None,
) -> dict[str, str]:
    """Assign each patient to "train", "val" or "test".

    From three patients on, val and test get at least one each (unless their share is 0) and train keeps at least one.
    Patients are shuffled because their names often follow age or site. With strata, 64 splits are drawn, each stratified
    along another random combination of the covariates, and the best balanced one is taken; the shares stay the same.

    Args:
        patients: pseudonyms; repeats count once and the order does not matter.
        val: share for validation, in [0, 1).
        test: share for the test, in [0, 1); val + test < 1.
        seed: seed of the shuffle.
        given: patient -> split that is fixed already; the shares are then those of the remaining patients.
        strata: patient -> covariate -> number, category, or None where unknown.

    Raises:
        UserError: the shares or the seed are out of range.
    """
    if seed < 0:
        raise UserError(f"seed={seed} is negative.", "Give a whole number of at least 0.")
    if min(val, test) < 0 or val + test >= 1:
        raise UserError(f"val={val} and test={test} leave nothing to train on.", "Give shares of at least 0 whose sum is below 1.")
    given = given or {}
    names = np.random.default_rng(seed).permutation(sorted(set(patients) - set(given))).tolist()
    counts = {"test": round(test * len(names)), "val": round(val * len(names))}
    if len(names) >= 3:
        counts = {"test": max(counts["test"], int(test > 0)), "val": max(counts["val"], int(val > 0))}
    while sum(counts.values()) >= max(len(names), 1):
        counts[max(counts, key=counts.__getitem__)] -= 1
    fixed = {name: given[name] for name in sorted(set(patients) & set(given))}
    if strata is not None and names:
        return fixed | _balanced(names, counts, seed, fixed, strata)
    splits = ["test"] * counts["test"] + ["val"] * counts["val"]
    splits += ["train"] * (len(names) - len(splits))
    return fixed | dict(zip(names, splits, strict=True))


def balance(splits: Mapping[str, str], strata: Strata, names: Sequence[str]) -> list[tuple[str, ...]]:
    """How alike splits are, as rows of a table: what, then one text a split.

    Numbers: mean and standard deviation, and the p value of a Kolmogorov-Smirnov test against all other patients with a
    split. Categories: the share of each, "other" beyond the eight most frequent. Shares of unknown values, where there are any.

    Args:
        splits: patient -> split.
        strata: patient -> covariate -> number, category, or None where unknown.
        names: of the splits, in the order of the columns.
    """
    patients = sorted(splits)
    members = {name: np.array([splits[patient] == name for patient in patients], dtype=bool) for name in names}
    return [row for covariate in Columns.of(patients, strata).described() for row in covariate.rows(members)]


def _balanced(names: Sequence[str], counts: Mapping[str, int], seed: int, fixed: Mapping[str, str], strata: Strata) -> dict[str, str]:
    """The best balanced of some stratified splits."""
    names = sorted(names)
    columns = Columns.of([*names, *fixed], strata)
    best: tuple[float, list[str]] = (np.inf, [])
    for number in range(CANDIDATES):
        rng = np.random.default_rng([seed, number])
        splits = _stratified(columns.projected(rng)[: len(names)], counts, rng)
        score = columns.imbalance(np.array([*splits, *fixed.values()]))
        if score < best[0]:
            best = (score, splits)
    return dict(zip(names, best[1], strict=True))


def _stratified(values: np.ndarray, counts: Mapping[str, int], rng: np.random.Generator) -> list[str]:
    """Draw a split whose parts spread evenly over sorted values.

    Args:
        values: one number a patient [n].
        counts: split -> patients, for all but "train".
        rng: decides.
    """
    from sklearn.model_selection import StratifiedShuffleSplit

    splits = np.full(len(values), "train", dtype=object)
    for name, count in counts.items():
        left = np.flatnonzero(splits == "train")
        if count == 0:
            continue
        bins = max(1, min(BINS, count, len(left) - count, len(left) // 2))
        order = np.empty(len(left), dtype=int)
        order[np.argsort(values[left], kind="stable")] = np.arange(len(left))
        draw = StratifiedShuffleSplit(1, test_size=count, train_size=len(left) - count, random_state=int(rng.integers(1 << 31)))
        _, chosen = next(draw.split(np.zeros(len(left)), order * bins // len(left)))
        splits[left[chosen]] = name
    return [str(split) for split in splits]
