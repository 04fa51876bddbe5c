"""PSNR, SSIM and MS-SSIM: closed forms, and agreement with MONAI."""

import math

import numpy as np
import pytest
import torch

from medldm.errors import UserError
from medldm.metrics.paired import SCALE_WEIGHTS, hfen, ms_ssim, ms_ssim_batch, nmse, psnr, scale_weights, ssim


def images(shape=(28, 32, 30), seed=0):
    generator = torch.Generator().manual_seed(seed)
    base = torch.nn.functional.interpolate(torch.randn(1, 1, 8, 8, 8, generator=generator), shape, mode="trilinear").clamp(-1, 1)
    return base, (base + 0.2 * torch.randn(base.shape, generator=generator)).clamp(-1, 1)


def test_psnr_of_a_constant_shift_and_of_noise():
    image = np.zeros((10, 11, 12))
    assert psnr(image + 0.2, image) == pytest.approx(20.0)
    noise = np.random.default_rng(0).normal(0, 0.1, (60, 60, 60))
    assert psnr(noise, np.zeros_like(noise)) == pytest.approx(10 * math.log10(4 / 0.01), abs=0.05)
    assert psnr(image, image) == math.inf


@pytest.mark.parametrize("measure", [ssim, ms_ssim])
def test_equal_images_have_similarity_one_and_noise_lowers_it(measure):
    clean, noisy = (x[0, 0].numpy() for x in images())
    assert measure(clean, clean) == pytest.approx(1.0, abs=1e-6)
    assert 0.1 < measure(noisy, clean) < 0.95
    assert measure(noisy, clean) == pytest.approx(measure(clean, noisy), abs=1e-6)


@pytest.mark.parametrize(("shape", "levels"), [((28, 32, 30), 2), ((46, 45, 44), 3), ((20, 25, 21), 1)])
def test_ms_ssim_agrees_with_monai(shape, levels):
    from monai.metrics import MultiScaleSSIMMetric

    clean, noisy = images(shape)
    weights = scale_weights(min(shape))
    assert len(weights) == levels
    other = MultiScaleSSIMMetric(spatial_dims=3, data_range=2.0, kernel_size=11, kernel_sigma=1.5, weights=weights)
    assert ms_ssim_batch(noisy, clean) == pytest.approx(other(noisy, clean)[0, 0].item(), abs=2e-5)


def test_scale_weights_are_the_standard_ones_where_all_fit():
    assert scale_weights(176) == pytest.approx([w / sum(SCALE_WEIGHTS) for w in SCALE_WEIGHTS])
    assert len(scale_weights(175)) == 4
    assert scale_weights(5) == [1.0]


def test_a_batch_gives_the_same_as_its_images_one_by_one():
    a, b = (torch.cat(pair) for pair in zip(images(seed=1), images(seed=2), strict=True))
    assert ms_ssim_batch(a, b).tolist() == pytest.approx([ms_ssim(x[0], y[0]) for x, y in zip(a, b, strict=True)], abs=1e-6)


def test_channels_are_averaged():
    clean, noisy = images()
    both = ms_ssim_batch(torch.cat([clean, noisy], 1), torch.cat([clean, clean], 1))
    assert both.item() == pytest.approx((1 + ms_ssim(noisy[0, 0], clean[0, 0])) / 2, abs=1e-6)


def test_tiny_images_get_a_smaller_window():
    small = images((5, 6, 6))[0][0, 0].numpy()
    assert ssim(small, small) == pytest.approx(1)
    assert ms_ssim(small, small) == pytest.approx(1, abs=1e-6)


def test_nmse_is_that_of_scikit_image_above_the_lowest_intensity():
    from skimage.metrics import normalized_root_mse

    clean, noisy = (x[0, 0].double().numpy() for x in images())
    assert nmse(noisy, clean) == pytest.approx(normalized_root_mse(clean + 1, noisy + 1) ** 2)
    assert nmse(np.full((4, 4, 4), -0.5), np.zeros((4, 4, 4))) == pytest.approx(0.25)
    assert math.isnan(nmse(noisy, np.full(noisy.shape, -1.0)))


def test_ssim_is_that_of_monai_but_for_its_biased_variance():
    from monai.metrics import SSIMMetric

    clean, noisy = images()
    other = SSIMMetric(spatial_dims=3, data_range=2.0, kernel_type="uniform", win_size=7)
    assert ssim(noisy[0, 0].numpy(), clean[0, 0].numpy()) == pytest.approx(other(noisy, clean).item(), abs=2e-3)


def test_hfen_of_a_gain_is_the_gain_and_it_knows_no_brightness():
    clean = images()[0][0, 0].double().numpy()
    assert hfen(1.25 * clean, clean) == pytest.approx(0.25)
    assert hfen(clean + 0.3, clean) == pytest.approx(0, abs=1e-9)
    assert hfen(np.zeros_like(clean), clean) == pytest.approx(1)
    assert math.isnan(hfen(clean, np.full(clean.shape, 0.7)))


@pytest.mark.parametrize("measure", [psnr, nmse, hfen, ssim, ms_ssim])
def test_what_lies_outside_of_the_mask_does_not_count(measure):
    clean, noisy = (x[0, 0].double().numpy() for x in images((40, 32, 30)))
    mask = np.zeros(clean.shape)
    mask[:24] = 2
    spoilt = noisy.copy()
    spoilt[38:] = 1.0
    assert measure(spoilt, clean, mask) == pytest.approx(measure(noisy, clean, mask), rel=1e-4)
    assert measure(spoilt, clean) != pytest.approx(measure(noisy, clean), rel=3e-4)
    inner = np.zeros(clean.shape)
    inner[3:-3, 3:-3, 3:-3] = 1
    if measure is ssim:
        assert ssim(noisy, clean, inner) == pytest.approx(ssim(noisy, clean))
    else:
        assert measure(noisy, clean, np.ones(clean.shape)) == pytest.approx(measure(noisy, clean), rel=1e-6)


@pytest.mark.parametrize("measure", [psnr, nmse, hfen, ssim, ms_ssim])
@pytest.mark.parametrize(("change", "said"), [("grid", "different grids"), ("nan", "not finite"), ("mask", "empty mask")])
def test_what_cannot_be_compared_is_refused(measure, change, said):
    clean, noisy = (x[0, 0].numpy() for x in images())
    mask = None
    if change == "grid":
        noisy = noisy[1:]
    elif change == "nan":
        noisy[3, 4, 5] = np.nan
    else:
        mask = np.zeros(clean.shape)
    with pytest.raises(UserError, match=said):
        measure(noisy, clean, mask)
