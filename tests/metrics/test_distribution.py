"""MMD, Frechet and Wasserstein distance: closed forms, no bias under the null, known shifts."""

import numpy as np
import pytest

from medldm.metrics.distribution import FeatureDistance, IntensityDistance, frechet, frechet_distance, median_bandwidth, mmd2
from medldm.metrics.features import haar_v1


def test_frechet_of_two_gaussians_is_the_closed_form():
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 1.0, 16.0])
    mean = np.array([1.0, -2.0, 0.5])
    expected = (mean**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    assert frechet_distance(mean, np.diag(a), np.zeros(3), np.diag(b)) == pytest.approx(expected)
    assert frechet_distance(turn @ mean, turn @ np.diag(a) @ turn.T, np.zeros(3), turn @ np.diag(b) @ turn.T) == pytest.approx(expected)
    assert frechet_distance(mean, np.diag(a), mean, np.diag(a)) == pytest.approx(0, abs=1e-9)


def test_frechet_of_large_samples_comes_near_the_closed_form_and_few_cases_work():
    rng = np.random.default_rng(1)
    x, y = rng.normal(0, 1, (20000, 4)), rng.normal(0.5, 2, (20000, 4))
    assert frechet(x, y) == pytest.approx(4 * (0.25 + 1), rel=0.03)
    few = frechet(rng.normal(size=(8, 47)), rng.normal(size=(8, 47)))
    assert np.isfinite(few) and few >= 0


def test_mmd_has_mean_zero_under_the_null_and_is_positive_for_a_shift():
    rng = np.random.default_rng(2)
    null = np.array([mmd2(rng.normal(size=(20, 3)), rng.normal(size=(25, 3)), 2.0) for _ in range(400)])
    assert abs(null.mean()) < 4 * null.std() / np.sqrt(len(null))
    assert null.min() < 0 < null.max()
    assert mmd2(rng.normal(size=(50, 3)) + 1, rng.normal(size=(50, 3)), 2.0) > 5 * null.std()


def test_mmd_is_the_plain_double_sum():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(4, 2)), rng.normal(size=(5, 2)) + 1

    def k(a, b):
        return np.exp(-np.sum((a - b) ** 2) / (2 * 1.5**2))

    within_x = np.mean([k(x[i], x[j]) for i in range(4) for j in range(4) if i != j])
    within_y = np.mean([k(y[i], y[j]) for i in range(5) for j in range(5) if i != j])
    across = np.mean([k(a, b) for a in x for b in y])
    assert mmd2(x, y, 1.5) == pytest.approx(within_x + within_y - 2 * across)


def test_median_bandwidth_is_the_median_distance():
    assert median_bandwidth(np.array([[0.0], [1.0], [3.0]])) == pytest.approx(2.0)


def test_haar_features_of_known_images():
    constant = haar_v1(np.full((9, 8, 16), 0.25))
    assert constant.shape == (47,)
    np.testing.assert_allclose(constant, [0.0] * 42 + [0.25] * 5, atol=1e-12)
    stripes = np.zeros((8, 8, 8))
    stripes[::2] = 1.0
    found = haar_v1(stripes)
    # only the finest band that differences along I sees stripes along I: each block's coefficient is 4 / sqrt(8)
    assert found[6] == pytest.approx(np.sqrt(2)) and found[7] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(np.delete(found[:42], 6), 0, atol=1e-12)


def test_features_do_not_depend_on_the_size_of_the_image():
    rng = np.random.default_rng(4)
    a, b = haar_v1(rng.normal(size=(32, 32, 32))), haar_v1(rng.normal(size=(40, 48, 24)))
    np.testing.assert_allclose(a[:14], b[:14], rtol=0.1)


def test_intensity_distance_of_a_shift_is_the_shift(store):
    images = [np.random.default_rng(i).uniform(-0.5, 0.2, (8, 9, 10)) for i in range(4)]
    real, fake = store(images, name="real"), store([x + 0.3 for x in images], name="fake")
    (score,) = IntensityDistance()(fake, real)
    assert score.value == pytest.approx(0.3, abs=2 / 1024)
    assert score.low <= score.value <= score.high and score.n == 4
    assert IntensityDistance()(real, real)[0].value == 0


def test_feature_distance_tells_smooth_from_rough_images(store):
    rng = np.random.default_rng(5)
    rough = [rng.normal(0, 0.3, (16, 16, 16)) for _ in range(24)]
    smooth = [np.kron(rng.normal(0, 0.3, (4, 4, 4)), np.ones((4, 4, 4))) for _ in range(8)]
    real, same, other = store(rough[:12], name="a"), store(rough[12:], name="b"), store(smooth, name="c")
    null, far = FeatureDistance()(same, real), FeatureDistance()(other, real)
    assert [s.name for s in far] == ["mmd2_haar_v1", "frechet_haar_v1"]
    for n, f in zip(null, far, strict=True):
        assert n.high < f.low and n.low <= n.value <= n.high
    assert FeatureDistance()(store(rough[:2], name="d"), real) == []
