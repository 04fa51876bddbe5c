"""The DCT coder: an orthogonal projection onto the lowest frequencies."""

import numpy as np
import pytest
from scipy.fft import dctn, idctn

from medldm.metrics.baselines import dct_lowpass


@pytest.fixture
def image():
    return np.random.default_rng(0).uniform(-1, 1, (12, 10, 14))


def test_keeping_everything_is_the_identity(image):
    np.testing.assert_allclose(dct_lowpass(image, 1.0), image, atol=1e-12)


def test_keeping_one_coefficient_leaves_the_mean(image):
    np.testing.assert_allclose(dct_lowpass(image, 1 / image.size), image.mean(), atol=1e-12)


def test_it_keeps_the_stated_number_and_is_a_projection(image):
    once = dct_lowpass(image, 1 / 16)
    assert np.count_nonzero(np.abs(dctn(once, norm="ortho")) > 1e-9) == round(image.size / 16)
    np.testing.assert_allclose(dct_lowpass(once, 1 / 16), once, atol=1e-12)
    assert np.vdot(once, image - once) == pytest.approx(0, abs=1e-9)


def test_radius_is_relative_to_the_length_of_the_axis():
    shape = (8, 32, 8)
    for index, kept in (((0, 2, 0), True), ((2, 0, 0), False)):
        spectrum = np.zeros(shape)
        spectrum[index] = 1.0
        wave = idctn(spectrum, norm="ortho")
        energy = np.square(dct_lowpass(wave, 8 / np.prod(shape))).sum()
        assert energy == pytest.approx(1.0 if kept else 0.0, abs=1e-12)
