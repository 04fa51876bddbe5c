"""Fusion finds the weights of the Wiener filter, group by group and frequency by frequency."""

import pytest
import torch

from medldm.diffusion.posteriors.fusion import Fusion
from medldm.errors import UserError
from medldm.randomness import keyed

SHAPES = [(20, 24, 18), (22, 20, 26)]


def coloured(shape, power, *key):
    """A random field of a given power at frequencies [I J K], with orthonormal transforms."""
    white = torch.randn(shape, dtype=torch.float64, generator=keyed(*key))
    return torch.fft.ifftn(torch.fft.fftn(white) * power(shape).sqrt()).real


def squared_frequency(shape):
    axes = [torch.fft.fftfreq(n, dtype=torch.float64) for n in shape]
    return axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2


def signal(shape):
    return 1 / (0.01 + squared_frequency(shape))


def fine(shape):
    return 40 * squared_frequency(shape) + 0.5


def flat(shape):
    return torch.full(shape, 8.0, dtype=torch.float64)


def measured(shape):
    """The middle of k-space, and every second plane of it."""
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[:, :, ::2] = True
    mask[:, :, shape[2] // 2 - 3 : shape[2] // 2 + 3] = True
    return mask


def case(number, grouped):
    shape = SHAPES[number % 2]
    truth = coloured(shape, signal, number, "truth")
    mask = torch.fft.ifftshift(measured(shape)).double()
    other = torch.maximum(mask, mask.flip((0, 1, 2)).roll((1, 1, 1), (0, 1, 2)))
    first = truth + coloured(shape, (lambda s: fine(s) * (1 - other) + 1e-6) if grouped else fine, number, "first")
    second = truth + coloured(shape, flat, number, "second")
    return truth, torch.stack([first, second]), measured(shape) if grouped else None


def optimum(shape):
    """Expected squared error per voxel of the best filter of both estimates."""
    return float((1 / (1 / signal(shape) + 1 / fine(shape) + 1 / flat(shape))).mean())


def test_the_error_is_the_one_of_the_wiener_filter():
    fusion = Fusion.fit(case(number, grouped=False) for number in range(24))
    errors, alone = [], []
    for truth, estimates, _ in (case(number, grouped=False) for number in range(100, 112)):
        errors.append(float((fusion(estimates) - truth).square().mean()) / optimum(truth.shape))
        alone.append(float((estimates - truth).square().mean((1, 2, 3)).min()) / optimum(truth.shape))
    assert 0.97 < sum(errors) / len(errors) < 1.05 and min(alone) > 1.5


def test_measured_frequencies_are_taken_from_who_knows_them():
    fusion = Fusion.fit(case(number, grouped=True) for number in range(12))
    truth, estimates, groups = case(100, grouped=True)
    found = fusion(estimates, groups)
    mask = torch.fft.ifftshift(groups)
    error = torch.fft.fftn(found - truth, norm="ortho").abs().square()
    assert float(error[mask].mean()) < 0.01 * float(error[~mask].mean())
    assert fusion.weights.shape == (2, 12, 12, 12, 2) and found.shape == truth.shape


def test_an_estimate_that_knows_nothing_gets_no_weight_and_one_that_is_double_is_halved():
    cases = []
    for number in range(6):
        truth = coloured(SHAPES[0], signal, number, "t")
        cases.append((truth, torch.stack([2 * truth, coloured(SHAPES[0], signal, number, "nothing")]), None))
    weights = Fusion.fit(cases).weights.flatten(0, 3)
    assert torch.allclose(weights[:, 0], torch.tensor(0.5, dtype=torch.float64), atol=0.01) and float(weights[:, 1].abs().max()) < 0.05


def test_without_cases_nothing_is_calibrated():
    with pytest.raises(UserError, match="at least one"):
        Fusion.fit([])
