"""Group normalisation in bf16 autocast keeps its statistics in float32, wherever a network has one.

It does so in the usual layout alone: with channels last, torch 2.13 takes the variance as a difference of large sums.
"""

from functools import partial

import pytest
import torch
from torch import nn

from medldm.models.adversarial import Adversarial
from medldm.models.encoder import FeatureEncoder
from medldm.models.lean import LeanAutoencoder
from medldm.models.monai_autoencoder import MonaiAutoencoder
from medldm.models.nets import UNet

BF16 = 2.0**-8  # relative rounding of bfloat16
NETWORKS = {
    "features": lambda: FeatureEncoder(1, widths=(16, 32)),
    "monai": lambda: MonaiAutoencoder(1, 1, channels=(16, 16), attention=True),
    "unet": lambda: UNet(4, channels=(16, 32), width=16),
    "discriminator": lambda: Adversarial(channels=4).build(1),
}


def normalised(x, module):
    """The group normalisation of bf16 numbers, all in float64 (Wu & He 2018)."""
    groups = x.double().reshape(len(x), module.num_groups, -1)
    centred = groups - groups.mean(-1, keepdim=True)
    y = (centred * (groups.var(-1, correction=0, keepdim=True) + module.eps).rsqrt()).reshape(x.shape)
    column = (1, -1, *[1] * (x.ndim - 2))
    return y * module.weight.double().reshape(column) + module.bias.double().reshape(column)


def lifted(channels):
    """Numbers of mean 100 and standard deviation 1, stored in bf16: sums of bf16 would have lost the variance."""
    generator = torch.Generator().manual_seed(0)
    return (100 + torch.randn(2, channels, 12, 13, 11, generator=generator)).bfloat16()


@pytest.mark.parametrize("name", NETWORKS)
def test_statistics_are_taken_in_float32(name):
    norms = [module for module in NETWORKS[name]().modules() if type(module).__module__.startswith("torch.") and "Norm" in type(module).__name__]
    assert norms and all(type(module) is nn.GroupNorm for module in norms)
    for module in norms:
        nn.init.normal_(module.weight, mean=1, std=0.3)
        x = lifted(module.num_channels).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            found = module(x)
        wanted = normalised(x, module)
        error = (found.double() - wanted).abs()
        assert (error <= BF16 * (wanted.abs() + 0.05)).all()
        slope = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
        ours, exact = (torch.autograd.grad((y * slope.to(y.dtype)).sum(), [module.weight, x]) for y in (found, wanted))
        for a, b in zip(ours, exact, strict=True):
            assert (a.double() - b.double()).abs().max() <= 2 * BF16 * b.abs().max()


def test_the_check_would_find_statistics_in_bf16():
    x = lifted(8)
    groups = x.reshape(2, 8, -1)
    variance = (groups * groups).mean(-1, dtype=torch.bfloat16) - groups.mean(-1, dtype=torch.bfloat16) ** 2
    wrong = (groups - groups.mean(-1, keepdim=True, dtype=torch.bfloat16)) * (variance[..., None].clamp(min=0) + 1e-5).rsqrt()
    wanted = normalised(x, nn.GroupNorm(8, 8))
    assert (wrong.double().reshape(x.shape) - wanted).abs().max() > 10 * BF16


@pytest.mark.parametrize("build", [partial(LeanAutoencoder, widths=(8, 16)), partial(MonaiAutoencoder, channels=(16, 16))])
def test_posteriors_and_reconstructions_are_float32_in_autocast(build):
    model = build(1, 0)
    with torch.autocast("cpu", torch.bfloat16):
        mean, std = model.posterior(torch.randn(1, 1, 16, 16, 16))
        assert mean.dtype == std.dtype == model.decode_raw(mean).dtype == torch.float32
