"""Bad files: each gets its word and a reason, and none gets through."""

import gzip

import numpy as np
import pytest
import torch

from medldm.data.check import check_case, compare
from medldm.data.layouts import SourceCase
from medldm.volume import Volume, write_volume


@pytest.fixture
def case(tmp_path) -> SourceCase:
    rng = np.random.default_rng(0)
    write_volume(tmp_path / "images/a.nii.gz", Volume(torch.from_numpy(rng.normal(size=(1, 8, 9, 10)).astype(np.float32)), np.eye(4)))
    write_volume(tmp_path / "labels/a.nii.gz", Volume(torch.from_numpy(rng.integers(0, 3, (1, 8, 9, 10)).astype(np.float32)), np.eye(4), "label"))
    return SourceCase("a", "a", (tmp_path / "images/a.nii.gz",), tmp_path / "labels/a.nii.gz")


def rewrite(path, data=None, affine=None, unit="a.u."):
    write_volume(path, Volume(torch.ones(1, 8, 9, 10) if data is None else data, np.eye(4) if affine is None else affine, unit))


def test_a_good_case(case):
    finding = check_case(case, {1: "x", 2: "y"}, labelled=True)
    assert (finding.status, finding.label_values, finding.channels) == ("ok", (1, 2), 1)
    assert finding.file == "images/a.nii.gz" and len(finding.digest) == len(finding.content) == 64


def truncated(path):
    path.write_bytes(path.read_bytes()[:-200])


def truncated_inside(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-200]))


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def html(path):
    path.write_text("<!DOCTYPE html><html><body>404</body></html>" * 20)


def zipped_html(path):
    path.write_bytes(gzip.compress(b"<html>404</html>" * 50))


def empty(path):
    path.write_bytes(b"")


def absent(path):
    path.unlink()


@pytest.mark.parametrize("role", ["image", "label"])
@pytest.mark.parametrize("damage", [truncated, truncated_inside, flipped, html, zipped_html, empty, absent])
def test_damaged_files_are_unreadable(case, damage, role):
    path = case.images[0] if role == "image" else case.label
    damage(path)
    finding = check_case(case, {})
    assert (finding.status, finding.file) == ("unreadable", f"{role}s/a.nii.gz")
    assert finding.reason and str(path.parent) not in finding.reason


def test_every_flipped_bit_of_the_voxels_is_found(case):
    """Only the ten bytes of the gzip header (time stamp, system) carry bits that mean nothing."""
    path = case.images[0]
    whole, expected = path.read_bytes(), check_case(case, {}).digest
    for position in np.random.default_rng(1).integers(0, len(whole) * 8, 150):
        data = bytearray(whole)
        data[position // 8] ^= 1 << (position % 8)
        path.write_bytes(data)
        finding = check_case(case, {})
        assert finding.status == "unreadable" or (position < 80 and finding.digest == expected), f"bit {position}"


def test_nan_voxels(case):
    data = torch.randn(1, 8, 9, 10)
    data[0, 1, 2, 3] = torch.nan
    rewrite(case.images[0], data)
    finding = check_case(case, {})
    assert finding.status == "nan" and "1 voxels" in finding.reason


def test_a_folder_called_nan_does_not_decide_the_status(case, tmp_path):
    path = tmp_path / "NaN" / "a.nii.gz"
    path.parent.mkdir()
    html(path)
    assert check_case(SourceCase("a", "a", (path,)), {}).status == "unreadable"


@pytest.mark.parametrize(
    "shape, affine, words",
    [((8, 9, 11), np.eye(4), "8x9x11"), ((8, 9, 10), np.diag([1, 1, 1.01, 1]), "0.01 mm"), ((8, 9, 10), np.diag([-1.0, 1, 1, 1]), "2 mm")],
)
def test_label_on_another_grid(case, shape, affine, words):
    rewrite(case.label, torch.ones(1, *shape), affine, "label")
    finding = check_case(case, {})
    assert (finding.status, finding.file) == ("grid_mismatch", "labels/a.nii.gz") and words in finding.reason


def test_rounding_of_the_affine_is_no_mismatch(case):
    affine = np.eye(4)
    affine[0, 3] = 5e-4
    rewrite(case.label, torch.ones(1, 8, 9, 10), affine, "label")
    assert check_case(case, {}).status == "ok"


def test_label_values(case):
    finding = check_case(case, {1: "x"})
    assert finding.status == "label_values" and "2" in finding.reason and "1 (x)" in finding.reason
    rewrite(case.label, torch.full((1, 8, 9, 10), -1.0), unit="label")
    assert check_case(case, {}).status == "label_values"
    rewrite(case.label, torch.full((1, 8, 9, 10), 0.5))
    assert check_case(case, {}).status == "label_values"


def test_constant_image(case):
    data = torch.zeros(1, 8, 9, 10)
    data[0, 0, 0, 0] = 5
    rewrite(case.images[0], data)
    assert check_case(case, {}).status == "constant"


def test_missing_partners(case):
    assert check_case(SourceCase("a", "a", case.images), {}, labelled=True).status == "no_label"
    assert check_case(SourceCase("a", "a", case.images), {}, labelled=False).status == "ok"
    assert check_case(SourceCase("a", "a", (), case.label), {}).status == "no_image"


def test_contrasts_become_channels_of_one_grid(case, tmp_path):
    second = tmp_path / "images/a_0001.nii.gz"
    rewrite(second, torch.randn(1, 8, 9, 10))
    two = SourceCase("a", "a", (case.images[0], second), case.label)
    assert check_case(two, {}).channels == 2
    rewrite(second, torch.randn(1, 8, 9, 9))
    finding = check_case(two, {})
    assert (finding.status, finding.file) == ("grid_mismatch", "images/a_0001.nii.gz")


def test_compare_finds_the_image_of_another_patient_and_odd_channels(case, tmp_path):
    rewrite(tmp_path / "images/b.nii.gz", torch.randn(1, 8, 9, 10))
    rewrite(tmp_path / "images/two.nii.gz", torch.randn(2, 8, 9, 10))
    same = [SourceCase(name, patient, case.images) for name, patient in (("a", "p"), ("a_again", "p"), ("copy", "q"))]
    cases = [*same, *(SourceCase(name, name, (tmp_path / f"images/{name}.nii.gz",)) for name in ("b", "two"))]
    findings = compare([check_case(c, {}) for c in cases])
    assert [f.status for f in findings] == ["ok", "ok", "duplicate", "ok", "channels"]
    assert "'a'" in findings[2].reason
