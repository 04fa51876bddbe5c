"""Intervals: coverage, patients as the unit, determinism; scores on disk."""

import csv
import math

import numpy as np
import pytest

from medldm.metrics.base import Score, write_scores
from medldm.metrics.bootstrap import bootstrap, case_weights, interval, summarise, summarise_share


@pytest.mark.parametrize("patients", [2, 3, 5, 8, 40])
def test_intervals_of_the_mean_hold_the_truth_in_93_to_97_of_100_cases(patients):
    rng, hits, trials = np.random.default_rng(0), 0, 1500
    for seed in range(trials):
        low, high = bootstrap(rng.normal(3.0, 1.0, size=(patients, 1)), lambda x: x.mean(), draws=300, seed=seed)
        hits += low <= 3.0 <= high
    assert 0.93 <= hits / trials <= 0.97


def test_repeating_a_patients_scan_does_not_narrow_the_interval():
    values = np.random.default_rng(1).normal(size=30)
    once, ten_times = bootstrap(values[:, None]), bootstrap(np.repeat(values[:, None], 10, axis=1))
    assert once == pytest.approx(ten_times)
    as_cases = bootstrap(np.repeat(values, 10)[:, None])
    assert as_cases[1] - as_cases[0] < 0.5 * (once[1] - once[0])


def test_the_interval_is_the_same_every_time_and_depends_on_the_seed():
    values = np.random.default_rng(2).normal(size=(12, 1))
    assert bootstrap(values) == bootstrap(values)
    assert bootstrap(values, seed=1) != bootstrap(values)


def test_one_patient_has_no_interval():
    score = summarise("psnr", [1.0, 3.0], ["a", "a"], "dB")
    assert (score.value, score.n) == (2.0, 1)
    assert math.isnan(score.low) and math.isnan(score.high)


def test_shares_have_exact_intervals():
    """Clopper & Pearson: of 0 in n the upper end is 1 - .025^(1/n)."""
    none = summarise_share("copies", np.zeros(32), [f"p{n}" for n in range(32)], "cases")
    assert (none.value, none.low, none.n) == (0, 0, 32) and none.high == pytest.approx(32 * (1 - 0.025 ** (1 / 32)))
    half = summarise_share("whole", [0, 1] * 5, [f"p{n}" for n in range(10)])
    assert (half.low, half.high) == pytest.approx((0.1871, 0.8129), abs=1e-4)
    scans = summarise_share("whole", [0, 1] * 50, [f"p{n // 10}" for n in range(100)])
    assert (scans.value, scans.low, scans.high, scans.n) == (0.5, half.low, half.high, 10)


def test_cases_of_one_patient_stand_together():
    weights = case_weights(["a", "b", "a", "c"], draws=50)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(1), 3)


def test_a_centred_interval_holds_its_centre():
    low, high = interval(np.linspace(5, 6, 100), 1000, centre=1.0)
    assert low < 1.0 < high
    assert high - low == pytest.approx(0.95, abs=0.02)


def test_scores_are_written_with_all_digits(tmp_path):
    write_scores(tmp_path / "metrics.csv", [Score("psnr", 1 / 3, np.float64(0.1), 0.7, 4, "dB", "test")])
    with open(tmp_path / "metrics.csv", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["name", "value", "low", "high", "n", "unit", "on"]
    assert rows[1] == ["psnr", repr(1 / 3), "0.1", "0.7", "4", "dB", "test"]
