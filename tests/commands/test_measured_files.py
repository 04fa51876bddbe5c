"""Measurements of files: whatever way the body lies, whatever the unit; raw data line by line; and what is refused."""

import nibabel
import numpy as np
import pytest
import torch

from medldm.commands.measured_files import files, read
from medldm.commands.measured_kspace import calibration, kspace_noise, of_kspace, upright
from medldm.errors import UserError
from medldm.operators.acquisitions import AcceleratedMRI, LargeVoxels, MissingBlock, Noisy, SparseCT, ThickSlices, ring_of_coils
from medldm.operators.anatomy import Anatomy
from medldm.operators.ct import FanCT
from medldm.operators.masks import VariableDensity
from medldm.operators.mri import CartesianMRI, coil_maps, kspace
from medldm.operators.noncartesian import NonCartesianMRI, stack_of_stars
from medldm.operators.scanners import FanBeamCT, LowDoseCT, RadialMRI
from medldm.randomness import keyed
from medldm.volume import Volume, write_volume

SHAPE, SPACING, SCALE = (16, 20, 12), (2.0, 1.5, 1.0), 300.0
AFFINE = np.diag([*SPACING, 1.0])
MRI, CT = AcceleratedMRI(), SparseCT()
PLACES = [torch.linspace(-1, 1, n)[[slice(None) if a == axis else None for a in range(3)]] for axis, n in enumerate(SHAPE)]


def body(number=0):
    """An ellipsoid with a bright end, in [-1, 1], a little different each time."""
    i, j, k = PLACES
    inside = ((i / 0.8) ** 2 + (j / 0.7) ** 2 + (k / (0.8 - 0.03 * number)) ** 2 < 1).float()
    return (inside * (1 + 0.4 * i + 0.3 * j - 0.2 * k) - 1)[None].clamp(-1, 1)


ANATOMY = Anatomy.of([body(n) for n in range(4)], SHAPE)


def found(path, acquisition=MRI, noise=None):
    return read(path, acquisition, noise, ANATOMY, SPACING)


def saved(path, **arrays):
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SLA"])
def test_kspace_is_turned_until_the_body_stands_as_the_models_know_it(codes, tmp_path):
    turn = nibabel.orientations.axcodes2ornt(codes)
    there = nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), turn)
    image = torch.from_numpy(np.ascontiguousarray(nibabel.apply_orientation(((body() + 1) * SCALE)[0].numpy(), there)))
    affine = AFFINE @ nibabel.orientations.inv_ornt_aff(there, SHAPE)
    mask = VariableDensity(2.0, 4)(image.shape, keyed("m"))
    path = saved(tmp_path / "k.npz", kspace=(kspace(image[None]) * mask).numpy(), mask=mask.numpy(), affine=affine)
    one = found(path)
    assert one.shape == SHAPE and np.allclose(one.affine, AFFINE) and int(one.of.measured.sum()) == int(mask.sum())
    assert float((one.of.operator(body()[None]) - one.of.y).norm() / one.of.y.norm()) < 0.15 and one.scale == pytest.approx(SCALE, rel=0.1)


def test_turning_keeps_every_measured_number():
    """Reflections in the image only move numbers of k-space and change their phase, for odd and even sizes, with coils, too."""
    for shape in ((8, 7, 6), (5, 6, 9)):
        mask = VariableDensity(2.0, 3)(shape, keyed("m"))
        maps = ring_of_coils(shape, 3)
        x = torch.randn(1, *shape, generator=keyed("x"), dtype=torch.complex64)
        k = kspace(maps * x) * mask
        turned, there, coils, affine = upright(k, mask, maps, np.array([[0, -2.0, 0, 3], [1, 0, 0, 4], [0, 0, -3, 5], [0, 0, 0, 1]]))
        assert nibabel.aff2axcodes(affine) == ("R", "A", "S") and there.sum() == mask.sum()
        flipped = x.permute(0, 2, 1, 3).flip(1, 3)
        assert torch.allclose(turned, CartesianMRI(there, coils)(flipped[None])[0], atol=1e-5)


def test_a_trajectory_of_a_file(tmp_path):
    pytest.importorskip("torchkbnufft", reason="torchkbnufft is not installed")
    trajectory, maps = stack_of_stars(SHAPE, 14), ring_of_coils(SHAPE, 3)
    y = NonCartesianMRI(SHAPE, trajectory, maps)((body()[None] + 1).to(torch.complex64) * SCALE)[0]
    y = y + 40 * torch.randn(y.shape, generator=keyed("n"), dtype=torch.complex64) * 2**0.5
    arrays = {"kspace": y.numpy(), "trajectory": trajectory.numpy(), "shape": np.array(SHAPE), "coils": maps.numpy()}
    one = found(saved(tmp_path / "k.npz", **arrays), RadialMRI())
    assert one.scale == pytest.approx(SCALE, rel=0.1) and one.of.measured is None
    assert one.of.noise * one.scale == pytest.approx(40, rel=0.1)
    for changes, message in (({"coils": None}, "need coil maps"), ({"shape": None}, "needs"), ({"coils": 2 * maps.numpy()}, "sum to 1")):
        with pytest.raises(UserError, match=message):
            found(saved(tmp_path / "wrong.npz", **arrays | changes), RadialMRI())


def test_a_fan_of_a_file_has_lengths_in_millimetres(tmp_path):
    angles = torch.arange(24, dtype=torch.float64) * 2 * torch.pi / 24
    operator = FanCT(SHAPE, angles, 200.0, 300.0, SPACING[:2], bin_width=2.5)
    y = operator((body()[None] + 1) * SCALE)[0, 0].numpy()
    arrays = {"sinogram": y, "angles": angles.numpy(), "shape": np.array(SHAPE), "source": 200.0, "detector": 300.0, "bin_width": 2.5}
    one = found(saved(tmp_path / "fan.npz", **arrays), FanBeamCT())
    residual = one.of.operator(body()[None]) - one.of.y
    assert float(residual.norm() / one.of.y.norm()) < 0.1 and one.scale == pytest.approx(SCALE, rel=0.1), "in the unit of the file"
    with pytest.raises(UserError, match="source=10"):
        found(saved(tmp_path / "near.npz", **arrays | {"source": 10.0}), FanBeamCT())
    with pytest.raises(UserError, match="not the detector"):
        found(saved(tmp_path / "wrong.npz", **arrays | {"detector": None}), FanBeamCT())


def test_missing_voxels_of_a_file_are_not_measured(tmp_path):
    image = (body() + 1) * SCALE
    image[:, 4:9, 6:12, 3:8] = torch.nan
    write_volume(tmp_path / "hole.nii.gz", Volume(image.flip(1), AFFINE @ np.diag([-1, 1, 1, 1.0])))
    one = found(tmp_path / "hole.nii.gz", MissingBlock())
    assert torch.equal(one.of.operator.mask, image[0].isfinite()) and one.scale == pytest.approx(SCALE, rel=0.1)
    with pytest.raises(UserError, match="NaN"):
        found(tmp_path / "hole.nii.gz", Noisy())


@pytest.mark.parametrize(
    ("acquisition", "image", "affine", "message"),
    [
        (Noisy(), body() * 1000, AFFINE, "add 1000 to HU"),
        (Noisy(), body() + 1, AFFINE @ np.diag([2, 2, 2, 1.0]), "voxels of 4 x 3 x 2 mm"),
        (LargeVoxels(), body() + 1, AFFINE, "voxels of 1 x 0.75 x 0.5 mm"),
        (CT, body() + 1, AFFINE, "is an image"),
    ],
)
def test_images_of_another_unit_or_size_are_refused(acquisition, image, affine, message, tmp_path):
    write_volume(tmp_path / "image.nii.gz", Volume(image, affine))
    with pytest.raises(UserError, match=message):
        found(tmp_path / "image.nii.gz", acquisition)


def test_numbers_that_cannot_be_are_refused(tmp_path):
    k = (kspace(body()) * SCALE).numpy()
    for changes, message in (
        ({"kspace": 0 * k}, "nothing but zeros"),
        ({"kspace": k.real}, "complex numbers"),
        ({"kspace": k[0, 0]}, "complex"),
        ({"coils": k[0]}, "coils is"),
        ({"coils": ring_of_coils(SHAPE, 3).numpy()}, "a map for each coil"),
        ({"mask": np.full(SHAPE, np.nan)}, "0 or 1 for each point"),
        ({"mask": np.ones(SHAPE), "kspace": k * VariableDensity(2.0, 4)(SHAPE, keyed("m")).numpy()}, "points of the mask are 0 in all coils"),
        ({"affine": np.zeros((4, 4))}, "affine"),
        ({"affine": np.diag([2.0, 1.5, 3.0, 1.0])}, "voxels of 2 x 1.5 x 3 mm"),
    ):
        with pytest.raises(UserError, match=message):
            found(saved(tmp_path / "wrong.npz", **{"kspace": k} | changes))
    for noise in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="must be positive"):
            found(saved(tmp_path / "k.npz", kspace=k), MRI, noise)


def test_sinograms_that_cannot_be_are_refused(tmp_path):
    y = CT.operator(SHAPE, SPACING)((body()[None] + 1) * SCALE)[0, 0].numpy()
    views = {"sinogram": y, "angles": CT.angles.numpy(), "shape": np.array(SHAPE)}
    for changes, message in (
        ({"sinogram": y + 1j}, "complex"),
        ({"sinogram": np.exp(-y / y.max())}, "rays beside the image"),
        ({"shape": np.array([16, 0, 12])}, "three whole numbers"),
        ({"shape": np.array([16.0, 20.5, 12.0])}, "three whole numbers"),
        ({"shape": np.array([1 << 20, 1 << 20, 12])}, "three whole numbers"),
        ({"angles": np.degrees(CT.angles.numpy())}, "ct.npz: An angle of 174 is more than a turn"),
    ):
        with pytest.raises(UserError, match=message):
            found(saved(tmp_path / "ct.npz", **views | changes), CT)


def test_a_trajectory_needs_a_shape_and_a_map_for_each_coil(tmp_path):
    samples, trajectory = np.ones((2, 40), complex), np.zeros((3, 40))
    for changes, message in (
        ({"shape": np.array([16, -20, 12])}, "three whole numbers"),
        ({"coils": ring_of_coils(SHAPE, 3).numpy()}, r"\(2, 16, 20, 12\) was expected"),
    ):
        with pytest.raises(UserError, match=message):
            arrays = {"kspace": samples, "trajectory": trajectory, "shape": np.array(SHAPE), "coils": ring_of_coils(SHAPE, 2).numpy()}
            found(saved(tmp_path / "k.npz", **arrays | changes), RadialMRI())


def test_an_image_of_which_nothing_or_all_is_known_is_refused(tmp_path):
    for image, acquisition, message in ((0 * body(), Noisy(), "nothing but zeros"), (body() + 1, MissingBlock(), "no voxel of it is missing")):
        write_volume(tmp_path / "image.nii.gz", Volume(image, AFFINE))
        with pytest.raises(UserError, match=message):
            found(tmp_path / "image.nii.gz", acquisition)


def test_a_file_is_measured_as_what_calibrates_it(tmp_path):
    """Weights and errors of another kind of measurement would be wrong without a word."""
    k = saved(tmp_path / "k.npz", kspace=(kspace(body() + 1) * SCALE).numpy())
    y = CT.operator(SHAPE, SPACING)((body()[None] + 1) * SCALE)[0, 0].numpy()
    views = {"sinogram": y, "angles": CT.angles.numpy(), "shape": np.array(SHAPE)}
    ct = saved(tmp_path / "ct.npz", **views)
    for path, acquisition, wanted in (
        (k, RadialMRI(), "AcceleratedMRI"),
        (k, CT, "AcceleratedMRI"),
        (ct, MRI, "SparseCT"),
        (ct, LowDoseCT(), "SparseCT"),
    ):
        with pytest.raises(UserError, match=f"Give --acquisition {wanted}"):
            found(path, acquisition)
    assert found(ct, CT).of.y.shape[2] == CT.views
    with pytest.raises(UserError, match="LAS"):
        found(saved(tmp_path / "las.npz", **views, affine=AFFINE @ np.diag([-1, 1, 1, 1.0])), CT)


def test_a_phase_within_few_slices_is_found(tmp_path):
    shape = (32, 32, 8)
    image, (i, j, _) = torch.rand(1, *shape, generator=keyed("x")) + 1, PLACES
    i, j = (torch.linspace(-1, 1, 32).reshape(-1, 1, 1), torch.linspace(-1, 1, 32).reshape(1, -1, 1))
    k = kspace(image * torch.polar(torch.ones(()), 1.5 * i - j))
    raw = of_kspace(tmp_path, {"kspace": k.numpy()}, SPACING)
    middle = (slice(None), slice(None), slice(3, -3), slice(3, -3))
    assert float((raw.operator.adjoint(raw.y) - image)[middle].norm() / image[None][middle].norm()) < 0.05


def test_maps_do_not_hold_the_noise_of_outer_kspace():
    shape, noise = (24, 24, 16), 0.1
    maps = ring_of_coils(shape, 6)
    i, j, k = (torch.linspace(-1, 1, n).reshape([-1 if a == axis else 1 for a in range(3)]) for axis, n in enumerate(shape))
    image = torch.exp(-2 * (i**2 + j**2 + k**2)) + 0.5
    y = kspace(maps * image)[None] + noise * torch.randn(1, 6, *shape, generator=keyed("n"), dtype=torch.complex64) * 2**0.5
    mask = torch.ones(shape, dtype=torch.bool)
    found_maps, true_maps = (CartesianMRI(mask, m).adjoint(y).abs() for m in (coil_maps(y, calibration(mask)), maps))
    assert float((found_maps - image).square().mean().sqrt()) < 1.15 * float((true_maps - image).square().mean().sqrt())


@pytest.mark.parametrize(("acquisition", "shape"), [(ThickSlices(distance=2.5), (16, 20, 5)), (LargeVoxels(factors=(1.5, 1.0, 1.0)), (7, 20, 12))])
def test_slices_at_odd_distances_get_a_grid(acquisition, shape, tmp_path):
    factors = np.array([1, 1, 2.5]) if isinstance(acquisition, ThickSlices) else np.array(acquisition.factors)
    write_volume(tmp_path / "image.nii.gz", Volume(torch.ones(1, *shape), AFFINE @ np.diag([*factors, 1])))
    one = found(tmp_path / "image.nii.gz", acquisition)
    assert tuple(one.of.operator(torch.zeros(1, 1, *one.shape)).shape[2:]) == shape
    with pytest.raises(UserError, match="would measure"):
        found(tmp_path / "image.nii.gz", ThickSlices(distance=2.5, thickness=9.0) if isinstance(acquisition, ThickSlices) else wrong_size())


def wrong_size():
    return ThickSlices(axis=0, distance=1.5, thickness=6.0)


def test_a_mask_that_measures_everything_is_a_measurement(tmp_path):
    one = found(saved(tmp_path / "k.npz", kspace=(kspace(body() + 1) * SCALE).numpy(), mask=np.ones(SHAPE, bool)))
    assert one.of.measured.all() and one.scale == pytest.approx(SCALE, rel=0.05)


def test_the_calibration_block_is_found_and_noise_measured():
    mask = torch.zeros(12, 16, 10, dtype=torch.bool)
    mask[:, 8 - 3 : 8 + 3, 5 - 2 : 5 + 2] = True
    assert calibration(mask) == (6, 6, 4), "half of an axis at most: what is beyond is noise"
    with pytest.raises(UserError, match="too few"):
        calibration(torch.rand(12, 16, 10, generator=keyed("m")) > 0.5)
    noise = 3.0 * torch.randn(2, 32, 32, 32, generator=keyed("n"), dtype=torch.complex64) * 2**0.5
    assert kspace_noise(noise, None) == pytest.approx(3.0, rel=0.03)
    assert CartesianMRI(mask).normalised


def test_only_measurements_are_taken_from_a_folder(tmp_path):
    for name in ("b.npz", "a.h5", "c.nii", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in files(tmp_path)] == ["a.h5", "b.npz", "c.nii"]
