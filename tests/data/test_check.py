"""Bad files: each gets its word and a reason, and none gets through."""

import gzip
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medldm.data.check import check_case, load_case
from medldm.data.finding import Finding
from medldm.data.sources import BadCase, SourceCase, Stored
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
    assert "`--align true`" in finding.reason


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
    assert check_case(SourceCase("a", "a", case.images), {}, labelled=True, assume=["no_label"]).status == "ok"
    assert check_case(SourceCase("a", "a", (), case.label), {}).status == "no_image"


def test_contrasts_become_channels_of_one_grid(case, tmp_path):
    second = tmp_path / "images/a_0001.nii.gz"
    rewrite(second, torch.randn(1, 8, 9, 10))
    two = SourceCase("a", "a", (case.images[0], second), case.label)
    assert check_case(two, {}).channels == 2
    rewrite(second, torch.randn(1, 8, 9, 9))
    finding = check_case(two, {})
    assert (finding.status, finding.file) == ("grid_mismatch", "images/a_0001.nii.gz")


def test_a_finding_comes_back_from_json(case):
    finding = check_case(case, {})
    assert Finding.from_plain(json.loads(json.dumps(finding.to_plain()))) == finding
    assert finding.shape == (8, 9, 10) and finding.spacing == (1, 1, 1) and finding.orientation == "RAS"
    assert finding.low < -2 < finding.median + 1 < 2 < finding.high and len(json.dumps(finding.to_plain())) < 20_000


def test_what_headers_say_is_found_without_reading(case):
    known = replace(case, images=(Path("does/not/exist.nii"),), status="localizer", reason="has three planes.")
    finding = check_case(known, {})
    assert (finding.status, finding.reason, finding.file) == ("localizer", "has three planes.", "not/exist.nii")


def test_storage_order_changes_the_content_but_not_the_digest(case, tmp_path):
    volume, _ = load_case(case)
    turn = np.diag([-1.0, 1.0, 1.0, 1.0])
    turn[0, 3] = 7
    write_volume(tmp_path / "images/f.nii.gz", Volume(volume.data.flip(1).transpose(2, 3), (volume.affine @ turn)[:, [0, 2, 1, 3]]))
    stored, first = check_case(SourceCase("f", "f", (tmp_path / "images/f.nii.gz",)), {}), check_case(case, {})
    assert stored.orientation == "LSA" and stored.digest == first.digest and stored.thumbnail == first.thumbnail
    assert stored.content != first.content


def test_a_plane_is_no_volume(case):
    rewrite(case.images[0], torch.randn(1, 8, 9, 2))
    rewrite(case.label, torch.ones(1, 8, 9, 2), unit="label")
    assert check_case(case, {}).status == "no_volume" and "8 x 9 x 2" in check_case(case, {}).reason
    rewrite(case.images[0], torch.randn(1, 8, 9, 3))
    rewrite(case.label, torch.ones(1, 8, 9, 3), unit="label")
    assert check_case(case, {}).status == "ok"


def test_an_ending_in_capitals_is_unpacked(case, tmp_path):
    capitals = case.images[0].rename(tmp_path / "A.NII.GZ")
    assert check_case(SourceCase("a", "a", (capitals,)), {}).status == "ok"


def test_spacing_out_of_range_can_be_vouched_for(case):
    for length in (0.04, 25.0):
        affine = np.diag([1.0, length, 1.0, 1.0])
        rewrite(case.images[0], torch.randn(1, 8, 9, 10), affine)
        rewrite(case.label, torch.ones(1, 8, 9, 10), affine, "label")
        assert check_case(case, {}).status == "spacing_outlier" and f"{length:g}" in check_case(case, {}).reason
        assert check_case(case, {}, assume=["spacing_outlier"]).status == "ok"


def test_a_single_huge_voxel(case):
    data = torch.randn(1, 8, 9, 10)
    data[0, 1, 2, 3] = 2.0**33
    rewrite(case.images[0], data)
    assert check_case(case, {}).status == "outlier_voxels" and "1 voxels" in check_case(case, {}).reason
    assert check_case(case, {}, assume=["outlier_voxels"]).status == "ok"


def test_an_image_as_label_map(case):
    smooth = np.add.outer(np.add.outer(np.arange(8), np.arange(9)), np.arange(10))[None].astype(np.float32)
    rewrite(case.label, torch.from_numpy(smooth), unit="label")
    assert check_case(case, {}).status == "label_values" and "image" in check_case(case, {}).reason
    blocks = np.kron(np.arange(24).reshape(4, 3, 2), np.ones((2, 3, 5)))[None].astype(np.float32)
    rewrite(case.label, torch.from_numpy(blocks), unit="label")
    assert check_case(case, {}).label_values == tuple(range(1, 24))


def test_an_image_without_any_lesion_is_in_order(case):
    rewrite(case.label, torch.zeros(1, 8, 9, 10), unit="label")
    finding = check_case(case, {1: "lesion"})
    assert (finding.status, finding.label_values, finding.label_digest) == ("ok", (), "")


@dataclass(frozen=True)
class InMemory(Stored):
    """A volume that is no file."""

    value: float

    @property
    def short(self) -> str:
        return "series-1"

    @property
    def files(self) -> tuple[Path, ...]:
        return ()

    def read(self) -> Volume:
        if self.value < 0:
            raise BadCase(self.short, "slices", "lacks a slice.")
        data = torch.arange(720.0).reshape(1, 8, 9, 10)
        data[0, 0, 0, 0] = self.value
        return Volume(data, np.eye(4))


@pytest.mark.parametrize(("value", "status"), [(1.0, "ok"), (float("nan"), "nan"), (-1.0, "slices")])
def test_stored_images(value, status):
    finding = check_case(SourceCase("a", "a", (InMemory(value),)), {})
    assert (finding.status, finding.file) == (status, "series-1")


def test_a_stored_label_map_has_whole_numbers():
    finding = check_case(SourceCase("a", "a", (InMemory(1.0),), InMemory(0.5)), {})
    assert (finding.status, finding.file) == ("label_values", "series-1")


def test_align_brings_other_grids_onto_the_first(case, tmp_path):
    second, label = tmp_path / "images/a_0001.nii.gz", tmp_path / "labels/fine.nii.gz"
    rewrite(second, torch.randn(1, 6, 9, 10), np.diag([1.5, 1, 1, 1]))
    rewrite(label, (torch.arange(20) < 10).float().expand(1, 16, 18, 20).clone(), np.diag([0.5, 0.5, 0.5, 1]), "label")
    two = SourceCase("a", "a", (case.images[0], second), label)
    assert check_case(two, {}).status == "grid_mismatch"
    image, labels = load_case(two, align=True)
    assert image.data.shape == (2, 8, 9, 10) and torch.equal(image.data[:1], load_case(case)[0].data)
    assert torch.equal(labels.data, (torch.arange(10) < 5).float().expand(1, 8, 9, 10)) and labels.unit == "label"
    rewrite(second, torch.randn(1, 8, 9, 10), np.array([[1.0, 0, 0, 6], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    finding = check_case(two, {}, align=True)
    assert finding.status == "grid_mismatch" and "covers 25 %" in finding.reason


def test_ct_is_read_in_hounsfield_units(case):
    assert load_case(case)[0].unit == "a.u." and load_case(replace(case, modality="CT"))[0].unit == "HU"
    assert check_case(case, {}).status == "ok"
    assert check_case(replace(case, modality="CT"), {}).status == check_case(case, {}, modality="CT").status == "not_hu"
    assert check_case(case, {}, modality="CT", assume=["not_hu"]).status == "ok"
