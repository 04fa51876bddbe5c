"""Steps: exact voxels, world positions that stay, intensities in range."""

import time
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from medldm.data.steps.intensity import Percentile, Window
from medldm.data.steps.reorient import Reorient
from medldm.data.steps.resample import Resample
from medldm.errors import UserError
from medldm.run import describe
from medldm.volume import Volume

STEPS = [Reorient(), Resample((2.0, 3.0, 4.0)), Percentile(), Window(-1.0, 1.0)]


def volume(shape=(5, 6, 7), affine=None, channels=1, unit="a.u.", seed=0):
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 3, (channels, *shape)) if unit == "label" else rng.normal(size=(channels, *shape))
    return Volume(torch.from_numpy(data.astype(np.float32)), np.eye(4) if affine is None else affine, unit)


def world(v: Volume, index) -> np.ndarray:
    return v.affine[:3, :3] @ np.asarray(index) + v.affine[:3, 3]


@st.composite
def affines(draw):
    order, signs = draw(st.permutations(range(3))), draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    spacing, tilt = draw(st.tuples(*[st.floats(0.5, 5)] * 3)), draw(st.tuples(*[st.floats(-15, 15)] * 3))
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", tilt, degrees=True).as_matrix() @ np.eye(3)[:, order] * signs * spacing
    affine[:3, 3] = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    return affine


@settings(max_examples=40, deadline=None)
@given(affines(), st.integers(0, 4), st.integers(0, 5), st.integers(0, 6))
def test_reorient_keeps_each_voxel_at_its_world_position(affine, i, j, k):
    before = volume(affine=affine, channels=2)
    after = Reorient()(before)
    assert after.orientation == "RAS"
    place = np.linalg.solve(after.affine[:3, :3], world(before, (i, j, k)) - after.affine[:3, 3])
    found = np.rint(place).astype(int)
    assert np.allclose(place, found, atol=1e-6)
    assert torch.equal(after.data[:, *found], before.data[:, i, j, k])
    assert torch.equal(after.data.flatten(1).sort().values, before.data.flatten(1).sort().values)
    assert torch.equal(Reorient()(after).data, after.data)


@settings(max_examples=25, deadline=None)
@given(affines(), st.tuples(*[st.floats(0.6, 2.5)] * 3))
def test_resample_keeps_a_linear_ramp_of_world_position(affine, spacing):
    """The value of each voxel is a linear function of its position, so that a cubic spline is exact away from the border."""
    before = volume((30, 28, 26), affine)  # the middle is then out of reach of the border, also where the grid gets 5 times coarser
    ramp = np.array([0.3, -0.2, 0.5])
    index = np.indices(before.shape).reshape(3, -1)
    values = (ramp @ (affine[:3, :3] @ index)).reshape(1, *before.shape).astype(np.float32)
    before = before.with_data(torch.from_numpy(values))
    after = Resample(spacing)(before)
    assert np.allclose(after.spacing, spacing)
    centres = [world(v, (np.array(v.shape) - 1) / 2) for v in (before, after)]
    assert np.allclose(*centres, atol=1e-6)
    assert all(abs(n * s - m * t) <= max(s, t) for n, s, m, t in zip(before.shape, before.spacing, after.shape, after.spacing, strict=True))
    middle = np.array(after.shape) // 2
    expected = ramp @ (world(after, middle) - affine[:3, 3])
    assert float(after.data[0, *middle]) == pytest.approx(expected, abs=2e-3)


def test_resample_leaves_an_equal_spacing_alone():
    before = volume()
    assert Resample((1.0, 1.0, 1.0))(before) is before


def test_resample_keeps_labels_and_their_volume():
    """A ball of radius 11 mm and a touching one of 8 mm, from 1 mm to 2 mm."""
    i, j, k = np.indices((60, 40, 40)) - np.array([17.3, 19.1, 20.2]).reshape(3, 1, 1, 1)
    data = np.where(i**2 + j**2 + k**2 < 11**2, 1, np.where((i - 19) ** 2 + j**2 + k**2 < 8**2, 2, 0)).astype(np.float32)
    before = Volume(torch.from_numpy(data)[None], np.eye(4), "label")
    after = Resample((2.0, 2.0, 2.0))(before)
    assert after.shape == (30, 20, 20) and set(after.data.unique().tolist()) == {0, 1, 2}
    for label in (1, 2):
        assert float((after.data == label).sum()) * 8 == pytest.approx(float((before.data == label).sum()), rel=0.1)


def test_many_labels_are_resampled_as_each_would_be_alone_and_fast():
    """Shares computed in the box of each label are those computed over the whole map; 150 labels on 120^3 take under 3 s."""
    rng = np.random.default_rng(0)
    seeds = rng.integers(0, 24, (150, 3))
    nearest = cKDTree(seeds).query(np.indices((24, 24, 24)).reshape(3, -1).T)[1].reshape(24, 24, 24)
    small = Volume(torch.from_numpy(nearest.astype(np.float32))[None], np.eye(4), "label")
    for spacing in ((0.7, 1.3, 1.0), (2.0, 2.0, 2.0)):
        step = Resample(spacing)
        shares = torch.stack([whole_linear(small.with_data((small.data == value).float()), step) for value in range(150)])
        assert torch.equal(step(small).data[0], shares.argmax(0).float())
    large = Volume(small.data.repeat_interleave(5, 1).repeat_interleave(5, 2).repeat_interleave(5, 3), np.eye(4), "label")
    start = time.process_time()
    assert Resample((1.5, 1.5, 1.5))(large).shape == (80, 80, 80)
    assert time.process_time() - start < 3


def whole_linear(share: Volume, step: Resample) -> torch.Tensor:
    """Linear interpolation of a map [1 I J K] over the whole grid, by scipy's own code."""
    after = step.plan(share).after
    index = np.linalg.solve(share.affine, after.matrix)
    places = np.einsum("ab,bijk->aijk", index[:3, :3], np.indices(after.shape)) + index[:3, 3, None, None, None]
    return torch.from_numpy(map_coordinates(share.data[0].numpy(), places, order=1, mode="nearest", output=np.float64).round(6))


def test_resample_makes_no_new_extremes():
    """The spline through a step edge overshoots by 10 %."""
    edge = torch.zeros(1, 20, 8, 8)
    edge[:, 10:] = 1
    after = Resample((0.4, 0.9, 1.1))(Volume(edge, np.eye(4)))
    assert float(after.data.min()) >= 0 and float(after.data.max()) <= 1


def test_resample_smooths_before_it_gets_coarser():
    """A checkerboard of single voxels has mean 0; without smoothing every second voxel would give -1 or 1."""
    board = torch.from_numpy((np.indices((33, 33, 33)).sum(0) % 2 * 2 - 1).astype(np.float32))[None]
    assert float(Resample((3.0, 3.0, 3.0))(Volume(board, np.eye(4))).data.abs().max()) < 0.05


def test_percentile_maps_its_limits_per_channel():
    data = torch.stack([torch.arange(1001.0), 50 * torch.arange(1001.0) + 7]).reshape(2, 7, 11, 13)
    scaled = Percentile(1, 99)(Volume(data, np.eye(4)))
    assert Percentile(1, 99).limits(Volume(data, np.eye(4))) == [(10, 990), (507, 49507)]
    assert torch.allclose(scaled.data[0], scaled.data[1], atol=1e-6)
    assert scaled.data[0].flatten()[[0, 10, 500, 990, 1000]].tolist() == [-1, -1, 0, 1, 1]


def test_window_is_the_same_for_all():
    data = torch.tensor([-1000.0, -20.0, 40.0, 100.0, 900.0]).reshape(1, 5, 1, 1)
    assert Window(-20, 100)(Volume(data, np.eye(4), "HU")).data.flatten().tolist() == [-1, -1, 0, 1, 1]


def test_percentile_refuses_a_constant_image():
    with pytest.raises(UserError, match="constant"):
        Percentile()(Volume(torch.ones(1, 4, 4, 4), np.eye(4)))


@pytest.mark.parametrize("step", STEPS, ids=lambda s: type(s).__name__)
def test_every_step(step):
    """The contract: frozen, describable, the same geometry for image and label map, labels stay labels, input untouched."""
    assert describe(step)["class_path"].endswith(type(step).__name__)
    with pytest.raises(FrozenInstanceError):
        step.spacing = 1
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    image, label = volume(affine=affine, channels=2), volume(affine=affine, unit="label")
    copies = image.data.clone(), label.data.clone()
    image_after, label_after = step(image), step(label)
    assert image_after.shape == label_after.shape and np.array_equal(image_after.affine, label_after.affine)
    assert label_after.unit == "label" and set(label_after.data.unique().tolist()) <= {0, 1, 2}
    assert image_after.data.dtype == label_after.data.dtype == torch.float32
    assert torch.equal(image.data, copies[0]) and torch.equal(label.data, copies[1])


@pytest.mark.parametrize(
    "step, settings", [(Percentile, (5, 5)), (Percentile, (-1, 50)), (Window, (3, 3)), (Resample, ((1, 0, 1),)), (Resample, ((1, 1),))]
)
def test_wrong_settings(step, settings):
    with pytest.raises(UserError):
        step(*settings)
