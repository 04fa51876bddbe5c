"""The phantoms: covariates cause anatomy, repeats share it, equal seeds give equal bytes."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from medldm.data.phantom import LABELS, Patient, make_patient, scan_head, write_phantoms
from medldm.errors import UserError
from medldm.volume import read_volume

SHAPE, SPACING = (32, 40, 32), (5.0, 5.0, 5.0)
VOXEL = 125.0  # mm3
PATIENT = Patient("p", 40.0, "M", 12000.0, (0, 7, 1))


def count(label, name: str) -> int:
    return int((label.data == LABELS[name]).sum())


def test_age_widens_ventricles_and_nothing_else_is_needed():
    volumes = [count(scan_head(replace(PATIENT, age=age), 0, SHAPE, SPACING, "mri")[1], "ventricles") for age in (20.0, 45.0, 70.0, 90.0)]
    assert volumes == sorted(volumes) and volumes[-1] > 2 * volumes[0] > 0


def test_age_explains_ventricle_volume_across_patients():
    patients = [make_patient(index, 3) for index in range(16)]
    volumes = [count(scan_head(p, 0, (16, 20, 16), (10.0,) * 3, "mri")[1], "ventricles") for p in patients]
    assert np.corrcoef([p.age for p in patients], volumes)[0, 1] > 0.8


@pytest.mark.parametrize("volume", [0.0, 4000.0, 25000.0])
def test_lesion_has_the_requested_volume(volume):
    label = scan_head(replace(PATIENT, lesion_volume=volume), 0, SHAPE, SPACING, "mri")[1]
    assert abs(count(label, "lesion") * VOXEL - volume) <= VOXEL


def test_heads_of_men_are_larger():
    brains = [count(scan_head(replace(PATIENT, sex=sex), 0, SHAPE, SPACING, "mri")[1], "brain") for sex in "FM"]
    assert brains[1] > 1.08 * brains[0]


def test_a_repeat_scan_shows_the_same_anatomy_in_another_image():
    (image, label), (again, label_again) = (scan_head(PATIENT, scan, SHAPE, SPACING, "mri") for scan in (0, 1))
    stranger = scan_head(replace(PATIENT, seed=(0, 8, 1)), 0, SHAPE, SPACING, "mri")[1]

    def dice(a, b) -> float:
        a, b = a.data == LABELS["brain"], b.data == LABELS["brain"]
        return float(2 * (a & b).sum() / (a.sum() + b.sum()))

    assert 1 > dice(label, label_again) > 0.9 > dice(label, stranger)
    assert not np.allclose(image.data, again.data, rtol=0.01)


def test_ct_is_calibrated_and_shares_the_anatomy_of_mri():
    mri, ct = (scan_head(PATIENT, 0, SHAPE, SPACING, modality) for modality in ("mri", "ct"))
    voxels = ct[0].data
    assert np.array_equal(mri[1].data, ct[1].data)
    assert ct[0].unit == "HU" and float(voxels.min()) >= -1000 and float(voxels[:, 0].median()) == pytest.approx(-1000, abs=10)
    assert 700 < float(voxels.quantile(0.99)) < 1250
    assert 20 < float(voxels[ct[1].data == LABELS["brain"]].median()) < 45
    assert 50 < float(voxels[ct[1].data == LABELS["lesion"]].median()) < 80


def test_mri_noise_is_rician_in_air():
    corner = scan_head(PATIENT, 0, SHAPE, SPACING, "mri")[0].data[0, :5, :5, -8:]
    assert float(corner.min()) >= 0
    assert float(corner.mean() / corner.std()) == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.15)  # Rayleigh


def test_equal_seeds_give_equal_bytes_and_an_interrupted_call_goes_on(tmp_path):
    options = dict(patients=4, shape=(8, 10, 8), spacing=(20.0,) * 3, seed=5)
    write_phantoms(tmp_path / "a", **options)
    write_phantoms(tmp_path / "b", **options)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 5 + 5 + 2
    contents = [(tmp_path / "a" / file).read_bytes() for file in files]
    assert contents == [(tmp_path / "b" / file).read_bytes() for file in files]
    (tmp_path / "b/images/p002_s1.nii.gz").unlink()
    (tmp_path / "b/covariates.csv").unlink()
    write_phantoms(tmp_path / "b", **options)
    assert contents == [(tmp_path / "b" / file).read_bytes() for file in files]
    with pytest.raises(UserError, match="already holds"):
        write_phantoms(tmp_path / "b", **{**options, "seed": 6})


def test_the_folder_is_an_ordinary_source(phantom_source):
    rows = list(csv.DictReader((phantom_source / "covariates.csv").read_text().splitlines()))
    assert len(rows) == 10 and len({row["patient"] for row in rows}) == 8
    assert set(rows[0]) == {"case", "patient", "age", "sex", "lesion_volume"}
    image = read_volume(phantom_source / "images" / f"{rows[0]['case']}.nii.gz")
    assert image.shape == (16, 20, 16) and image.orientation == "RAS" and image.spacing == (10, 10, 10)


@pytest.mark.parametrize("wrong", [dict(patients=0), dict(shape=(2, 8, 8)), dict(spacing=(0.0, 1.0, 1.0)), dict(modality="pet")])
def test_wrong_arguments_write_nothing(tmp_path, wrong):
    with pytest.raises(UserError):
        write_phantoms(tmp_path / "x", **wrong)
    assert not (tmp_path / "x").exists()
