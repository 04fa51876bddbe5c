"""Classical reconstructions reach the minimum, or the closed form, that they claim."""

import math

import pytest
import torch
from test_operators import ANGLES, MASK, SHAPE, complex_noise, disk

from medldm.operators.base import inner
from medldm.operators.classical import (
    FilteredBackprojection,
    GaussianPrior,
    Sirt,
    Tikhonov,
    TotalVariation,
    Wavelet,
    ZeroFilled,
    divergence,
    gradient,
    largest_eigenvalue,
)
from medldm.operators.ct import ParallelCT
from medldm.operators.masks import VariableDensity
from medldm.operators.mri import CartesianMRI, Phase
from medldm.operators.separable import larger_voxels, thick_slices
from medldm.operators.spline import Spline
from medldm.operators.voxelwise import Identity
from medldm.randomness import keyed

OPERATORS = {
    "mri": CartesianMRI(MASK) @ Phase(),
    "ct": ParallelCT(SHAPE, ANGLES),
    "slices": thick_slices(SHAPE, 1, 4.0),
}


def blocks(shape, seed=0):
    """A piecewise constant image [1 1 I J K]."""
    levels = torch.randn(1, 1, *(-(-n // 4) for n in shape), generator=keyed("blocks", seed), dtype=torch.float64)
    for axis, n in zip((2, 3, 4), shape, strict=True):
        levels = levels.repeat_interleave(4, axis).narrow(axis, 0, n)
    return levels


def matrix_of(operator, shape):
    """The matrix of an operator, real and imaginary part of measurements below one another."""
    basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, 1, *shape)
    columns = operator(basis).flatten(1)
    return (torch.view_as_real(columns).flatten(1) if columns.is_complex() else columns).T


def stacked(y):
    return (torch.view_as_real(y.flatten(1)) if y.is_complex() else y).flatten(1)[0]


def test_differences_and_their_adjoint():
    x, g = torch.randn(2, 1, 5, 4, 6, dtype=torch.float64), torch.randn(2, 1, 5, 4, 6, 3, dtype=torch.float64)
    scales = (1.0, 0.5, 0.25)
    assert torch.allclose(inner(gradient(x, scales), g), inner(x, divergence(g, scales)))
    ramp = torch.arange(5.0).reshape(1, 1, 5, 1, 1).expand(1, 1, 5, 4, 6)
    assert torch.equal(gradient(ramp, scales)[0, 0, :4, 0, 0], torch.tensor([[1.0, 0, 0]] * 4))


@pytest.mark.parametrize("name", OPERATORS)
def test_the_largest_eigenvalue_is_found(name):
    shape = (5, 6, 4)
    operator = {"mri": CartesianMRI(MASK[:5, :6, :4]) @ Phase(), "ct": ParallelCT(shape, ANGLES), "slices": thick_slices(shape, 1, 3.0)}[name]
    wanted = torch.linalg.matrix_norm(matrix_of(operator, shape), 2) ** 2
    assert largest_eigenvalue(operator, torch.zeros(1, 1, *shape, dtype=torch.float64)) == pytest.approx(float(wanted), rel=0.02)


@pytest.mark.parametrize("name", OPERATORS)
def test_total_variation_reaches_the_minimum(name):
    """No other point nearby is lower, and ten times the iterations gain less than a thousandth."""
    operator, truth = OPERATORS[name], blocks(SHAPE)
    y = operator(truth)
    y = y + 0.05 * y.abs().max() * (complex_noise(*y.shape) if y.is_complex() else complex_noise(*y.shape).real)
    solver = TotalVariation(weight=0.02)
    found = solver(operator, y)
    longer = TotalVariation(weight=0.02, iterations=600)(operator, y)
    low, lower = float(solver.objective(operator, y, found)), float(solver.objective(operator, y, longer))
    assert low <= 1.001 * lower
    for other in (truth, ZeroFilled()(operator, y), found + 0.01 * torch.randn(found.shape, dtype=torch.float64, generator=keyed("nearby"))):
        assert lower < float(solver.objective(operator, y, other))


def test_total_variation_of_one_step_is_known():
    """Denoising a step of height h and length n along one axis: each side moves by w / n towards the other."""
    step = torch.cat([torch.zeros(6), torch.ones(6)]).double().reshape(1, 1, 12, 1, 1)
    found = TotalVariation(weight=0.3, iterations=300)(Identity(), step)
    assert torch.allclose(found.flatten(), torch.cat([torch.full((6,), 0.05), torch.full((6,), 0.95)]).double(), atol=1e-4)


def test_tikhonov_and_the_gaussian_prior_are_their_closed_forms():
    shape = (4, 6, 5)
    mask = VariableDensity(acceleration=2, calibration=2)(shape, keyed("small"))
    for operator in (CartesianMRI(mask) @ Phase(), thick_slices(shape, 1, 3.0)):
        matrix = matrix_of(operator, shape)
        y = operator(torch.randn(1, 1, *shape, dtype=torch.float64, generator=keyed("x")))
        size = math.prod(shape)
        weight = 0.1 * float(torch.linalg.matrix_norm(matrix, 2)) ** 2
        wanted = torch.linalg.solve(matrix.T @ matrix + weight * torch.eye(size, dtype=torch.float64), matrix.T @ stacked(y))
        assert torch.allclose(Tikhonov(0.1)(operator, y).flatten(), wanted, atol=0.02 * float(wanted.abs().max()))
        frequency = [torch.fft.fftfreq(n, dtype=torch.float64).abs() for n in shape]
        spectrum = 1 / (0.05 + frequency[0][:, None, None] + frequency[1][None, :, None] + frequency[2][None, None, :])[None]
        mean = torch.randn(1, *shape, dtype=torch.float64, generator=keyed("mean"))
        basis = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
        covariance = torch.fft.ifftn(torch.fft.fftn(basis, dim=(1, 2, 3)) * spectrum, dim=(1, 2, 3)).real.reshape(size, size)
        gain = covariance @ matrix.T @ torch.linalg.inv(matrix @ covariance @ matrix.T + 0.25 * torch.eye(len(matrix), dtype=torch.float64))
        wanted = mean.flatten() + gain @ (stacked(y) - matrix @ mean.flatten())
        found = GaussianPrior(mean, spectrum, 0.5, 300)(operator, y)
        assert torch.allclose(found.flatten(), wanted, atol=1e-4)


@pytest.mark.parametrize(("shape", "spacing"), [((64, 64), (1.0, 1.0)), ((80, 48), (0.8, 1.4))])
def test_filtered_back_projection_returns_a_disk(shape, spacing):
    image = disk(shape, spacing, 18.0, (3.0, -4.0))[None, None, :, :, None]
    operator = ParallelCT((*shape, 1), torch.arange(120) * math.pi / 120, spacing)
    inside, outside = disk(shape, spacing, 15.0, (3.0, -4.0)) == 1, disk(shape, spacing, 21.0, (3.0, -4.0)) == 0
    for cutoff in (0.0, 1.0):
        found = FilteredBackprojection(cutoff)(operator, operator(image))[0, 0, :, :, 0]
        assert float(found[inside].mean()) == pytest.approx(1, abs=0.02) and abs(float(found[outside].mean())) < 0.03


def test_sirt_comes_nearer_with_every_iteration():
    image = disk((32, 32), (1.0, 1.0), 10.0)[None, None, :, :, None]
    operator = ParallelCT((32, 32, 1), ANGLES)
    errors = [float((Sirt(n, lowest=0.0)(operator, operator(image)) - image).norm()) for n in (5, 20, 80)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.3 * float(image.norm())


def test_a_spline_returns_what_is_straight_and_comes_near_to_what_is_smooth():
    """A mean over a slice that lies wholly inside is the value at its middle; a wave of 24 voxels is attenuated by a slice of 4 by 1 - sinc(1/6)."""
    i, j, k = (torch.arange(n, dtype=torch.float64) for n in (5, 36, 30))
    straight = (2 * i[:, None, None] - 0.3 * j[None, :, None] + k[None, None, :])[None, None]
    for shape in ((5, 36, 30), (5, 36, 14), (5, 36, 10)):  # of 3 slices and more, with a rest or none
        operator, x = thick_slices(shape, 2, 4.0), straight[..., : shape[2]]
        assert torch.allclose(Spline()(operator, operator(x))[..., 2:-4], x[..., 2:-4], atol=1e-10)
    wave = torch.cos(2 * math.pi * j / 24)[None, :, None].expand(5, 36, 30)[None, None]
    boxes = larger_voxels((5, 36, 30), (1.0, 4.0, 3.0))
    weaker = math.sin(math.pi / 6) / (math.pi / 6)
    assert float((Spline()(boxes, boxes(wave)) - weaker * wave)[:, :, :, 6:-6].abs().max()) < 0.01
    with pytest.raises(TypeError, match="slices"):
        Spline()(Identity(), wave)


def test_wavelets_beat_zero_filling():
    pytest.importorskip("pywt", reason="PyWavelets is not installed")
    shape, truth = (16, 32, 24), blocks((16, 32, 24))
    operator = CartesianMRI(VariableDensity(acceleration=3)(shape, keyed("w"))) @ Phase()
    y = operator(truth)
    errors = [float((method(operator, y) - truth).norm()) for method in (ZeroFilled(), Wavelet(0.02), TotalVariation(0.002))]
    assert errors[0] > 1.1 * errors[1] > 1.1 * errors[2]
