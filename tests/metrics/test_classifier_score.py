"""The inception score of known probabilities, and of cohorts with and without their classes."""

import numpy as np
import pytest

from medldm.metrics.classifier_score import ClassifierScore, inception_score


def test_the_score_lies_between_one_and_the_number_of_classes():
    assert inception_score(np.full((6, 3), 1 / 3)) == pytest.approx(1)
    assert inception_score(np.eye(3).repeat(4, axis=0)) == pytest.approx(3)
    assert inception_score(np.array([[1.0, 0.0]] * 5)) == pytest.approx(1)
    assert inception_score(np.array([[0.9, 0.1], [0.1, 0.9]])) == pytest.approx(np.exp(0.9 * np.log(1.8) + 0.1 * np.log(0.2)))


def test_a_cohort_that_lost_a_class_falls_behind_the_real_one(store):
    def images(noises, seed):
        rng = np.random.default_rng(seed)
        return [rng.normal(0, noise, (12, 12, 12)) for noise in noises]

    noises = [0.1, 0.4] * 12
    sexes = ["f" if noise < 0.2 else "m" for noise in noises]
    real = store(images(noises, 0), covariates={"sex": sexes, "age": [float(i) for i in range(24)]}, name="real")
    same, collapsed = store(images(noises, 1), name="same"), store(images([0.1] * 24, 2), name="collapsed")
    (good, yardstick), (bad, _) = (ClassifierScore()(made, real) for made in (same, collapsed))
    assert (good.name, yardstick.name) == ("classifier_score_sex_haar_v1", "classifier_score_sex_haar_v1_real")
    assert good.value > 1.7 and yardstick.value > 1.7 and bad.value < 1.1
    assert ClassifierScore()(same, store(images(noises, 3), name="other")) == []
