"""PSNR, SSIM and MS-SSIM: closed forms, and agreement with MONAI."""

import math

import numpy as np
import pytest
import torch

from medldm.metrics.paired import SCALE_WEIGHTS, ms_ssim, ms_ssim_batch, psnr, scale_weights, ssim


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
