"""Attacks on members: statistics with known answers, a model that knows its training cases by heart, and one that cannot tell."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from medldm.diffusion.conditions.base import Context
from medldm.diffusion.denoiser import Denoiser
from medldm.diffusion.process import Flow
from medldm.privacy.membership import Membership, auc, auc_interval, denoising_error, found_at, noise_seen
from medldm.privacy.neighbours import closer, ratio


class ByHeart(nn.Module):
    """The best clean estimate for a finite set of latents: their mean, weighted by how likely each became x_t."""

    width = 4

    def __init__(self, latents):
        super().__init__()
        self.latents = latents

    def forward(self, x, t, vector):
        signal, noise = 1 - t, t
        x_t = x[:, :-1] / (signal**2 + noise**2).rsqrt().to(x)[:, None, None, None, None]
        away = (x_t[:, None] - signal.to(x)[:, None, None, None, None, None] * self.latents).flatten(2).square().sum(2)
        weights = (-away / (2 * noise.to(x)[:, None] ** 2)).softmax(1)
        return torch.einsum("bn,ncijk->bcijk", weights, self.latents)


@pytest.fixture(scope="module")
def latents():
    """30 latents that the model knows, and 30 that it does not."""
    return torch.randn(2, 30, 2, 3, 3, 3, generator=torch.Generator().manual_seed(0))


def attacked(denoiser, latents):
    context, noises = Context(torch.zeros(1, 4)), torch.randn(2, *latents.shape[2:], generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        loss = np.array([[-denoising_error(denoiser, z[None], context, noises) for z in group] for group in latents])
        seen = np.array([[-noise_seen(denoiser, z[None], context) for z in group] for group in latents])
    return Membership({"loss": loss[0], "sima": seen[0]}, {"loss": loss[1], "sima": seen[1]})


def test_a_model_that_knows_its_cases_by_heart_is_found_out(latents):
    found = attacked(Denoiser(ByHeart(latents[0]), Flow(), {}, "data"), latents)
    assert {s.name: s.value for s in found.scores() if "auc" in s.name} == {"membership_auc_loss": 1.0, "membership_auc_sima": 1.0}
    assert found.verdict()[0] == "fail"


def test_a_model_of_other_cases_tells_none_of_both(latents):
    strangers = torch.randn(30, 2, 3, 3, 3, generator=torch.Generator().manual_seed(7))
    found = attacked(Denoiser(ByHeart(strangers), Flow(), {}, "data"), latents)
    for score in found.scores():
        if "auc" in score.name:
            assert score.low < 0.5 < score.high
    assert found.verdict()[0] != "fail"


def test_the_auc_counts_pairs_and_half_of_ties():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 13).astype(float), rng.integers(0, 5, 9).astype(float)
    assert auc(a, b) == pytest.approx(np.mean([(x > y) + 0.5 * (x == y) for x in a for y in b]))
    assert auc(a, a) == 0.5 and auc(b + 10, b) == 1.0
    metrics = pytest.importorskip("sklearn.metrics")
    assert auc(a, b) == pytest.approx(metrics.roc_auc_score([1] * len(a) + [0] * len(b), np.concatenate([a, b])))


def test_the_interval_holds_one_half_where_members_and_others_are_alike():
    rng = np.random.default_rng(0)
    held = [low <= 0.5 <= high for low, high in (auc_interval(rng.normal(size=40), rng.normal(size=30)) for _ in range(300))]
    assert np.mean(held) >= 0.88  # 95 %, three standard errors of 100


def test_a_rate_at_one_percent_needs_a_hundred_others():
    others = np.arange(200.0)
    assert found_at(np.array([197.0, 197.5, 250.0, 10.0]), others) == 0.5, "two of 200 lie above 197"
    assert math.isnan(found_at(np.arange(5.0), np.arange(99.0)))


def test_few_patients_are_inconclusive():
    state, reason = Membership({"loss": np.arange(50.0)}, {"loss": -np.arange(19.0)}).verdict()
    assert state == "inconclusive" and "19 patients" in reason


def test_an_attack_that_could_still_be_strong_is_inconclusive():
    rng = np.random.default_rng(0)
    wide = Membership({"loss": rng.normal(0.3, 1, 20)}, {"loss": rng.normal(size=20)})
    assert wide.verdict()[0] == "inconclusive"
    narrow = Membership({"loss": rng.normal(size=400)}, {"loss": rng.normal(size=400)})
    assert narrow.verdict()[0] == "pass"


def test_copies_are_closer_to_the_training_half_and_strangers_are_not():
    rng = np.random.default_rng(0)
    seen, unseen = rng.normal(size=(2, 40, 12))
    near, p = closer(seen[:20] + 0.01 * rng.normal(size=(20, 12)), seen, unseen, rng)
    assert near.mean() == 1.0 and p < 0.01
    assert ratio(seen[:20] + 1e-3, seen).max() < 0.05 < ratio(unseen, seen).min()
    ps = [closer(rng.normal(size=(30, 12)), seen, unseen, rng)[1] for _ in range(60)]
    assert np.mean(np.array(ps) <= 0.1) <= 0.25, "p of the null is no smaller than it says"
    assert np.isnan(ratio(unseen, seen[:1])).all()
