"""Denoiser and measurements in turns: exact for a Gaussian image, whose best denoiser is known."""

import pytest
import torch

from medldm.diffusion.posteriors.plug_and_play import plug_and_play
from medldm.operators.classical import GaussianPrior, coloured
from medldm.operators.masks import VariableDensity
from medldm.operators.mri import CartesianMRI, Phase
from medldm.operators.separable import thick_slices
from medldm.randomness import keyed

SHAPE, NOISE = (16, 20, 18), 0.05


def power():
    axes = [torch.fft.fftfreq(n, dtype=torch.float64) for n in SHAPE]
    return (0.002 / (0.01 + axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2))[None]


def last(*arguments):
    *_, x = plug_and_play(*arguments)
    return x


def wiener(x, level):
    s = level.reshape(-1, 1, 1, 1, 1)[0] ** 2
    return coloured(power() / (power() + s))(x)


OPERATORS = {
    "mri": CartesianMRI(VariableDensity(acceleration=3, hermitian=True)(SHAPE, keyed("mask"))) @ Phase(),
    "slices": thick_slices(SHAPE, 1, 3.0),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_with_the_best_denoiser_of_a_gaussian_it_finds_the_mode(name):
    operator = OPERATORS[name]
    truth = coloured(power().sqrt())(torch.randn(2, 1, *SHAPE, dtype=torch.float64, generator=keyed("truth")))
    y = operator(truth)
    mode = GaussianPrior(torch.zeros(1, *SHAPE), power(), NOISE, 400)(operator, y)
    level = 0.2
    found = last(wiener, operator, y, operator.adjoint(y), level, (NOISE / level) ** 2, 150)
    assert float((found - mode).norm() / mode.norm()) < 2e-3
    early = last(wiener, operator, y, operator.adjoint(y), level, (NOISE / level) ** 2, 2)
    assert float((early - mode).norm()) > 3 * float((found - mode).norm()), "the turns are what brings it there"


def test_members_of_a_batch_do_not_meet():
    operator = OPERATORS["mri"]
    y = operator(torch.randn(2, 1, *SHAPE, dtype=torch.float64, generator=keyed("x")))
    both = last(wiener, operator, y, operator.adjoint(y), 0.3, 0.1, 4)
    alone = last(wiener, operator, y[1:], operator.adjoint(y[1:]), 0.3, 0.1, 4)
    assert torch.allclose(both[1:], alone, atol=1e-6)
