"""What the training of an autoencoder says of its latents."""

from functools import partial

import pytest
import torch

from medldm.commands.progress import warner
from medldm.models.lean import LeanAutoencoder
from medldm.models.losses import AutoencoderLoss
from medldm.models.quantized import QuantizedAutoencoder
from medldm.training.autoencoder import AutoencoderTraining
from medldm.training.options import Training


@pytest.fixture
def training():
    return AutoencoderTraining(LeanAutoencoder(1, 0, latent_channels=3, widths=(8,)), AutoencoderLoss(), Training(steps=2), 0, (8, 8, 8))


def posterior(spreads, stds):
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(2, 3, 8, 8, 8, generator=generator) * torch.tensor(spreads).reshape(1, 3, 1, 1, 1)
    return mean, torch.tensor(stds).reshape(1, 3, 1, 1, 1).expand_as(mean)


def test_sound_latents_are_no_concern(training):
    assert training.concerns() == []
    training.latest = posterior([1.0, 2.0, 0.5], [0.01, 0.5, 0.1])
    assert training.concerns() == []


def test_dead_noisy_and_far_channels_are_named(training):
    training.latest = posterior([0.01, 0.3, 500.0], [1.0, 0.6, 0.1])
    dead, noisy, far = training.concerns()
    assert "[0] carry almost nothing" in dead and "[1] are wider" in noisy and "[2] spread by more than 100" in far


def test_codebooks_that_are_hardly_used_are_named_and_quantised_latents_are_not_called_dead():
    model = QuantizedAutoencoder(1, 0, partial(LeanAutoencoder, latent_channels=2, widths=(8,)), codes=40, groups=2)
    training = AutoencoderTraining(model, AutoencoderLoss(), Training(steps=2), 0, (8, 8, 8))
    latents = torch.randn(1, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    training.latest = latents, torch.zeros_like(latents)
    assert training.concerns() == []
    model.count[1, 2:] = 0
    training.latest = latents * torch.tensor([500.0, 0.01]).reshape(1, 2, 1, 1, 1), torch.zeros_like(latents)
    few, far = training.concerns()
    assert "codebooks [1] are hardly used: as if they had 2 of 40" in few and "[0] spread by more than 100: raise loss.commitment" in far


def test_a_concern_of_a_kind_is_said_once_and_not_before_there_is_something_to_see():
    said = []
    watch = warner(lambda: ["a: 12 of 20", "b (2)"] if said else ["a: 3 of 20"], said.append, 20)
    for step in (10, 20, 30, 40, 60):
        watch(step, {})
    assert said == ["step 20: a: 3 of 20", "step 40: b (2)"]
