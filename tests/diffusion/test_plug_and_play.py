"""Restorer and measurements in turns: exact for a Gaussian image, whose best denoiser is known."""

import torch

from medldm.diffusion.posteriors.plug_and_play import falling, plug_and_play
from medldm.diffusion.posteriors.refine import residual_ratio
from medldm.operators.classical import coloured
from medldm.operators.masks import VariableDensity
from medldm.operators.mri import CartesianMRI, Phase
from medldm.randomness import keyed

SHAPE, NOISE = (16, 20, 18), 0.05


def power():
    axes = [torch.fft.fftfreq(n, dtype=torch.float64) for n in SHAPE]
    return 0.002 / (0.01 + axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2)


def wiener(x, level):
    s = level.reshape(-1, 1, 1, 1, 1)[0] ** 2
    return coloured((power() / (power() + s)).squeeze(1))(x)


def problem():
    truth = coloured(power().sqrt())(torch.randn(2, 1, *SHAPE, dtype=torch.float64, generator=keyed("truth")))
    operator = CartesianMRI(VariableDensity(acceleration=3, hermitian=True)(SHAPE, keyed("mask"))) @ Phase()
    e = torch.randn(2, 1, *SHAPE, dtype=torch.complex128, generator=keyed("noise")) * 2**0.5
    return truth, operator, (operator(truth) + NOISE * e) * operator.outer.mask


def test_it_comes_near_to_the_best_linear_estimate():
    """Whose error at each frequency is P s^2 / (P + s^2) where k-space was measured and P where not."""
    truth, operator, y = problem()
    mask = torch.fft.ifftshift(operator.outer.mask).double()
    best = float((power() * (1 - mask) + power() * NOISE**2 / (power() + NOISE**2) * mask).mean())
    found = plug_and_play(wiener, operator, y, NOISE, operator.adjoint(y), falling(0.5, 0.05, 12))
    zero_filled = float((operator.adjoint(y) - truth).square().mean())
    error = float((found - truth).square().mean())
    assert error < 1.15 * best and error < zero_filled


def test_draws_differ_and_agree_with_what_was_measured():
    _, operator, y = problem()
    draws = [plug_and_play(wiener, operator, y, NOISE, operator.adjoint(y), falling(0.5, 0.05, 12), generator=keyed("d", n)) for n in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert (residual_ratio(operator, y, draws[0], NOISE) < 1.5).all()


def test_levels_fall_by_one_factor():
    levels = falling(0.4, 0.05, 4)
    assert torch.allclose(levels, torch.tensor([0.4, 0.2, 0.1, 0.05], dtype=torch.float64))
