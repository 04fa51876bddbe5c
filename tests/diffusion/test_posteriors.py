"""Posteriors against closed forms: a Gaussian latent with its exact denoiser, a linear and a nonlinear decoder."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from medldm.diffusion.posteriors.decoder_inversion import DecoderInversion
from medldm.diffusion.posteriors.dps import Dps, Psld
from medldm.diffusion.posteriors.latent_daps import LatentDaps
from medldm.diffusion.posteriors.latent_prox import LatentProx
from medldm.diffusion.posteriors.measured import Measured, proximal
from medldm.diffusion.posteriors.refine import refine, residual_ratio
from medldm.diffusion.process import Cosine, Flow
from medldm.diffusion.samplers.euler import Euler
from medldm.diffusion.samplers.renoise import Renoise
from medldm.models.lean import LeanAutoencoder
from medldm.models.tiling.plan import Plan
from medldm.operators.base import LinearOperator, column
from medldm.operators.voxelwise import Identity
from medldm.randomness import keyed, seeded

LATENT, SIGNAL, NOISE, OFF = 64, 512, 0.05, 0.05
PROCESSES = [Flow(), Cosine()]


class Rows(LinearOperator):
    """Some numbers of an orthonormal transform of x [B 1 8 8 8]."""

    def __init__(self, share: float):
        super().__init__()
        basis = torch.linalg.qr(torch.randn(SIGNAL, SIGNAL, dtype=torch.float64, generator=keyed("basis")))[0]
        self.register_buffer("rows", basis[: round(share * SIGNAL)])

    def forward(self, x):
        return x.flatten(1) @ self.rows.T

    def adjoint(self, y):
        return (y @ self.rows).reshape(-1, 1, 8, 8, 8)


def decoder(bend: float):
    """64 numbers to 512, linear for bend = 0."""
    spread, mix = (
        torch.randn(*shape, dtype=torch.float64, generator=keyed(name)) for shape, name in (((SIGNAL, LATENT), "u"), ((LATENT, LATENT), "v"))
    )
    spread = torch.linalg.qr(spread)[0] * torch.linspace(2, 0.5, LATENT, dtype=torch.float64)
    mix = mix / LATENT**0.5

    def decode(z: Tensor) -> Tensor:
        flat = z.flatten(1)
        return ((flat + bend * torch.tanh(2 * flat @ mix.T)) @ spread.T).reshape(-1, 1, 8, 8, 8)

    return decode


def white(process):
    """The exact denoiser of z ~ N(0, 1)."""
    return lambda x, t: (s := column(process.signal(t), x)) / (s**2 + column(process.noise(t), x) ** 2) * x


def problem(share, bend, count=8):
    """Truth [count 1 8 8 8] and its measurements; the decoder's error in them is part of the weight."""
    operator, decode = Rows(share), decoder(bend)
    draw = lambda *shape, name: torch.randn(*shape, dtype=torch.float64, generator=keyed("toy", name))  # noqa: E731
    truth = decode(draw(count, LATENT, 1, 1, 1, name="z")) + OFF * draw(count, 1, 8, 8, 8, name="off")
    y = operator(truth)
    y = y + NOISE * draw(*y.shape, name="e")
    return truth, Measured(operator, decode, y, torch.tensor(1 / (NOISE**2 + OFF**2), dtype=torch.float64))


def decibels(found, truth):
    return float(10 * torch.log10(truth.square().mean() / (found - truth).square().mean()))


def mode(measured, z):
    """argmin misfit(z) + |z|^2 / 2 by many steps."""
    for _ in range(8):
        z = proximal(measured, z, torch.zeros_like(z), 1.0, 40)
    return z


def begin(process, first, count):
    noise = torch.randn(count, LATENT, 1, 1, 1, dtype=torch.float64, generator=keyed("start"))
    return float(process.noise(torch.tensor(first, dtype=torch.float64))) * noise


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(("share", "limit"), [(0.35, 1.0), (0.15, 2.0)])
def test_latent_prox_comes_near_to_the_mode(process, share, limit):
    truth, measured = problem(share, bend=0.3)
    best = decibels(measured.decode(mode(measured, torch.zeros(len(truth), LATENT, 1, 1, 1, dtype=torch.float64))), truth)
    informed = LatentProx().inform(white(process), process, measured)
    found = Euler(20).sample(informed, process, begin(process, 1.0, len(truth)))
    assert decibels(measured.decode(found), truth) > best - limit


def test_a_step_through_slabs_of_the_decoder_is_the_step_through_the_whole():
    with seeded(0, "decoder"):
        net = LeanAutoencoder(1, 0, widths=(8,)).double().eval()
        z = torch.randn(1, net.latent_channels, 7, 3, 5, dtype=torch.float64)
        y = 0.5 * torch.randn(1, 1, *(net.factor * n for n in z.shape[2:]), dtype=torch.float64)
    decoders = (net.decode_raw, lambda z: Plan(3, 1).run(net.decoder_layers(), z))
    whole, slabs = (proximal(Measured(Identity(), decode, y, torch.tensor(100.0)), z, z, 1.0, 4) for decode in decoders)
    assert float((whole - z).abs().max()) > 0.01
    assert float((slabs - whole).abs().max()) < 1e-4 * float((whole - z).abs().max())


def test_the_mean_of_eight_draws_comes_near_to_the_mode():
    process = Flow()
    for share in (0.35, 0.15):
        truth, measured = problem(share, bend=0.3)
        best = decibels(measured.decode(mode(measured, torch.zeros(len(truth), LATENT, 1, 1, 1, dtype=torch.float64))), truth)
        total = 0
        for seed in range(8):
            informed = LatentDaps(seed).inform(white(process), process, measured)
            total = total + measured.decode(Renoise(20).sample(informed, process, begin(process, 1.0, len(truth)), keyed("renoise", seed)))
        assert decibels(total / 8, truth) > best - 1


def closed_form(measured):
    """Mean [count 64] and covariance of z given y, for a linear decoder."""
    basis = torch.eye(LATENT, dtype=torch.float64).reshape(LATENT, LATENT, 1, 1, 1)
    matrix = (measured.operator(measured.decode(basis)) * measured.weight.sqrt()).T
    covariance = torch.linalg.inv(torch.eye(LATENT, dtype=torch.float64) + matrix.T @ matrix)
    return measured.target @ matrix @ covariance, covariance


def test_draws_have_the_mean_and_the_covariance_of_the_posterior():
    """z-tests of 2,000 draws; the directions are the posterior's own."""
    count, process = 2000, Flow()
    _, measured = problem(0.12, bend=0.0, count=1)
    measured = replace(measured, y=measured.y.expand(count, -1))
    informed = LatentDaps(seed=3).inform(white(process), process, measured)
    draws = Renoise(4).sample(informed, process, begin(process, 1.0, count), keyed("renoise"))[..., 0, 0, 0]
    mean, covariance = closed_form(measured)
    variances, axes = torch.linalg.eigh(covariance)
    scaled = (draws - mean[:1]) @ axes / variances.sqrt()
    z = scaled.mean(0) * math.sqrt(count)
    assert float(z.abs().max()) < 4.5 and 0.6 < float(z.square().mean()) < 1.5
    spread = scaled.T @ scaled / count
    off = (spread - torch.eye(LATENT, dtype=torch.float64)) * math.sqrt(count)
    off.diagonal().div_(math.sqrt(2))
    assert float(off.abs().max()) < 5.5 and 0.8 < float(off.square().mean()) < 1.25


def test_a_proximal_step_solves_a_linear_problem_at_once():
    _, measured = problem(0.35, bend=0.0, count=3)
    centre = torch.randn(3, LATENT, 1, 1, 1, dtype=torch.float64, generator=keyed("c"))
    basis = torch.eye(LATENT, dtype=torch.float64).reshape(LATENT, LATENT, 1, 1, 1)
    matrix = (measured.operator(measured.decode(basis)) * measured.weight.sqrt()).T
    left = matrix.T @ matrix + torch.eye(LATENT, dtype=torch.float64) / 0.5
    wanted = torch.linalg.solve(left, (measured.target @ matrix + centre.flatten(1) / 0.5).T).T
    found = proximal(measured, torch.zeros_like(centre), centre, 0.5, LATENT)
    assert torch.allclose(found.flatten(1), wanted, atol=1e-6)


def test_a_step_never_raises_the_objective():
    _, measured = problem(0.35, bend=2.0)
    z = 3 * torch.randn(8, LATENT, 1, 1, 1, dtype=torch.float64, generator=keyed("far"))
    before = measured.misfit(z) + z.square().flatten(1).sum(1) / 2
    found = proximal(measured, z, torch.zeros_like(z), 1.0, 20)
    assert (measured.misfit(found) + found.square().flatten(1).sum(1) / 2 <= before + 1e-9).all()


def test_decoder_inversion_reaches_the_mode():
    truth, measured = problem(0.35, bend=0.3)
    z = torch.zeros(len(truth), LATENT, 1, 1, 1, dtype=torch.float64)
    informed = DecoderInversion(rounds=8, products=30).inform(white(Flow()), Flow(), measured)
    found = Euler(1).sample(informed, Flow(), z + 1)
    assert torch.allclose(found, mode(measured, z), atol=0.02)


@pytest.mark.parametrize("share", [0.35, 0.15])
def test_the_references_find_an_image_with_many_steps(share):
    truth, measured = problem(share, bend=0.3)
    basis = torch.eye(LATENT, dtype=torch.float64).reshape(LATENT, LATENT, 1, 1, 1)
    matrix = decoder(0.0)(basis).flatten(1)
    methods = [Dps(300), Psld(300, encode=lambda x: (x.flatten(1) @ torch.linalg.pinv(matrix)).reshape(-1, LATENT, 1, 1, 1))]
    best = decibels(measured.decode(mode(measured, torch.zeros(len(truth), LATENT, 1, 1, 1, dtype=torch.float64))), truth)
    for method in methods:
        found = Euler(300).sample(method.inform(white(Flow()), Flow(), measured), Flow(), begin(Flow(), 1.0, len(truth)))
        assert decibels(measured.decode(found), truth) > best - 2


@pytest.mark.parametrize("share", [0.35, 0.15])
def test_refine_meets_the_noise_and_never_harms(share):
    """An image with the decoder's error in it, measured with noise."""
    truth, measured = problem(share, bend=0.3)
    operator, y = measured.operator, measured.y
    given = measured.decode(mode(measured, torch.zeros(len(truth), LATENT, 1, 1, 1, dtype=torch.float64)))
    found = refine(operator, y, given, NOISE)
    before, after = residual_ratio(operator, y, given, NOISE), residual_ratio(operator, y, found, NOISE)
    assert (before > 1).all() == (share > 0.3) and ((after - before.clamp(max=1)).abs() < 0.1).all()
    assert torch.equal(found[before <= 1], given[before <= 1])
    assert all(decibels(f, t) >= decibels(g, t) for f, g, t in zip(found, given, truth, strict=True))
    assert torch.equal(refine(operator, operator(given), given, NOISE), given), "nothing to do"


def test_refine_without_noise_meets_the_measurements():
    truth, measured = problem(0.35, bend=0.3)
    y = measured.operator(truth)
    found = refine(measured.operator, y, torch.zeros_like(truth), 0.0)
    assert float(residual_ratio(measured.operator, y, found, 0.0).max()) < 1e-4
    assert torch.allclose(found, measured.operator.adjoint(y))
