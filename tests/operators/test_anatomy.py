"""Mean and spectrum of a cohort: what they are, and that the prior made of them is the best linear one."""

import pytest
import torch

from medldm.errors import UserError
from medldm.operators.anatomy import Anatomy, stretched
from medldm.operators.spectra import BINS, bins, power
from medldm.operators.voxelwise import Identity
from medldm.randomness import keyed

NOISE = 0.5


def smooth(shape, *key):
    """A random image whose power falls with frequency, around a ramp."""
    axes = [torch.fft.fftfreq(n, dtype=torch.float64) for n in shape]
    squares = axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2
    white = torch.randn(shape, dtype=torch.float64, generator=keyed(*key))
    ramp = torch.linspace(-1, 1, shape[0], dtype=torch.float64)[:, None, None]
    return (torch.fft.ifftn(torch.fft.fftn(white) * (0.02 / (0.01 + squares)).sqrt()).real + ramp)[None].float()


def test_every_frequency_has_one_bin_and_shares_it_with_its_opposite():
    places = bins((9, 16, 25))
    assert places.min() == 0 and places.max() < BINS**3 and places.shape == (9, 16, 25)
    assert torch.equal(places, places.flip((0, 1, 2)).roll((1, 1, 1), (0, 1, 2)))


def test_power_keeps_the_energy_of_an_image():
    x = smooth((18, 14, 16), "x")
    counts = torch.bincount(bins(x.shape[1:]).flatten(), minlength=BINS**3)
    assert torch.allclose((power(x)[0].nan_to_num() * counts).sum(), x.double().square().sum())


def test_the_prior_of_a_cohort_denoises_as_well_as_the_best_filter():
    sizes = [(24, 20, 22), (26, 24, 20)]
    cohort = Anatomy.of([smooth(sizes[n % 2], n) for n in range(30)], (24, 24, 24))
    assert cohort.spectrum.isfinite().all()
    errors, best = [], []
    for n in range(100, 104):
        x = smooth(sizes[n % 2], n)
        y = x + NOISE * torch.randn(x.shape, generator=keyed(n, "noise"))
        found = cohort.prior(x.shape[1:], NOISE)(Identity(), y[None])[0]
        errors.append(float((found - x).square().mean()))
        axes = [torch.fft.fftfreq(m, dtype=torch.float64) for m in x.shape[1:]]
        p = 0.02 / (0.01 + axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2)
        best.append(float((p * NOISE**2 / (p + NOISE**2)).mean()))
    assert sum(errors) < 1.1 * sum(best) and sum(errors) < 0.5 * 4 * NOISE**2


def test_what_is_of_another_shape_or_contrast_is_far_from_the_mean():
    shape = (20, 22, 18)
    cohort = Anatomy.of([smooth(shape, n) for n in range(60)], shape)
    others = [smooth(shape, "new", n) for n in range(40)]
    usual = torch.tensor([cohort.distance(x) for x in others])
    assert float(usual.mean()) == pytest.approx(1, abs=0.25) and float(usual.max()) < 4
    assert min(cohort.distance(-x) for x in others) > 1.5 * float(usual.max()), "the ramp runs the other way"
    assert cohort.distance(stretched(others[0], (26, 22, 30))) == pytest.approx(float(usual[0]), rel=0.6)


def test_a_mean_is_stretched_corner_to_corner_and_kept_where_it_fits():
    ramp = torch.arange(8.0).reshape(1, 8, 1, 1).expand(1, 8, 4, 4)
    assert stretched(ramp, (8, 4, 4)) is ramp
    assert stretched(ramp, (16, 4, 4)).shape == (1, 16, 4, 4) and torch.allclose(stretched(ramp, (16, 4, 4)).mean(), ramp.mean())


def test_no_images_have_no_mean():
    with pytest.raises(UserError, match="at least one"):
        Anatomy.of([], (4, 4, 4))
