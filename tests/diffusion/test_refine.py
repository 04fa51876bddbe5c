"""The last step, for every kind of measurement: it meets the noise or the measurements, and does no harm."""

import pytest
import torch

from medldm.diffusion.posteriors.refine import refine, residual_ratio
from medldm.operators.acquisitions import AcceleratedMRI, Blurred, LargeVoxels, MissingBlock, Noisy, SparseCT, ThickSlices
from medldm.operators.classical import coloured
from medldm.operators.scanners import FanBeamCT, LowDoseCT
from medldm.randomness import keyed

SHAPE, SPACING = (16, 18, 13), (1.0, 0.8, 1.5)
ALL = {
    "mri": AcceleratedMRI(0.02),
    "coils": AcceleratedMRI(0.02, coils=4),
    "ct": SparseCT(0.01, 12),
    "arc": SparseCT(0.01, 12, 120.0),
    "fan": FanBeamCT(0.01, 12),
    "few photons": LowDoseCT(0.01, 12, photons=5e4),
    "slices": ThickSlices(0.01),
    "large voxels": LargeVoxels(0.01),
    "blurred": Blurred(0.01),
    "missing": MissingBlock(0.01),
    "noisy": Noisy(0.1),
}


def smooth(*key):
    """A random image of standard deviation .3 whose power falls with frequency."""
    i, j, k = (torch.fft.fftfreq(n, dtype=torch.float64) for n in SHAPE)
    gain = 1 / (0.02 + i[:, None, None] ** 2 + j[None, :, None] ** 2 + k[None, None, :] ** 2)
    field = coloured(gain[None])(torch.randn(1, 1, *SHAPE, dtype=torch.float64, generator=keyed(*key)))
    return 0.3 * field / field.std()


@pytest.mark.parametrize("name", ALL)
def test_the_residual_becomes_that_of_the_noise_and_the_image_no_worse(name):
    truth, error = smooth("truth"), 0.7 * smooth("error")
    operator, y = ALL[name].measure(truth, SPACING, 0)
    given = truth + error
    spectrum = torch.fft.fftn(error[0], dim=(-3, -2, -1), norm="ortho").abs().square()
    for power in (None, spectrum + 1e-6 * spectrum.mean()):
        found = refine(operator, y, given, ALL[name].noise, power, iterations=60)
        assert 0.9 < float(residual_ratio(operator, y, found, ALL[name].noise)) < 1.1
        assert float((found - truth).norm()) < float((given - truth).norm())


@pytest.mark.parametrize("name", [name for name in ALL if name != "few photons"])
def test_measurements_without_noise_are_met(name):
    truth = smooth("truth")
    operator = ALL[name].operator(SHAPE, SPACING, 0)
    y, given = operator(truth), truth + 0.7 * smooth("error")
    found = refine(operator, y, given, 0.0)
    assert float(residual_ratio(operator, y, found, 0.0)) < 1e-4
    assert float((found - truth).norm()) <= float((given - truth).norm()), "the nearest image that fits is no farther from another that does"


@pytest.mark.parametrize("name", ALL)
def test_an_image_that_is_right_already_is_left_alone(name):
    """Its residual is as often a little larger than the noise as smaller; letting noise in for that would do harm."""
    truth, worse = smooth("truth"), 0
    operator = ALL[name].operator(SHAPE, SPACING, 0)
    for draw in range(8):
        given = truth + 1e-3 * smooth("error", draw)
        y = ALL[name].simulate(operator, truth, draw)
        worse += float((refine(operator, y, given, ALL[name].noise) - truth).norm()) > 1.001 * float((given - truth).norm())
    assert not worse
