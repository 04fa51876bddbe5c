"""Contrasts on other grids: positions in space stay, labels stay whole."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medldm.data.align import aligned
from medldm.volume import Volume


def grid(shape, spacing, angles=(0, 0, 0), centre=(0, 0, 0), mirrored=False) -> Volume:
    """An empty volume at any angle, its middle at `centre`."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(spacing) @ np.diag([-1 if mirrored else 1, 1, 1])
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Volume(torch.zeros(1, *shape), affine)


def places(volume: Volume) -> np.ndarray:
    """World coordinates of the voxel centres [3 I J K]."""
    index = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"))
    return np.tensordot(volume.affine[:3, :3], index, 1) + volume.affine[:3, 3].reshape(3, 1, 1, 1)


angle = st.floats(-180, 180)


@settings(max_examples=40, deadline=None)
@given(st.tuples(angle, angle, angle), st.tuples(angle, angle, angle), st.booleans(), st.tuples(*[st.floats(-3, 3)] * 3))
def test_a_plane_of_intensities_stays_where_it_is(angles, others, mirrored, shift):
    """Linear interpolation is exact for linear functions of the position."""
    source, target = grid((21, 19, 23), (1.5, 2, 1.2), angles, mirrored=mirrored), grid((6, 7, 5), (1.1, 0.9, 1.2), others, shift)
    slope = np.array([0.3, -1.1, 0.7])
    source = source.with_data(torch.from_numpy(np.tensordot(slope, places(source), 1)[None].astype(np.float32)))
    result, share = aligned(source, target)
    assert share == 1 and np.array_equal(result.affine, target.affine)
    assert np.allclose(result.data[0].numpy(), np.tensordot(slope, places(target), 1), atol=1e-4)


def test_the_same_grid_changes_nothing_even_when_rounded():
    rng = np.random.default_rng(0)
    volume = grid((8, 9, 10), (1, 2, 3), (10, 20, 30)).with_data(torch.from_numpy(rng.normal(size=(2, 8, 9, 10)).astype(np.float32)))
    moved = volume.affine.copy()
    moved[:3, 3] += 1e-6
    result, share = aligned(volume, Volume(volume.data, moved))
    assert share == 1 and torch.allclose(result.data, volume.data, atol=1e-4)


def test_outside_is_the_lowest_value_or_background_and_counts_as_not_covered():
    image = grid((4, 4, 4), (1, 1, 1)).with_data(torch.rand(1, 4, 4, 4) + 5)
    target = grid((8, 4, 4), (1, 1, 1))
    result, share = aligned(image, target)
    assert share == 0.5 and torch.equal(result.data[:, 2:6], image.data) and (result.data[:, [0, 1, 6, 7]] == image.data.min()).all()
    labels, _ = aligned(Volume(torch.ones(1, 4, 4, 4), image.affine, "label"), target)
    assert labels.data.sum() == 64 and labels.unit == "label"


@pytest.mark.parametrize("angles", [(0, 0, 0), (20, -35, 50)])
def test_labels_are_the_ones_that_were_there_and_keep_their_volume(angles):
    source, target = grid((40, 40, 40), (1, 1, 1)), grid((50, 50, 50), (0.9, 0.9, 0.9), angles)
    x, y, z = places(source)
    data = np.where(x**2 + y**2 + z**2 < 13**2, 7.0, 0.0) + np.where((x - 3) ** 2 + y**2 + z**2 < 6**2, 35.0, 0.0)
    result, _ = aligned(Volume(torch.from_numpy(data[None].astype(np.float32)), source.affine, "label"), target)
    assert set(np.unique(result.data.numpy())) == {0, 7, 42}
    for value in (7, 42):
        assert (result.data == value).sum() * 0.9**3 == pytest.approx((data == value).sum(), rel=0.05)


def test_a_coarser_grid_gets_means_not_samples():
    """Noise of variance 1 on voxels four times finer keeps little of its variance."""
    source = grid((64, 64, 64), (1, 1, 1)).with_data(torch.from_numpy(np.random.default_rng(0).normal(size=(1, 64, 64, 64)).astype(np.float32)))
    result, _ = aligned(source, grid((16, 16, 16), (4, 4, 4)))
    assert result.data.std() < 0.2
