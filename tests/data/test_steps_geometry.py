"""Geometry: a landmark keeps its place through every step, and every change leads back to the grid before it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medldm.data.steps.bias_field import BiasField
from medldm.data.steps.crop_pad import CropToForeground, FitShape, PadToMultiple
from medldm.data.steps.grid import Grid, copied
from medldm.data.steps.history import History, apply_steps, restore
from medldm.data.steps.intensity import Percentile
from medldm.data.steps.relabel import Relabel
from medldm.data.steps.reorient import Reorient
from medldm.data.steps.resample import Resample
from medldm.errors import UserError
from medldm.volume import Volume, read_volume, write_volume

SHAPE = (22, 26, 24)


@st.composite
def affines(draw, smallest=1.0, largest=3.0):
    """Oblique, left- and right-handed, anisotropic, with permuted axes."""
    order, signs = draw(st.permutations(range(3))), draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    spacing, tilt = draw(st.tuples(*[st.floats(smallest, largest)] * 3)), draw(st.tuples(*[st.floats(-40, 40)] * 3))
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", tilt, degrees=True).as_matrix() @ np.eye(3)[:, order] * signs * spacing
    affine[:3, 3] = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    return affine


def places(volume: Volume) -> np.ndarray:
    """World position of every voxel [3 I J K]."""
    index = np.indices(volume.shape).astype(np.float64)
    return np.einsum("ab,bijk->aijk", volume.affine[:3, :3], index) + volume.affine[:3, 3, None, None, None]


def ramps(affine, shape=SHAPE) -> tuple[Volume, Volume]:
    """An image whose three channels are the world coordinates of each voxel about its centre, and two boxes as labels."""
    empty = Volume(torch.zeros(3, *shape), affine)
    where = places(empty)
    centre = where.mean((1, 2, 3), keepdims=True)
    label = torch.zeros(1, *shape)
    label[:, 6:14, 7:19, 5:17] = 3
    label[:, 14:17, 7:19, 5:17] = 8
    return empty.with_data(torch.from_numpy((where - centre).astype(np.float32))), Volume(label, affine, "label")


def inner(volume: Volume, margin: int) -> tuple[slice, ...]:
    return (slice(None), *(slice(margin, n - margin) for n in volume.shape))


def chain(spacing) -> list:
    return [Reorient(), Resample(spacing), CropToForeground(4.0, of="label"), PadToMultiple(4)]


@settings(max_examples=30, deadline=None)
@given(affines(), st.tuples(*[st.floats(0.8, 2.5)] * 3))
def test_a_landmark_keeps_its_place_within_a_hundredth_of_a_millimetre(affine, spacing):
    """Each voxel of the prepared image says where it came from: its values are the coordinates of its place in the source."""
    image, label = ramps(affine, (30, 34, 32))
    centre = places(image).mean((1, 2, 3))
    prepared, labels, changes = apply_steps(chain(spacing), image, label)
    assert prepared.orientation == "RAS" and all(n % 4 == 0 for n in prepared.shape)
    assert prepared.shape == labels.shape and np.array_equal(prepared.affine, labels.affine)
    there = np.linalg.solve(image.affine, np.vstack([places(prepared).reshape(3, -1), np.ones(prepared.data[0].numel())]))[:3]
    # Splines and smoothing feel the border of the source a few (source or new) voxels away; padding has no place in it.
    reach = 4 + 2 * np.array([max(spacing) / s for s in image.spacing])[:, None]
    deep = ((there > reach) & (there < np.array(image.shape)[:, None] - 1 - reach)).all(0)
    deep &= changes[-1](Volume(torch.ones(1, *changes[-1].before.shape), changes[-1].before.matrix, "label")).data[0].flatten().numpy() > 0
    assert deep.sum() > 20
    said = prepared.data.reshape(3, -1).numpy().astype(np.float64) + centre[:, None]
    assert np.abs(said - places(prepared).reshape(3, -1))[:, deep].max() < 0.01
    assert restore(prepared, History.of(image, changes)).shape == image.shape


@settings(max_examples=25, deadline=None)
@given(affines(2.0, 3.0), st.floats(0.3, 0.7), st.tuples(*[st.floats(1.0, 2.0)] * 3))
def test_the_centre_of_a_blob_stays_within_a_hundredth_of_a_millimetre(affine, shift, spacing):
    """A Gaussian of 5 mm in the middle of the field of view: its centre of mass in world coordinates, before and after."""
    empty = Volume(torch.zeros(1, 30, 28, 32), affine)
    middle = places(empty)[:, 14, 13, 15] + shift
    distance = ((places(empty) - middle[:, None, None, None]) ** 2).sum(0)
    image = empty.with_data(torch.from_numpy(np.exp(-distance / 50).astype(np.float32))[None])
    prepared, _, _ = apply_steps([Reorient(), Resample(spacing), CropToForeground(25.0, 0.5), PadToMultiple(8)], image)
    weights = prepared.data[0].numpy().astype(np.float64)
    assert np.abs((places(prepared) * weights).sum((1, 2, 3)) / weights.sum() - middle).max() < 0.01


@settings(max_examples=25, deadline=None)
@given(affines(), st.tuples(*[st.floats(0.8, 2.0)] * 3))
def test_restore_returns_to_the_source_grid_with_ramps_and_labels(affine, spacing):
    image, label = ramps(affine)
    steps = [Reorient(), Resample(spacing), PadToMultiple(8), Relabel((3, 8))]
    prepared, labels, changes = apply_steps(steps, image, label)
    history = History.from_plain(json.loads(json.dumps(History.of(image, changes).to_plain())))
    assert history == History.of(image, changes)
    back, labels_back = restore(prepared, history), restore(labels, history)
    for after, before in ((back, image), (labels_back, label)):
        assert after.shape == before.shape and np.abs(after.affine - before.affine).max() < 1e-3 and after.unit == before.unit
    deep = inner(image, 9)
    assert (back.data - image.data)[deep].abs().max() < 0.01
    same = labels_back.data == label.data
    assert set(labels_back.data.unique().tolist()) == {0, 3, 8}
    borders = sum((label.data.roll(shift, axis) != label.data) for axis in (1, 2, 3) for shift in (-1, 1, -2, 2)) > 0
    assert bool(same[~borders].all())


@settings(max_examples=30, deadline=None)
@given(affines(), st.tuples(*[st.integers(1, 30)] * 3), st.integers(0, 2**31))
def test_steps_that_copy_are_undone_exactly(affine, shape, seed):
    """Voxels inside a crop come back bit by bit; those outside get the lowest value among them."""
    data = torch.randn(2, 14, 12, 10, generator=torch.Generator().manual_seed(seed))
    image = Volume(data, affine)
    prepared, _, changes = apply_steps([Reorient(), PadToMultiple(5), FitShape(shape)], image)
    assert prepared.shape == shape
    back = restore(prepared, History.of(image, changes))
    kept = restore(Volume(torch.ones(1, *shape), prepared.affine, "label"), History.of(image, changes)).data[0] > 0
    assert torch.equal(back.data[:, kept], data[:, kept])
    assert int(kept.sum()) == np.prod([min(a, b) for a, b in zip(shape, Reorient()(image).shape, strict=True)])
    assert np.array_equal(back.affine, image.affine)
    for channel in range(2):
        assert (back.data[channel][~kept] == data[channel][kept].min()).all()


def test_where_a_crop_lies_and_how_it_is_filled():
    data = torch.arange(5.0).reshape(1, 5, 1, 1).repeat(1, 1, 4, 2) + 7
    cropped = FitShape((2, 4, 2))(Volume(data, np.eye(4)))
    assert cropped.data[0, :, 0, 0].tolist() == [8, 9] and cropped.origin == (1, 0, 0)
    padded = FitShape((8, 4, 2))(Volume(data, np.eye(4)))
    assert padded.data[0, :, 0, 0].tolist() == [7, 7, 8, 9, 10, 11, 7, 7] and padded.origin == (-1, 0, 0)
    label = FitShape((8, 4, 2))(Volume(data, np.eye(4), "label"))
    assert label.data[0, :, 0, 0].tolist() == [0, 7, 8, 9, 10, 11, 0, 0]


def test_crop_to_foreground_keeps_the_margin():
    data = torch.zeros(1, 20, 20, 20)
    data[0, 8:12, 2:5, 10] = 1
    spacing = np.diag([2.0, 1.0, 3.0, 1.0])
    for step in (CropToForeground(5.0), CropToForeground(5.0, 0.5)):
        grid = step.plan(Volume(data, spacing)).after
        assert grid.shape == (4 + 6, 3 + 2 + 5, 1 + 4)  # 3 voxels of 2 mm; 5 of 1 mm but only 2 there; 2 of 3 mm
        assert grid.affine[0][3] == 10 and grid.affine[1][3] == 0 and grid.affine[2][3] == 24
    with pytest.raises(UserError, match="no foreground"):
        CropToForeground(threshold=2.0).plan(Volume(data, spacing))
    with pytest.raises(UserError, match="label map"):
        CropToForeground(of="label").plan(Volume(data, spacing))


@settings(max_examples=20, deadline=None)
@given(affines(), st.tuples(*[st.integers(0, 5)] * 3), st.floats(0.7, 1.0))
def test_a_part_of_the_prepared_grid_is_put_where_it_belongs(affine, start, spacing):
    """Also after a file has rounded its affine to float32."""
    image, label = ramps(affine)
    prepared, _, changes = apply_steps([Reorient(), Resample((spacing,) * 3), PadToMultiple(4)], image, label)
    shape = tuple(n - s - 2 for n, s in zip(prepared.shape, start, strict=True))
    cut = (slice(None), *(slice(s, s + n) for s, n in zip(start, shape, strict=True)))
    grid = Grid.of(prepared).window(start, shape)
    part = Volume(prepared.data[cut], grid.matrix.astype(np.float32).astype(np.float64))
    history = History.of(image, changes)
    whole, back = restore(prepared, history), restore(part, history)
    inside = restore(Volume(torch.ones(1, *shape), part.affine, "label"), history).data[0] > 0
    assert back.shape == image.shape and np.array_equal(back.affine, whole.affine)
    missing = torch.nn.functional.pad((~inside).float()[None], [6] * 6, value=1.0)
    near = torch.nn.functional.max_pool3d(missing, 13, 1)[0] > 0  # splines feel the border of the part
    if bool((~near).any()):
        assert (back.data - whole.data)[:, ~near].abs().max() < 0.02
    assert torch.equal(back.data[:, ~inside], back.data[:, inside].amin(1, keepdim=True).expand(-1, int((~inside).sum())))


def test_a_volume_elsewhere_is_refused():
    image, label = ramps(np.diag([2.0, -2.0, 2.0, 1.0]))
    prepared, _, changes = apply_steps(chain((1.5, 1.5, 1.5)), image, label)
    history = History.of(image, changes)
    shifted = prepared.affine + np.array([[0, 0, 0, 0.01], [0] * 4, [0] * 4, [0] * 4])
    half = prepared.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    for wrong in (replace(prepared, affine=shifted), replace(prepared, affine=half), FitShape((80, 80, 80))(prepared)):
        with pytest.raises(UserError, match="does not lie on the grid"):
            restore(wrong, history)
    with pytest.raises(UserError, match="does not lie on the grid"):
        changes[0](prepared)
    with pytest.raises(UserError, match="a part of the grid"):
        changes[0](FitShape((10, 10, 10))(image))
    with pytest.raises(UserError, match="does not lie"):
        restore(replace(image, affine=shifted), History.of(image, ()))
    with pytest.raises(UserError, match="whole voxels"):
        copied(image, Grid.of(image), Grid.at(image.shape, half))


def test_a_real_head_comes_back(shared_data, tmp_path):
    """Voxels of the brain through 1.5 mm, files and back: correlation above 0.99, labels above 97 % equal."""
    folder = shared_data / "brains" / "ixi_hh_2mm"
    image = read_volume(sorted((folder / "t1").iterdir())[0])
    label = read_volume(sorted((folder / "dlmuse_seg").iterdir())[0], "label")
    steps = [Reorient(), Resample((1.5, 1.5, 1.5)), CropToForeground(10.0, of="label"), PadToMultiple(16), Percentile(0, 100)]
    prepared, labels, changes = apply_steps(steps, image, label)
    write_volume(tmp_path / "image.nii.gz", prepared)
    write_volume(tmp_path / "label.nii.gz", labels)
    history = History.from_plain(json.loads(json.dumps(History.of(image, changes).to_plain())))
    back = restore(read_volume(tmp_path / "image.nii.gz"), history)
    labels_back = restore(read_volume(tmp_path / "label.nii.gz", "label"), history)
    assert np.array_equal(back.affine, image.affine) and np.array_equal(labels_back.affine, label.affine)
    brain = label.data > 0
    assert np.corrcoef(back.data[brain].numpy(), image.data[brain].numpy())[0, 1] > 0.99
    assert float((labels_back.data == label.data)[brain].float().mean()) > 0.97


@pytest.mark.parametrize(
    "change",
    [
        {"changes": [{"class_path": "torch.nn.Linear", "init_args": {"in_features": 1 << 20, "out_features": 1 << 20}}]},
        {"changes": [{"class_path": "medldm.data.steps.intensity.Percentile", "init_args": {}}]},
        {"changes": [{"class_path": "medldm.data.steps.grid.Nothing", "init_args": {}}]},
        {"changes": [{"class_path": "medldm.data.steps.relabel.Relabelled", "init_args": {"other": 1}}]},
        {"changes": ["text"]},
        {"shape": [4, 4]},
        {"affine": [[1, 0, 0, 0], [0, 1, 0, 0]]},
        {"unit": None, "changes": 3},
    ],
)
def test_a_record_that_was_tampered_with_is_refused(change):
    content = History.of(ramps(np.eye(4))[0], ()).to_plain()
    assert History.from_plain(content).to_plain() == content
    with pytest.raises(UserError):
        History.from_plain({**content, **change})
    with pytest.raises(UserError):
        History.from_plain(None)


@pytest.mark.parametrize(
    "step, settings",
    [
        (CropToForeground, (-1.0,)), (CropToForeground, (1.0, 0.5, "label")), (CropToForeground, (1.0, None, "other")), (PadToMultiple, (0,)),
        (FitShape, ((1, 2),)), (FitShape, ((0, 1, 1),)), (BiasField, (0.0,)), (BiasField, (4.0, ())), (BiasField, (4.0, (5,), "other")),
    ],
)  # fmt: skip
def test_wrong_settings_of_geometry(step, settings):
    with pytest.raises(UserError):
        step(*settings)
