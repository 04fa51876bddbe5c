"""The reader matrix: what no reader may let through, and how much memory it may take to say so."""

import gzip
import struct
import subprocess
import sys
import textwrap

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medldm.data.check import check_case, load_case
from medldm.data.sources import SourceCase
from medldm.volume import BadVolume, Volume, read_volume, write_volume

DIM, TYPE, SIZES, OFFSET, CODES = 40, 70, 76, 108, 252


@pytest.fixture(scope="module")
def raw() -> bytes:
    """A good file of float32 voxels, not compressed."""
    image = nibabel.Nifti1Image(np.random.default_rng(0).normal(100, 10, (8, 9, 10)).astype(np.float32), np.diag([1.0, 2, 3, 1]))
    return image.to_bytes()


def edited(raw: bytes, at: int, form: str, *values: float) -> bytes:
    data = bytearray(raw)
    struct.pack_into(form, data, at, *values)
    return bytes(data)


BAD = {
    "truncated": ("unreadable", "truncated", lambda raw: raw[:-100]),
    "a header alone": ("unreadable", "truncated", lambda raw: raw[:352]),
    "half a header": ("unreadable", "not a NIfTI", lambda raw: raw[:200]),
    "empty": ("unreadable", "not a NIfTI", lambda raw: b""),
    "html": ("unreadable", "not a NIfTI", lambda raw: b"<!DOCTYPE html><html>404</html>" * 40),
    "huge": ("unreadable", "claims", lambda raw: edited(raw, DIM, "<4h", 3, 32767, 32767, 32767)),
    "too long": ("unreadable", "more data", lambda raw: raw + bytes(3 << 20)),
    "far offset": ("unreadable", "claims", lambda raw: edited(raw, OFFSET, "<f", 3e38)),
    "offset nan": ("unreadable", "claims", lambda raw: edited(raw, OFFSET, "<f", float("nan"))),
    "five axes": ("unreadable", "3 axes", lambda raw: edited(raw, DIM, "<6h", 5, 8, 9, 2, 1, 5)),
    "an axis of no voxel": ("unreadable", "3 axes", lambda raw: edited(raw, DIM, "<4h", 3, 8, 9, 0)),
    "an axis of -3 voxels": ("unreadable", "3 axes", lambda raw: edited(raw, DIM, "<4h", 3, 8, 9, -3)),
    "unknown type": ("unreadable", "code 99", lambda raw: edited(raw, TYPE, "<h", 99)),
    "complex": ("voxel_type", "complex", lambda raw: edited(raw, TYPE, "<hh", 32, 64) + raw[352:]),
    "colour": ("voxel_type", "colour", lambda raw: edited(raw, TYPE, "<hh", 128, 24)),
    "pixdim 0": ("spacing", "1 x 0 x 3 mm", lambda raw: edited(raw, SIZES + 8, "<f", 0.0)),
    "pixdim nan": ("spacing", "nan", lambda raw: edited(raw, SIZES + 8, "<f", float("nan"))),
    "flat sform": ("spacing", "degenerate", lambda raw: edited(raw, 280, "<12f", *[0.0] * 12)),
    "infinite": ("nan", "2 voxels", lambda raw: edited(raw, 352, "<2f", float("inf"), float("nan"))),
    "no codes": ("no_place", "codes are 0", lambda raw: edited(raw, CODES, "<2h", 0, 0)),
}


@pytest.mark.parametrize("zipped", [False, True], ids=["nii", "nii.gz"])
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_gets_its_word_and_its_reason(kind, zipped, raw, tmp_path):
    status, words, spoil = BAD[kind]
    path = tmp_path / ("x.nii.gz" if zipped else "x.nii")
    path.write_bytes(gzip.compress(spoil(raw)) if zipped else spoil(raw))
    finding = check_case(SourceCase("x", "x", (path,)), {})
    assert finding.status == status and words in finding.reason and str(path) not in finding.reason


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", ["<", ">"])
def test_both_versions_and_byte_orders_are_read(version, order, tmp_path):
    header = {1: nibabel.Nifti1Header, 2: nibabel.Nifti2Header}[version](endianness=order)
    header.set_data_dtype(np.int16)
    voxels = np.random.default_rng(0).integers(-5, 500, (4, 5, 6)).astype(np.int16)
    kind = {1: nibabel.Nifti1Image, 2: nibabel.Nifti2Image}[version]
    image = kind(voxels, np.diag([1.0, 2, 3, 1]), header)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"longer than the five hundred bytes that are read first " * 20))
    (tmp_path / "x.nii").write_bytes(image.to_bytes())
    volume = read_volume(tmp_path / "x.nii")
    assert np.array_equal(volume.data[0].numpy(), voxels) and volume.spacing == (1, 2, 3)


def test_no_place_can_be_vouched_for(raw, tmp_path):
    (tmp_path / "x.nii").write_bytes(edited(raw, CODES, "<2h", 0, 0))
    case = SourceCase("x", "x", (tmp_path / "x.nii",))
    assert check_case(case, {}, assume=["no_place"]).status == "ok"
    image, _ = load_case(case, assume=["no_place"])
    assert np.array_equal(image.affine, nibabel.load(tmp_path / "x.nii").affine) and image.spacing == (1, 2, 3)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_a_flipped_bit_of_the_header_is_refused_or_changes_a_value_but_never_crashes(raw, tmp_path_factory, data):
    bits = data.draw(st.lists(st.integers(0, 352 * 8 - 1), min_size=1, max_size=4))
    spoilt = bytearray(raw)
    for bit in bits:
        spoilt[bit // 8] ^= 1 << bit % 8
    path = tmp_path_factory.getbasetemp() / "bits.nii"
    path.write_bytes(spoilt)
    finding = check_case(SourceCase("x", "x", (path,)), {}, modality="CT")
    try:
        volume = read_volume(path)
    except BadVolume as error:
        assert error.status == finding.status and error.reason == finding.reason
    else:
        assert torch.isfinite(volume.data).all() and volume.data.numel() <= 2 * 720


@pytest.mark.parametrize(
    ("value", "bit", "status"), [(1.5, 30, "nan"), (100.0, 29, "outlier_voxels"), (100.0, 27, "outlier_voxels"), (100.0, 0, "ok")]
)
def test_a_flipped_bit_of_a_voxel_is_found_where_it_is_gross(value, bit, status, raw, tmp_path):
    """Nothing can be said of the last bits of a voxel in a file without checksum; a flip that raises the exponent shows."""
    whole = edited(raw, 752, "<f", value)
    (tmp_path / "x.nii").write_bytes(edited(whole, 752, "<I", struct.unpack_from("<I", whole, 752)[0] ^ (1 << bit)))
    assert check_case(SourceCase("x", "x", (tmp_path / "x.nii",)), {}).status == status


MEASURE = """
import gzip, resource, struct, sys, threading
import nibabel, numpy as np, torch
from pathlib import Path
from medldm.data.check import check_case
from medldm.data.sources import SourceCase

image = nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32), np.eye(4))
image.to_filename("good.nii.gz")
check_case(SourceCase("x", "x", (Path("good.nii.gz"),)), {})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[1:]:
    finding = check_case(SourceCase("x", "x", (Path(name),)), {})
    print(name, finding.status, "claims" in finding.reason, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_and_huge_claims(tmp_path):
    """A header of 32767^3 voxels, and 2 MB of gzip that would unpack to 2 GiB of zeros: refused with less than 50 MB."""
    good = nibabel.Nifti1Image(np.zeros((8, 8, 8), np.float32), np.eye(4)).to_bytes()
    huge = edited(good[:352], DIM, "<4h", 3, 32767, 32767, 32767) + bytes(131072)
    (tmp_path / "huge.nii").write_bytes(huge)
    (tmp_path / "huge.nii.gz").write_bytes(gzip.compress(huge))
    zeros = gzip.compress(bytes(16 << 20), 9)  # members of a gzip file follow each other
    head = edited(good[:352], DIM, "<4h", 3, 512, 1024, 1024)
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(head) + zeros * 128)
    assert (tmp_path / "bomb.nii.gz").stat().st_size < 4 << 20
    names = ["huge.nii", "huge.nii.gz", "bomb.nii.gz"]
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(MEASURE), *names], cwd=tmp_path, capture_output=True, text=True, check=True)
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [row[:3] for row in rows] == [[name, "unreadable", "True"] for name in names]
    assert max(int(row[3]) for row in rows) < 50 * 1024  # KiB


def test_an_empty_label_map_of_a_large_image_is_no_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr("medldm.volume.SUSPECT_BYTES", 1 << 20)  # 64 MiB would take seconds
    write_volume(tmp_path / "x.nii.gz", Volume(torch.zeros(1, 128, 128, 128), np.eye(4), "label"))
    assert not read_volume(tmp_path / "x.nii.gz", "label").data.any()
    with pytest.raises(BadVolume, match="claims"):
        read_volume(tmp_path / "x.nii.gz")


def test_every_real_file_is_read(shared_data):
    """No limit is so strict that it refuses a sound file; a fifth of the many alike."""
    paths = sorted(shared_data.glob("brains/*/*.nii.gz")) + sorted(shared_data.glob("*/*/*.nii.gz"))[::5] + sorted(shared_data.glob("ct/*/*.nii.gz"))
    assert len(paths) > 50
    for path in paths:
        reference = nibabel.load(path)
        volume = read_volume(path)
        assert np.array_equal(volume.data[0].numpy(), np.asarray(reference.dataobj, np.float32)) and np.array_equal(volume.affine, reference.affine)
