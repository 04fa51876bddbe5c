"""Grain: strength by intensity and spectrum are found again, and added noise has them."""

import pytest
import torch

from medldm.models.grain import FREQUENCIES, INTENSITIES, Grain
from medldm.randomness import keyed

SHAPE = (40, 36, 32)


def smooth(x):
    """Noise averaged over two neighbours along the last axis, with variance 1."""
    return (x + x.roll(1, -1)) / 2**0.5


def pairs(count=6):
    """Images whose noise is 0 in air, .05 at 0 and .1 at 1, and correlated along the last axis."""
    for seed in range(count):
        mean = torch.linspace(-1, 1, SHAPE[0])[:, None, None].expand(SHAPE)[None]
        yield mean + (mean + 1) * 0.05 * smooth(torch.randn(1, *SHAPE, generator=keyed(seed))), mean


@pytest.fixture(scope="module")
def grain():
    return Grain(1).fit(pairs())


def test_the_strength_is_that_of_the_residuals_at_each_intensity(grain):
    middles = (torch.arange(INTENSITIES) + 0.5) / INTENSITIES * 2 - 1
    assert torch.allclose(grain.strength[0, :, 2], (middles + 1) * 0.05, atol=0.004)
    assert torch.allclose(grain.deviation(torch.full((1, 2, 2, 2), 0.5)), torch.tensor(0.075), atol=0.003)


def test_the_spectrum_is_that_of_the_residuals(grain):
    """|1 + exp(-2 pi i f)|^2 / 2 = 1 + cos(2 pi f) along the last axis, 1 along the others."""
    f = (torch.arange(FREQUENCIES) + 0.5) / FREQUENCIES / 2
    assert torch.allclose(grain.spectrum[0].mean((0, 1)), 1 + torch.cos(2 * torch.pi * f), atol=0.15)
    for axis in (0, 1):
        assert torch.allclose(grain.spectrum[0].mean([a for a in range(3) if a != axis]), torch.ones(FREQUENCIES), atol=0.15)


def test_added_noise_is_found_again_by_a_new_fit(grain):
    mean = next(pairs(1))[1]
    again = Grain(1).fit((grain(mean, keyed("noise", n)), mean) for n in range(6))
    inner = slice(1, -2)  # at the ends intensities are cut off
    assert torch.allclose(again.strength[0][inner][:, 1:3], grain.strength[0][inner][:, 1:3], atol=0.004)
    assert (again.spectrum - grain.spectrum).abs().mean() < 0.1 < grain.spectrum.std()


def test_noise_depends_on_its_key_alone_and_none_changes_nothing(grain):
    mean = torch.zeros(1, 150, 20, 10)
    assert torch.equal(grain(mean, keyed(1), 0.0), mean)
    first, again, other = grain(mean, keyed(1)), grain(mean, keyed(1)), grain(mean, keyed(2))
    assert torch.equal(first, again) and not torch.allclose(first, other)
    assert float(first.std()) == pytest.approx(0.05, rel=0.1) and float(first.abs().max()) <= 1
    assert float(grain(mean, keyed(1), 0.5).std()) == pytest.approx(float(first.std()) / 2, rel=1e-4)


def test_air_without_noise_stays_as_it_is(grain):
    assert torch.allclose(grain(torch.full((1, 16, 16, 16), -1.0), keyed(0)), torch.tensor(-1.0), atol=0.02)


def test_edges_have_a_strength_of_their_own():
    """A step from -.5 to .5 with residuals of .2 at its edge and .02 elsewhere."""

    def examples():
        for seed in range(4):
            mean = torch.full((1, *SHAPE), -0.5)
            mean[:, 20:] = 0.5
            strength = torch.full(SHAPE, 0.02)
            strength[19:21] = 0.2
            yield mean + strength * torch.randn(1, *SHAPE, generator=keyed(seed)), mean

    grain, (_, mean) = Grain(1).fit(examples()), next(examples())
    found = grain.deviation(mean)[0]
    assert torch.allclose(found[19:21], torch.tensor(0.2), atol=0.01) and torch.allclose(found[:18], torch.tensor(0.02), atol=0.002)
