"""Condition fidelity: known volumes, known errors, covariates that labels do and do not carry."""

import numpy as np
import pytest

from medldm.errors import UserError
from medldm.metrics.conditions import ConditionFidelity, balanced_accuracy, correlation, volume_pairs


def box(left, right):
    """A label map with so many voxels of each structure."""
    label = np.zeros(1000)
    label[:left], label[500 : 500 + right] = 1, 2
    return label.reshape(10, 10, 10)


LEFT, RIGHT = np.array([100, 150, 210, 260, 300, 340]), np.array([400, 120, 330, 250, 180, 300])


def cohort(store, covariates, units=None, left=LEFT, right=RIGHT, name="cohort"):
    labels = [box(a, b) for a, b in zip(left, right, strict=True)]
    return store(labels, labels, {k: list(v) for k, v in covariates.items()}, units, name=name)


def scores(generated, real):
    return {s.name: s for s in ConditionFidelity()(generated, real)}


def test_exact_volumes_have_no_error(store):
    fake = cohort(store, {"volume_left": LEFT * 1.0, "volume_right": RIGHT * 1.0})
    found = scores(fake, fake)
    for name in ("left", "right", "total"):
        assert found[f"fidelity_r_volume_{name}"].value == pytest.approx(1)
        assert found[f"fidelity_error_volume_{name}"].value == pytest.approx(0, abs=1e-9)
    assert found["fidelity_r_volume_total"].n == 6


def test_a_known_bias_and_unit(store):
    fake = cohort(store, {"volume_left": LEFT / 1000 / 1.1}, {"volume_left": "ml"})
    found = scores(fake, fake)
    assert found["fidelity_bias_volume_left"].value == pytest.approx(10)
    assert found["fidelity_error_volume_left"].value == pytest.approx(10)
    assert found["fidelity_bias_volume_left"].unit == "%"
    assert "fidelity_r_volume_total" not in found  # the right one was not requested


def test_missing_and_constant_requests_are_left_out(store):
    requested = [float(v) for v in LEFT]
    requested[0] = None
    fake = cohort(store, {"volume_left": requested, "volume_right": [200.0] * 6})
    assert [(p.name, p.cases.tolist()) for p in volume_pairs(fake)] == [("volume_left", [1, 2, 3, 4, 5]), ("volume_total", [1, 2, 3, 4, 5])]


def test_a_unit_that_is_no_volume_is_refused(store):
    with pytest.raises(UserError, match=r"volume_left.*'kg'"):
        volume_pairs(cohort(store, {"volume_left": LEFT * 1.0}, {"volume_left": "kg"}))


def test_covariates_are_read_off_the_volumes(store):
    rng = np.random.default_rng(0)
    left, right = rng.integers(50, 400, (2, 40))
    real = cohort(store, {"age": left / 5, "luck": rng.normal(size=40), "sex": np.where(right > 220, "f", "m")}, left=left, right=right, name="real")
    left, right = rng.integers(50, 400, (2, 30))
    fake = cohort(store, {"age": left / 5, "luck": rng.normal(size=30), "sex": np.where(right > 220, "f", "m")}, left=left, right=right, name="fake")
    found = scores(fake, real)
    assert found["fidelity_r_age"].value > 0.99 and found["fidelity_r_age_real"].value > 0.99
    assert found["fidelity_accuracy_sex"].value > 0.9 and found["fidelity_accuracy_sex_real"].value > 0.85
    assert abs(found["fidelity_r_luck"].value) < 0.45 and found["fidelity_r_luck_real"].value < 0.45
    assert (found["fidelity_r_age"].n, found["fidelity_r_age_real"].n) == (30, 40)


def test_constant_covariates_and_unlabelled_cohorts_have_no_score(store):
    real = cohort(store, {"age": LEFT * 1.0}, name="real")
    found = scores(cohort(store, {"age": [50.0] * 6}, name="fake"), real)
    assert list(found) == ["fidelity_r_age"] and np.isnan(found["fidelity_r_age"].value)
    assert "the same was asked for in every case" in found["fidelity_r_age"].on
    assert scores(store([np.zeros((4, 4, 4))] * 3, covariates={"volume_left": [1.0, 2.0, 3.0]}, name="bare"), real) == {}


def test_statistics_of_two_columns():
    assert correlation(np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]])) == pytest.approx(1)
    assert np.isnan(correlation(np.array([[1.0, 2.0], [1.0, 4.0]])))
    assert balanced_accuracy(np.array([[0, 0], [0, 0], [0, 1], [1, 1]])) == pytest.approx((2 / 3 + 1) / 2)
