"""Series whose change is known."""

import numpy as np
import pytest

from medldm.metrics.base import Images
from medldm.metrics.temporal import TemporalConsistency, likeness, roughness


def test_steady_change_is_smooth_and_noise_is_rough():
    rng = np.random.default_rng(0)
    still = rng.normal(size=(1, 16, 16, 16))
    steady = np.concatenate([still + 0.1 * t for t in range(8)])
    noisy = np.repeat(still, 200, axis=0)[:, :4] + rng.normal(size=(200, 4, 16, 16))
    assert roughness(steady) == pytest.approx(0, abs=1e-6) and roughness(noisy) == pytest.approx(np.sqrt(3), rel=0.02)
    assert roughness(np.repeat(still, 3, axis=0)) == 0
    assert likeness(np.repeat(still, 3, axis=0)) == pytest.approx(1, abs=1e-5)
    assert likeness(noisy[:8].repeat(4, axis=1)) < 0.8


def test_images_of_one_time_point_have_no_series(store):
    images = store([np.zeros((8, 8, 8))] * 3)
    assert isinstance(images, Images) and all("3 time points" in score.on for score in TemporalConsistency()(images, images))
