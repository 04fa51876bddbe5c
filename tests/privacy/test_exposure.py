"""Guesses of planted cases: bounds with known answers, a model that knows them by heart, and one that never saw them."""

import math

import numpy as np
import pytest
from scipy import stats

from medldm.privacy.exposure import Exposure, epsilon_bound


@pytest.mark.parametrize("guesses", [10, 50, 200])
def test_all_right_guesses_bound_epsilon_in_closed_form(guesses):
    """P(all right) = (e^eps / (1 + e^eps))^guesses = .05."""
    p = 0.05 ** (1 / guesses)
    assert epsilon_bound(guesses, guesses, 2 * guesses) == pytest.approx(math.log(p / (1 - p)), rel=1e-6)


def test_guesses_like_coins_rule_out_nothing():
    assert epsilon_bound(100, 50, 200) == 0.0 and epsilon_bound(0, 0, 3) == 0.0 and epsilon_bound(20, 0, 40) == 0.0


def test_the_bound_holds_in_95_of_100_trainings():
    """Randomised response is the mechanism for which the bound is sharp: each guess is right with e^eps / (1 + e^eps)."""
    epsilon, rng = 1.0, np.random.default_rng(0)
    rights = rng.binomial(60, 1 / (1 + math.exp(-epsilon)), 2000)
    bounds = {right: epsilon_bound(60, right, 120) for right in set(rights.tolist())}
    failed = np.mean([bounds[right] > epsilon for right in rights.tolist()])
    assert 0.01 < failed <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


def test_delta_weakens_the_bound_and_follows_the_theorem():
    without, small, large = (epsilon_bound(40, 36, 80, delta) for delta in (0.0, 1e-4, 1e-2))
    assert without > small > large >= 0
    told = stats.binom(40, 1 / (1 + math.exp(-small)))
    excess = max((told.sf(35 - i) - told.sf(35)) / i for i in range(1, 37))
    assert told.sf(35) + 2 * 80 * 1e-4 * excess == pytest.approx(0.05, rel=1e-6)


def exposure(gap, count=40, seed=0, **claims):
    rng = np.random.default_rng(seed)
    return Exposure(*({"loss": rng.normal(shift, 1, count), "sima": rng.normal(0, 1, count)} for shift in (gap, 0)), **claims)


def test_what_is_told_fails_and_what_is_not_does_not():
    clear, null = exposure(8), exposure(0)
    assert "AUC of 1.00" in clear.failure() and null.failure() == ""
    found = {score.name: score for score in clear.scores()}
    assert found["canary_auc_loss"].value == 1 and found["canary_auc_sima"].low < 0.5 < found["canary_auc_sima"].high
    p = 0.025 ** (1 / 40)  # a quarter of 80 candidates on each side, two attacks
    assert found["canary_epsilon"].value == pytest.approx(math.log(p / (1 - p)), rel=1e-6) and found["canary_epsilon"].n == 80


def test_a_broken_promise_fails():
    assert "and 1.00 is claimed" in exposure(8, delta=1e-5, claimed=1.0).failure()
    assert "claimed" not in exposure(8, delta=1e-5, claimed=8.0).failure()


def test_the_null_rarely_rules_out_anything():
    bounds = [exposure(0, seed=seed).epsilon for seed in range(200)]
    assert np.mean(np.array(bounds) > 0) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_candidates_of_one_kind_alone_say_nothing():
    one = Exposure({"loss": np.arange(4.0)}, {"loss": np.zeros(0)})
    assert math.isnan(one.scores()[0].value) and one.failure() == "" and one.epsilon == 0.0
