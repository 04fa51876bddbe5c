"""MMD, Frechet and Wasserstein distance: closed forms, no bias under the null, known shifts."""

import numpy as np
import pytest

from medldm.metrics.distribution import FeatureDistance, IntensityDistance
from medldm.metrics.features import Features, View, haar_v1
from medldm.metrics.frechet import components, corrected_frechet, frechet, frechet_distance, principal
from medldm.metrics.kernels import cubic, gaussian, median_bandwidth, mmd2


def test_frechet_of_two_gaussians_is_the_closed_form():
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 1.0, 16.0])
    mean = np.array([1.0, -2.0, 0.5])
    expected = (mean**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    assert frechet_distance(mean, np.diag(a), np.zeros(3), np.diag(b)) == pytest.approx(expected)
    assert frechet_distance(turn @ mean, turn @ np.diag(a) @ turn.T, np.zeros(3), turn @ np.diag(b) @ turn.T) == pytest.approx(expected)
    assert frechet_distance(mean, np.diag(a), mean, np.diag(a)) == pytest.approx(0, abs=1e-9)


def test_frechet_of_samples_has_no_bias_and_its_interval_holds_the_truth():
    """Two Gaussians of 8 features, 64 and 40 patients with 1 to 3 rows each; the uncorrected distance is 1.6 times too large."""
    rng, d = np.random.default_rng(1), 8
    owners = [np.repeat(np.arange(n), rng.integers(1, 4, n)) for n in (64, 40)]
    truth, plain, found = d * (0.3**2 + 0.2**2), [], []
    for seed in range(60):
        x, y = (
            (shift + scale * rng.normal(size=(owner.max() + 1, d)))[owner] for owner, shift, scale in zip(owners, (0, 0.3), (1, 1.2), strict=True)
        )
        plain.append(frechet(x, y))
        found.append(corrected_frechet(x, y, *owners, seed))
    value, low, high = np.transpose(found)
    assert np.mean(plain) > 1.4 * truth
    assert abs(value.mean() - truth) < 3 * value.std() / np.sqrt(len(value)) + 0.05 * truth
    assert np.mean((low <= truth) & (truth <= high)) >= 0.93


def test_frechet_of_equal_distributions_scatters_around_zero():
    rng, owner = np.random.default_rng(2), np.arange(40)
    found = np.array([corrected_frechet(rng.normal(size=(40, 6)), rng.normal(size=(40, 6)), owner, owner)[0] for _ in range(60)])
    assert abs(found.mean()) < 4 * found.std() / np.sqrt(len(found)) and found.min() < 0 < found.max()


def test_components_are_what_few_patients_bear_and_those_of_largest_variance():
    assert [components(47, 200, 40), components(4, 200, 40), components(47, 2)] == [13, 4, 1]
    rows = np.random.default_rng(3).normal(size=(500, 4)) * [1, 5, 0.1, 2]
    assert np.abs(principal(rows, 2))[[1, 3], [0, 1]] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("kernel", [gaussian(2.0), cubic], ids=["mmd", "kid"])
def test_discrepancies_have_mean_zero_under_the_null_and_are_positive_for_a_shift(kernel):
    rng = np.random.default_rng(2)
    null = np.array([mmd2(rng.normal(size=(20, 3)), rng.normal(size=(25, 3)), kernel) for _ in range(1000)])
    assert abs(null.mean()) < 3 * null.std() / np.sqrt(len(null))
    assert null.min() < 0 < null.max()
    assert mmd2(rng.normal(size=(50, 3)) + 1, rng.normal(size=(50, 3)), kernel) > 3 * null.std()


@pytest.mark.parametrize(
    ("kernel", "k"),
    [(gaussian(1.5), lambda a, b: np.exp(-np.sum((a - b) ** 2) / (2 * 1.5**2))), (cubic, lambda a, b: (a @ b / 2 + 1) ** 3)],
    ids=["mmd", "kid"],
)
def test_a_discrepancy_is_the_plain_double_sum(kernel, k):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(4, 2)), rng.normal(size=(5, 2)) + 1
    within_x = np.mean([k(x[i], x[j]) for i in range(4) for j in range(4) if i != j])
    within_y = np.mean([k(y[i], y[j]) for i in range(5) for j in range(5) if i != j])
    across = np.mean([k(a, b) for a in x for b in y])
    assert mmd2(x, y, kernel) == pytest.approx(within_x + within_y - 2 * across)


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


def rough_and_smooth(count=24):
    rng = np.random.default_rng(5)
    return (
        [rng.normal(0, 0.3, (16, 16, 16)) for _ in range(count)],
        [np.kron(rng.normal(0, 0.3, (4, 4, 4)), np.ones((4, 4, 4))) for _ in range(count)],
    )


def test_feature_distance_tells_smooth_from_rough_images(store):
    rough, smooth = rough_and_smooth()
    real, same, other = store(rough[:12], name="a"), store(rough[12:], name="b"), store(smooth[:8], name="c")
    null, far = ({s.name: s for s in FeatureDistance()(images, real)} for images in (same, other))
    assert list(far) == [f"{m}_haar_v1" for m in ("mmd2", "kid", "frechet", "precision", "recall", "density", "coverage")]
    for name in ("mmd2_haar_v1", "frechet_haar_v1"):
        assert null[name].high < far[name].low and null[name].low <= null[name].value <= null[name].high
    assert far["kid_haar_v1"].value > null["kid_haar_v1"].high
    assert far["precision_haar_v1"].value == far["coverage_haar_v1"].value == 0 < null["precision_haar_v1"].value
    assert far["frechet_haar_v1"].on == "haar_v1; 2 principal components; 8 against 12 patients"


def test_what_cannot_be_computed_is_marked_and_no_number(store):
    rough, _ = rough_and_smooth()
    real, two, four = store(rough[:12], name="a"), store(rough[12:14], name="b"), store(rough[12:16], name="c")
    scores = FeatureDistance()(two, real)
    assert [s.name for s in scores] == [f"{m}_haar_v1" for m in ("mmd2", "kid", "frechet", "precision", "recall", "density", "coverage")]
    assert all(np.isnan([s.value, s.low, s.high]).all() and "at least 3 patients" in s.on and s.n == 2 for s in scores)
    marked = {s.name.partition("_")[0]: s.on for s in FeatureDistance()(four, real) if np.isnan(s.value)}
    assert marked == dict.fromkeys(("precision", "recall", "density", "coverage"), "not computable: more than 5 patients of each cohort are needed")
    three = {s.name.partition("_")[0]: s for s in FeatureDistance()(store(rough[12:15], name="d"), real)}
    assert "at least 4 patients" in three["frechet"].on and np.isfinite(three["mmd2"].value)


def test_copies_are_not_authentic(store):
    rough, _ = rough_and_smooth()
    training, fresh, copies = store(rough[:10], name="a"), store(rough[10:20], name="b"), store(rough[:10], name="c")
    made, new = ({s.name: s for s in FeatureDistance(training=training)(i, fresh)} for i in (copies, fresh))
    assert made["authenticity_haar_v1"].value == 0 < new["authenticity_haar_v1"].value == made["authenticity_haar_v1_real"].value
    assert made["authenticity_haar_v1"].low == 0 < made["authenticity_haar_v1"].high < 0.4, "none of 10 is no proof of none at all"


def test_features_are_worked_out_once(store, monkeypatch):
    rough, _ = rough_and_smooth(10)
    real, other, calls = store(rough[:5], name="a"), store(rough[5:], name="b"), []
    monkeypatch.setattr("medldm.metrics.features.haar_v1", lambda image: calls.append(1) or np.array([image.mean(), image.std()]))
    for images in (other, real):
        FeatureDistance()(images, real)
    assert len(calls) == 10


class Slices(Features):
    """Two views, of rows that stand several to a case."""

    name = "slices"

    def views(self, images):
        rows = [[images.image(i)[0].mean(axis).std(1)[:, None] for i in range(len(images))] for axis in (0, 1)]
        return [View(np.concatenate(view), np.repeat(np.arange(len(images)), [len(r) for r in view])) for view in rows]


def test_a_case_may_have_several_rows_and_views(store):
    rough, smooth = rough_and_smooth()
    real, same, other = store(rough[:12], name="a"), store(rough[12:], name="b"), store(smooth, name="c")
    assert Slices().cases(real).shape == (12, 2)
    null, far = ({s.name: s for s in FeatureDistance(Slices(), basis=real)(images, real)}["frechet_slices"] for images in (same, other))
    assert null.high < far.low and far.n == 12 and far.on.endswith("24 against 12 patients")
