"""Radiomics of shapes and patterns whose features are known."""

import numpy as np
import pytest

from medldm.metrics.distribution import FeatureDistance
from medldm.metrics.radiomics import DIRECTIONS, NAMES, Radiomics, co_occurrence, radiomics_v1


def features(image, inside, spacing=(1, 1, 1)):
    return dict(zip(NAMES, radiomics_v1(image, inside, spacing), strict=True))


def ball(radius=12):
    axes = np.meshgrid(*(np.arange(32) - 15.5 for _ in range(3)), indexing="ij")
    return sum(a**2 for a in axes) <= radius**2


def test_shape_of_a_ball_and_of_a_box():
    found = features(np.zeros((32, 32, 32)), ball(), (2, 2, 2))
    assert found["volume"] == pytest.approx(4 / 3 * np.pi * 24**3, rel=0.01)
    assert found["sphericity"] == pytest.approx(0.93, abs=0.05)  # steps of voxels add to the surface
    assert found["elongation"] == found["flatness"] == pytest.approx(1, abs=1e-6)
    box = np.zeros((32, 32, 32), dtype=bool)
    box[4:28, 8:20, 10:16] = True
    found = features(np.zeros((32, 32, 32)), box, (1, 2, 1))
    sides = sorted((24**2 - 1, (2 * 12) ** 2 - 4, 6**2 - 1), reverse=True)
    assert found["elongation"] == pytest.approx(np.sqrt(sides[1] / sides[0])) and found["flatness"] == pytest.approx(np.sqrt(sides[2] / sides[0]))
    assert found["volume"] == 24 * 12 * 6 * 2


def test_first_order_features_are_those_of_the_voxels_inside():
    image = np.random.default_rng(0).normal(size=(20, 20, 20))
    inside = image > 0
    found = features(np.where(inside, image, 99.0), inside)
    assert found["mean"] == pytest.approx(image[inside].mean()) and found["p90"] == pytest.approx(np.percentile(image[inside], 90))
    constant = features(np.full((8, 8, 8), 0.3), np.ones((8, 8, 8), dtype=bool))
    assert constant["skewness"] == constant["contrast"] == constant["entropy"] == 0
    assert constant["correlation"] == constant["energy"] == constant["homogeneity"] == 1


def test_the_co_occurrence_of_a_slice_is_that_of_scikit_image():
    from skimage.feature import graycomatrix

    assert len(DIRECTIONS) == 13
    image = np.random.default_rng(1).uniform(-1, 1, (9, 11, 1))
    levels = ((image[..., 0] + 1) / 2 * 16).astype(np.uint8)
    other = graycomatrix(levels, [1], [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4], levels=16, symmetric=True).sum((2, 3))
    np.testing.assert_allclose(co_occurrence(image, np.ones(image.shape, dtype=bool)), other / other.sum())


def test_neighbours_outside_do_not_count():
    image, inside = np.random.default_rng(2).uniform(-1, 1, (8, 8, 8)), np.zeros((8, 8, 8), dtype=bool)
    inside[:4] = True
    changed = np.where(inside, image, -image)
    np.testing.assert_array_equal(co_occurrence(image, inside), co_occurrence(changed, inside))
    lone = np.zeros((8, 8, 8), dtype=bool)
    lone[3, 3, 3] = True
    assert np.isfinite(radiomics_v1(image, lone, (1, 1, 1))).all()
    assert not radiomics_v1(image, lone & False, (1, 1, 1)).any()


def test_a_cohort_with_other_shapes_or_textures_is_far(store):
    def cohort(name, radius, noise, seed):
        rng = np.random.default_rng(seed)
        labels = [ball(radius + rng.uniform(-1, 1)).astype(float) for _ in range(12)]
        return store([rng.normal(0, noise, (32, 32, 32)) for _ in labels], labels, name=name)

    real = cohort("a", 9, 0.2, 0)
    null, larger, smoother = (
        {s.name: s for s in FeatureDistance(Radiomics())(images, real)}["frechet_radiomics_v1"]
        for images in (cohort("b", 9, 0.2, 1), cohort("c", 12, 0.2, 2), cohort("d", 9, 0.1, 3))
    )
    assert null.high < larger.low and null.high < smoother.low
