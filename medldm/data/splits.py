"""Training, validation and test: by patient, shuffled, the same for the same seed."""

from collections.abc import Mapping, Sequence

import numpy as np

from medldm.errors import UserError


def assign_splits(
    patients: Sequence[str], val: float = 0.05, test: float = 0.2, seed: int = 0, given: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Assign each patient to "train", "val" or "test".

    From three patients on, val and test get at least one each (unless their share is 0) and train keeps at least one.
    Patients are shuffled because their names often follow age or site.

    Args:
        patients: pseudonyms; repeats count once and the order does not matter.
        val: share for validation, in [0, 1).
        test: share for the test, in [0, 1); val + test < 1.
        seed: seed of the shuffle.
        given: patient -> split that is fixed already; the shares are then those of the remaining patients.

    Raises:
        UserError: the shares are out of range.
    """
    if min(val, test) < 0 or val + test >= 1:
        raise UserError(f"val={val} and test={test} leave nothing to train on.", "Give shares of at least 0 whose sum is below 1.")
    given = given or {}
    names = np.random.default_rng(seed).permutation(sorted(set(patients) - set(given))).tolist()
    counts = {"test": round(test * len(names)), "val": round(val * len(names))}
    if len(names) >= 3:
        counts = {"test": max(counts["test"], int(test > 0)), "val": max(counts["val"], int(val > 0))}
    while sum(counts.values()) >= max(len(names), 1):
        counts[max(counts, key=counts.__getitem__)] -= 1
    splits = ["test"] * counts["test"] + ["val"] * counts["val"]
    splits += ["train"] * (len(names) - len(splits))
    return {name: given[name] for name in sorted(set(patients) & set(given))} | dict(zip(names, splits, strict=True))
