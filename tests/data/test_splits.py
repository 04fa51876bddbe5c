"""The split: by patient, deterministic, shuffled, never empty from three patients on."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medldm.data.splits import assign_splits
from medldm.errors import UserError


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 80), st.floats(0, 0.49), st.floats(0, 0.5), st.integers(0, 9))
def test_each_patient_once_and_no_split_empty(n, val, test, seed):
    patients = [f"p{i}" for i in range(n)]
    splits = assign_splits(patients, val, test, seed)
    counts = Counter(splits.values())
    assert sorted(splits) == sorted(patients) and counts["train"] >= 1
    if n >= 3:
        assert (counts["val"] >= 1) == (val > 0) and (counts["test"] >= 1) == (test > 0)


def test_order_and_repeats_do_not_matter_but_the_seed_does():
    patients = [f"p{i:03d}" for i in range(100)]
    splits = assign_splits(patients)
    assert Counter(splits.values()) == {"train": 75, "val": 5, "test": 20}
    assert assign_splits([*reversed(patients), *patients]) == splits != assign_splits(patients, seed=1)
    test = [i for i, p in enumerate(patients) if splits[p] == "test"]
    assert 30 < sum(test) / len(test) < 70, "the test patients are one end of the sorted names"


def test_given_splits_stay():
    patients = [f"p{i}" for i in range(10)]
    splits = assign_splits(patients, given={"p0": "test", "p1": "val", "stranger": "train"})
    assert splits["p0"] == "test" and splits["p1"] == "val" and sorted(splits) == patients


@pytest.mark.parametrize("val, test", [(-0.1, 0.2), (0.5, 0.5), (0.0, 1.0)])
def test_wrong_shares(val, test):
    with pytest.raises(UserError):
        assign_splits(["a", "b", "c"], val, test)
