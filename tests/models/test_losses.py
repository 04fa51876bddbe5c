import math

import pytest
import torch

from medldm.models.losses import AutoencoderLoss, gradient_l1, kl_from_normal, soft_dice


def test_kl_is_that_of_torch():
    mean, std = torch.randn(50), torch.rand(50) + 0.1
    normal = torch.distributions.Normal
    assert torch.allclose(kl_from_normal(mean, std), torch.distributions.kl_divergence(normal(mean, std), normal(0, 1)), atol=1e-5)


def test_a_ramp_against_nothing_has_its_slope_as_gradient_error():
    ramp = torch.arange(5.0).reshape(1, 1, 5, 1, 1).expand(1, 1, 5, 5, 5)
    assert gradient_l1(ramp, torch.zeros_like(ramp)).item() == pytest.approx(1 / 3)
    assert gradient_l1(ramp + 3, ramp).item() == pytest.approx(0)


def test_dice_of_a_known_overlap():
    label = torch.zeros(1, 1, 4, 4, 4)
    label[:, :, :2] = 1  # 32 voxels
    predicted = torch.zeros(1, 2, 4, 4, 4)
    predicted[:, 1] = -50.0
    predicted[:, 1, 1:3] = 50.0  # 32 voxels, 16 of them right
    assert soft_dice(predicted, label, smooth=0.0).item() == pytest.approx(0.5)


def test_a_perfect_reconstruction_costs_nothing():
    label = torch.randint(0, 3, (2, 1, 8, 8, 8)).float()
    image = torch.rand(2, 1, 8, 8, 8)
    logits = 200.0 * torch.nn.functional.one_hot(label[:, 0].long(), 3).movedim(-1, 1)
    terms = AutoencoderLoss()(torch.cat([image, logits], 1), image, label, torch.zeros(2, 4, 2, 2, 2), torch.ones(2, 4, 2, 2, 2))
    assert sum(terms.values()).item() == pytest.approx(0, abs=1e-4)
    assert set(terms) == {"image", "gradient", "kl", "cross_entropy", "dice"}


def test_an_uninformed_prediction_costs_the_entropy():
    label = torch.zeros(1, 1, 8, 8, 8)
    terms = AutoencoderLoss()(torch.zeros(1, 4, 8, 8, 8), torch.zeros(1, 1, 8, 8, 8), label, torch.zeros(1), torch.ones(1))
    assert terms["cross_entropy"].item() == pytest.approx(0.5 * math.log(3))
