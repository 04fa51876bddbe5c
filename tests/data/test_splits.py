"""The split: by patient, deterministic, shuffled, never empty from three patients on."""

import csv
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from medldm.cohort import Case, Cohort
from medldm.data.splits import assign_splits, balance
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
    with pytest.raises(UserError, match="seed=-1"):
        assign_splits(["a", "b", "c"], seed=-1)


def people(n: int, seed: int = 0) -> dict[str, dict]:
    """Patients whose names follow their age; a tenth has no age."""
    rng = np.random.default_rng(seed)
    ages = np.sort(rng.normal(50, 15, n))
    return {f"p{i:04}": {"age": None if i % 10 == 3 else float(ages[i]), "sex": "FM"[rng.integers(2)], "id": f"x{i}"} for i in range(n)}


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.floats(0, 0.49), st.floats(0, 0.5), st.integers(0, 3))
def test_strata_do_not_change_the_shares(n, val, test, seed):
    strata = people(n)
    plain, balanced = assign_splits(list(strata), val, test, seed), assign_splits(list(strata), val, test, seed, strata=strata)
    assert Counter(plain.values()) == Counter(balanced.values()) and sorted(plain) == sorted(balanced)


def test_strata_in_any_order_give_the_same_split():
    strata = people(50)
    turned = {name: dict(reversed(row.items())) for name, row in reversed(strata.items())}
    splits = assign_splits(list(strata), strata=strata)
    assert assign_splits([*turned, *strata], strata=turned) == splits != assign_splits(list(strata), seed=1, strata=strata)


def test_strata_that_say_nothing_still_give_a_split():
    names = [f"p{i}" for i in range(20)]
    for strata in ({}, {name: {"site": "one"} for name in names}, {name: {"id": name} for name in names}, {name: {"age": None} for name in names}):
        assert Counter(assign_splits(names, strata=strata).values()) == {"train": 15, "val": 1, "test": 4}


def gap(splits, strata, name, of=lambda value: value) -> float:
    """Largest distance of a split's mean from that of all, in standard deviations of all."""
    values = {p: of(strata[p][name]) for p in splits if strata[p][name] is not None}
    whole = np.array(list(values.values()))
    parts = [[v for p, v in values.items() if splits[p] == split] for split in ("train", "val", "test")]
    return max(abs(np.mean(part) - whole.mean()) / whole.std() for part in parts)


def test_splits_are_balanced():
    for seed in range(5):
        strata = people(90, seed)
        balanced = assign_splits(list(strata), 0.1, 0.2, seed, strata=strata)
        plain = assign_splits(list(strata), 0.1, 0.2, seed)
        assert gap(balanced, strata, "age") < min(0.2, gap(plain, strata, "age"))
        assert gap(balanced, strata, "sex", lambda sex: float(sex == "F")) < 0.25


def test_given_splits_are_balanced_by_the_others():
    """All given test patients are old: the new ones make up for it."""
    strata = people(100)
    given_old = dict.fromkeys([f"p{i:04}" for i in range(94, 100)], "test")
    splits = assign_splits(list(strata), 0.1, 0.2, given=given_old, strata=strata)
    assert all(splits[name] == "test" for name in given_old)
    new = [strata[p]["age"] for p, split in splits.items() if split == "test" and p not in given_old and strata[p]["age"] is not None]
    assert np.mean(new) < 50


def test_real_ages_are_balanced(shared_data):
    """IDs of this cohort follow age."""
    rows = list(csv.DictReader((shared_data / "brains/ixi_hh_2mm/participants.csv").read_text().splitlines()))
    strata = {row["MRID"]: {"age": float(row["Age"]), "sex": row["Sex"]} for row in rows}
    for seed in range(3):
        splits = assign_splits(list(strata), seed=seed, strata=strata)
        ages = {name: [strata[p]["age"] for p, split in splits.items() if split == name] for name in ("train", "val", "test")}
        assert all(ks_2samp(ages["train"], ages[name]).pvalue > 0.5 for name in ("val", "test"))


def test_the_table_of_balance():
    strata = {f"p{i}": {"age": float(i % 4), "sex": "FM"[i % 2], "flag": 1.0} for i in range(20)} | {"q": {"age": None, "sex": None, "flag": 1.0}}
    splits = {f"p{i}": "train" if i < 12 else "test" for i in range(20)} | {"q": "test"}
    assert balance(splits, strata, ("train", "val", "test")) == [
        ("age: mean ± SD", "1.5 ± 1.12", "", "1.5 ± 1.12"),
        ("age: p (KS, against the others)", "1.00", "", "1.00"),
        ("age: unknown", "0 %", "", "11 %"),
        ("sex: F", "50 %", "", "44 %"),
        ("sex: M", "50 %", "", "44 %"),
        ("sex: unknown", "0 %", "", "11 %"),
    ]
    assert balance({}, {}, ("train",)) == []


def test_rare_categories_are_shown_together():
    strata = {f"p{i}": {"site": f"s{min(i // 5, 11):02}"} for i in range(100)}
    rows = balance(dict.fromkeys(strata, "train"), strata, ("train",))
    assert [row[0] for row in rows] == ["site: s11", *(f"site: s{i:02}" for i in range(6)), "site: other"]
    assert [row[1] for row in rows] == ["45 %", *["5 %"] * 6, "25 %"]


def test_leaks_are_refused_with_their_pairs(tmp_path):
    def case(name, patient, split):
        return Case(name, patient, split, f"images/{name}.nii.gz", sha256=name)

    one = [case("a", "p", "train"), case("b", "p", "test")]
    with pytest.raises(UserError, match=r"same patient is in two splits: case 'a' in 'train' and case 'b' in 'test'\. Give"):
        Cohort(tmp_path, tuple(one)).save()
    many = [case(f"{kind}{i}", f"p{i}", split) for i in range(7) for kind, split in (("a", "train"), ("b", "val"), ("c", ""))]
    with pytest.raises(UserError, match=r"case 'a4' in 'train' and case 'b4' in 'val'; 7 pairs in all") as caught:
        Cohort(tmp_path, tuple(many)).save()
    assert "'a5'" not in str(caught.value) and not (tmp_path / "cohort.csv").exists()
