"""MetaImage and NRRD: SimpleITK, which is not used for reading, writes the files and says what is in them."""

import gzip
import json
import re
import subprocess
import sys
import zlib

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from medldm.data import metaimage, nrrd
from medldm.data.check import check_case, load_case
from medldm.data.itk import files_of, read_itk
from medldm.data.layouts import find_cases
from medldm.data.sources import SourceCase
from medldm.errors import UserError
from medldm.volume import BadVolume, read_volume, write_volume

ENDINGS = ("mha", "nrrd", "mhd", "nhdr")
SHAPE = (7, 6, 5)  # K J I, as SimpleITK has it
VOXELS = np.random.default_rng(0).normal(100, 10, SHAPE).astype(np.float32)


def image(voxels=VOXELS, direction=np.eye(3), spacing=(1.0, 2.0, 3.0), origin=(4.0, -5.0, 6.0)) -> sitk.Image:
    made = sitk.GetImageFromArray(voxels, isVector=False)
    made.SetSpacing(spacing), made.SetOrigin(origin), made.SetDirection(np.asarray(direction).ravel().tolist())
    return made


def written(path, made=None, packed=False) -> bytes:
    sitk.WriteImage(made or image(), path, packed)
    return path.read_bytes()


def turned(angles, left_handed) -> np.ndarray:
    """A rotation; with the third axis reversed, one of a left-handed grid."""
    matrix = np.array(sitk.Euler3DTransform((0, 0, 0), *angles).GetMatrix()).reshape(3, 3)
    return matrix @ np.diag([1, 1, -1 if left_handed else 1])


TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
angle = st.floats(-3, 3)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(angle, angle, angle), st.booleans(), st.sampled_from(TYPES), st.booleans(), st.tuples(*[st.floats(0.1, 9)] * 3),
    st.tuples(*[st.floats(-500, 500)] * 3), st.data(),
)  # fmt: skip
def test_voxels_and_place_are_those_of_itk_and_of_nifti(tmp_path_factory, angles, left_handed, kind, packed, spacing, origin, data):
    values = st.integers(max(np.iinfo(kind).min, -(2**24)), min(np.iinfo(kind).max, 2**24)) if kind[0] != "f" else st.floats(-9e3, 9e3, width=32)
    voxels = data.draw(arrays.arrays(kind, (4, 3, 2), elements=values))
    made = image(voxels, turned(angles, left_handed), spacing, origin)
    folder = tmp_path_factory.mktemp("itk")
    nifti = folder / "x.nii.gz"
    sitk.WriteImage(sitk.Cast(made, sitk.sitkFloat32), nifti)
    reference = nibabel.load(nifti)
    for ending in ENDINGS:
        written(folder / f"x.{ending}", made, packed)
        volume = read_itk(folder / f"x.{ending}")
        assert np.array_equal(volume.data[0].numpy(), voxels.T.astype(np.float32)) and volume.data.dtype == torch.float32
        assert np.abs(volume.affine - reference.affine).max() < 1e-3  # the NIfTI has float32
        point = np.array(made.TransformIndexToPhysicalPoint((1, 2, 3)))
        assert np.allclose((volume.affine @ [1, 2, 3, 1])[:3], point * [-1, -1, 1], atol=1e-9)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("unit", ["HU", "label"])
def test_large_end_first_and_the_unit(ending, unit, tmp_path):
    voxels = np.arange(210, dtype=np.int16).reshape(SHAPE)
    path = tmp_path / f"x.{ending}"
    raw = written(path, image(voxels))
    start = len(raw) - voxels.nbytes if ending in ("mha", "nrrd") else len(raw)
    swap = {"mha": (b"MSB = False", b"MSB = True"), "nrrd": (b"little", b"big")}
    path.write_bytes(raw[:start].replace(*swap["mha" if ending[0] == "m" else "nrrd"]) + raw[start:])
    volume = read_itk(path, unit)
    assert volume.unit == unit and np.array_equal(volume.data[0].numpy().T, voxels.byteswap())


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_fourth_axis_counts_channels(ending, tmp_path):
    voxels = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    made = sitk.GetImageFromArray(voxels, isVector=False)
    made.SetSpacing((1, 2, 3, 4))
    written(tmp_path / f"x.{ending}", made)
    volume = read_itk(tmp_path / f"x.{ending}", assume_place=True)  # ITK names no space for a NRRD of 4 axes
    assert np.array_equal(volume.data.numpy(), voxels.transpose(0, 3, 2, 1)) and volume.spacing == (1, 2, 3)
    assert np.array_equal(np.diag(volume.affine), [-1, -2, 3, 1])
    if ending[0] == "n":
        with pytest.raises(BadVolume, match="where it lies"):
            read_itk(tmp_path / f"x.{ending}")


def test_a_list_of_nrrd_is_channels_wherever_it_stands(tmp_path):
    voxels = np.arange(48, dtype=np.uint8)
    head = "NRRD0005\n# a comment: with colons\ntype: uint8\ndimension: 4\nspace: RAS\nsizes: {}\nspace directions: {}\nkinds: {}\n"
    tail = "encoding: gz\nspace origin: (1,2,3)\ntype:=CANARY: x\n\n"  # `:=` is free text
    first = ("2 4 3 2", "none (1,0,0) (0,0,2) (0,3,0)", "list domain domain domain")
    last = ("4 3 2 2", "(1,0,0) (0,0,2) (0,3,0) none", "space space space time")
    for name, fields, axes in (("a", first, (0, 1, 2, 3)), ("b", last, (3, 0, 1, 2))):
        (tmp_path / f"{name}.nrrd").write_bytes((head.format(*fields) + tail).encode() + gzip.compress(voxels.tobytes()))
        volume = read_itk(tmp_path / f"{name}.nrrd", "label")
        sizes = [int(n) for n in fields[0].split()]
        assert np.array_equal(volume.data.numpy(), voxels.reshape(sizes, order="F").transpose(axes))
        assert np.array_equal(volume.affine, [[1, 0, 0, 1], [0, 0, 3, 2], [0, 2, 0, 3], [0, 0, 0, 1]])


@pytest.mark.parametrize("ending, types", [("mha", metaimage.TYPES), ("nrrd", nrrd.TYPES)])
def test_every_name_of_a_type_is_what_itk_takes_it_for(ending, types, tmp_path):
    for name, kind in types.items():
        raw = written(tmp_path / f"x.{ending}", image(np.zeros(SHAPE, np.uint8)))
        voxels = np.random.default_rng(0).integers(0, 100, SHAPE).astype(kind)
        head = re.sub(b"(ElementType = |type: ).*", rb"\1" + name.encode(), raw[: -voxels.size])
        (tmp_path / f"x.{ending}").write_bytes(head.replace(b"encoding", b"endian: little\nencoding") + voxels.tobytes())
        found = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / f"x.{ending}"))
        assert found.dtype == np.dtype(kind) and np.array_equal(read_itk(tmp_path / f"x.{ending}").data[0].numpy().T, found)


@pytest.mark.parametrize("space, signs", [("left-posterior-superior", (-1, -1, 1)), ("RAS", (1, 1, 1)), ("left-anterior-superior", (-1, 1, 1))])
def test_spaces_of_nrrd(space, signs, tmp_path):
    raw = written(tmp_path / "x.nrrd")
    (tmp_path / "x.nrrd").write_bytes(raw.replace(b"left-posterior-superior", space.encode()))
    expected = np.diag([*signs, 1]) @ [[1, 0, 0, 4], [0, 2, 0, -5], [0, 0, 3, 6], [0, 0, 0, 1]]
    assert np.array_equal(read_itk(tmp_path / "x.nrrd").affine, expected)


def change(old: str, new: str):
    """An edit of the header, which must be there to be edited."""

    def edit(raw: bytes) -> bytes:
        assert re.search(old.encode(), raw, re.MULTILINE)
        return re.sub(old.encode(), new.encode(), raw, count=1, flags=re.MULTILINE)

    return edit


def reheaded(raw: bytes, pack) -> bytes:
    """A file of packed voxels without word on how long the stream is."""
    head, voxels = raw[: -VOXELS.nbytes], raw[-VOXELS.nbytes :]
    return head.replace(b"CompressedData = False", b"CompressedData = True").replace(b"encoding: raw", b"encoding: gzip") + pack(voxels)


def flipped(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 4]) + raw[at:][1:]


BAD = {
    "empty": ("unreadable", "is not a", None, lambda raw: b""),
    "html": ("unreadable", "is not a", None, lambda raw: b"<!DOCTYPE html><html>404</html>" * 40),
    "half a header": ("unreadable", "", None, lambda raw: raw[:90]),
    "truncated": ("unreadable", "truncated", None, lambda raw: raw[:-100]),
    "one byte lost": ("unreadable", "truncated", None, lambda raw: raw[:-1]),
    "a header alone": ("unreadable", "truncated", None, lambda raw: raw[: -VOXELS.nbytes]),
    "too long": ("unreadable", "more data", None, lambda raw: raw + b"x"),
    "much too long": ("unreadable", "more data", None, lambda raw: raw + bytes(1 << 17)),
    "zlib truncated": ("unreadable", "truncated", None, lambda raw: reheaded(raw, zlib.compress)[:-30]),
    "gzip without its checksum": ("unreadable", "truncated", None, lambda raw: reheaded(raw, gzip.compress)[:-8]),
    "zlib without its checksum": ("unreadable", "truncated", None, lambda raw: reheaded(raw, zlib.compress)[:-1]),
    "zlib of less": ("unreadable", "truncated", None, lambda raw: reheaded(raw, lambda voxels: zlib.compress(voxels[4:]))),
    "zlib of more": ("unreadable", "more data", None, lambda raw: reheaded(raw, lambda voxels: zlib.compress(voxels + b"1234"))),
    "a stream and more": ("unreadable", "more data", None, lambda raw: reheaded(raw, lambda voxels: zlib.compress(voxels) + b"x")),
    "wrong checksum of gzip": ("unreadable", "incorrect data check", None, lambda raw: flipped(reheaded(raw, gzip.compress), -6)),
    "wrong checksum of zlib": ("unreadable", "incorrect data check", None, lambda raw: flipped(reheaded(raw, zlib.compress), -1)),
    "no stream": ("unreadable", "is not a whole file", None, lambda raw: reheaded(raw, lambda voxels: voxels)),
    "nan": ("nan", "1 voxels", None, lambda raw: raw[:-4] + np.float32(np.nan).tobytes()),
    "huge": ("unreadable", "claims", None, change("^(DimSize =|sizes:) .*", r"\1 32767 32767 32767")),
    "beyond numbers": ("unreadable", "damaged", None, change("^(DimSize =|sizes:) .*", r"\1 5 6 99999999999")),
    "no voxels": ("unreadable", "3 axes", None, change("^(DimSize =|sizes:) .*", r"\1 5 6 0")),
    "negative": ("unreadable", "3 axes", None, change("^(DimSize =|sizes:) .*", r"\1 5 6 -7")),
    "broken number": ("unreadable", "damaged", None, change("^(DimSize =|sizes:) .*", r"\1 5 6 0x7")),
    "two signs": ("unreadable", "damaged", None, change("^(DimSize =|sizes:) .*", r"\1 5 6 --7")),
    "one axis less": ("unreadable", "damaged", None, change("^(DimSize =|sizes:) .*", r"\1 5 6")),
    "a field twice": ("unreadable", "twice", None, change("^((DimSize =|sizes:) .*\n)", r"\1\1")),
    "unknown type": ("unreadable", "unknown", None, change("MET_FLOAT|float", "MET_FOO")),
    "flat matrix": ("spacing", "degenerate", None, change("^(TransformMatrix =|space directions:) .*", r"\1 XX")),
    "text": ("unreadable", "as text", None, change("BinaryData = True|encoding: raw", "encoding: ascii")),
    "spacing 0": ("spacing", "1 x 0 x 3 mm", "mha", change("ElementSpacing = 1 2 3", "ElementSpacing = 1 0 3")),
    "spacing -2": ("spacing", "1 x -2 x 3 mm", "mha", change("ElementSpacing = 1 2 3", "ElementSpacing = 1 -2 3")),
    "spacing nan": ("spacing", "nan", "mha", change("ElementSpacing = 1 2 3", "ElementSpacing = 1 nan 3")),
    "two lengths": ("unreadable", "2 numbers; 3", "mha", change("ElementSpacing = 1 2 3", "ElementSpacing = 1 2")),
    "no lengths": ("no_place", "where it lies", "mha", change("^ElementSpacing.*\n", "")),
    "no number": ("unreadable", "is not numbers", "mha", change("Offset = 4", "Offset = a")),
    "neither": ("unreadable", "neither", "mha", change("CompressedData = False", "CompressedData = Flase")),
    "second header": ("unreadable", "second header", "mha", change("^NDims", "HeaderSize = 6\nNDims")),
    "scaled": ("unreadable", "scaling", "mha", change("^NDims", "ElementToIntensityFunctionSlope = 2\nNDims")),
    "channels": ("voxel_type", "several numbers", "mha", change("^NDims", "ElementNumberOfChannels = 3\nNDims")),
    "arrays": ("voxel_type", "several numbers", "mha", change("MET_FLOAT", "MET_FLOAT_ARRAY")),
    "elsewhere": ("unreadable", "another file", "mha", change("LOCAL", "/etc/hostname")),
    "beside": ("unreadable", "another file", "mha", change("LOCAL", "x.raw")),
    "a list": ("unreadable", "another file", "mha", change("LOCAL", "LIST")),
    "in time": ("unreadable", "different positions", "mha", lambda raw: OBLIQUE_TIME + raw[-VOXELS.nbytes :]),
    "no space": ("no_place", "where it lies", "nrrd", change("^space: .*\n", "")),
    "other space": ("no_place", "where it lies", "nrrd", change("left-posterior-superior", "scanner-xyz")),
    "no origin": ("no_place", "where it lies", "nrrd", change("^space origin: .*\n", "")),
    "no directions": ("no_place", "where it lies", "nrrd", change("^space directions: .*\n", "")),
    "two directions": ("unreadable", "2 space directions", "nrrd", change(r"\(1,0,0\)", "none")),
    "short direction": ("unreadable", "2 numbers; 3", "nrrd", change(r"\(1,0,0\)", "(1,0)")),
    "no endian": ("unreadable", "endian", "nrrd", change("^endian: .*\n", "")),
    "skipped bytes": ("unreadable", "second header", "nrrd", change("^endian", "byte skip: -1\nendian")),
    "block": ("voxel_type", "several numbers", "nrrd", change("^type: float", "type: block")),
    "data elsewhere": ("unreadable", "another file", "nrrd", change("^endian", "data file: ../x.raw\nendian")),
    "no end": ("unreadable", "no end", "nrrd", lambda raw: raw[: raw.index(b"\n\n")]),
}  # fmt: skip
OBLIQUE_TIME = (
    b"NDims = 4\nBinaryData = True\nTransformMatrix = 1 0 0 1 0 1 0 0 0 0 1 0 0 0 0 1\nOffset = 0 0 0 0\nElementSpacing = 1 1 1 1\n"
    b"DimSize = 5 6 7 1\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
)


@pytest.mark.parametrize("kind, ending", [(kind, ending) for kind, bad in BAD.items() for ending in ("mha", "nrrd") if bad[2] in (None, ending)])
def test_a_bad_file_gets_its_word_and_its_reason(kind, ending, tmp_path):
    status, words, _, spoil = BAD[kind]
    path = tmp_path / f"x.{ending}"
    flat = b"1 0 0 1 0 0 0 0 1" if ending == "mha" else b"(1,0,0) (1,0,0) (0,0,1)"
    path.write_bytes(spoil(written(path)).replace(b"XX", flat, 1 if kind == "flat matrix" else 0))
    finding = check_case(SourceCase("x", "x", (path,)), {})
    assert finding.status == status and words in finding.reason and str(path) not in finding.reason
    if status == "no_place":
        assert check_case(SourceCase("x", "x", (path,)), {}, assume=["no_place"]).status == "ok"


@pytest.mark.parametrize("ending", ["mha", "nrrd"])
@pytest.mark.parametrize("voxels, words", [("vector", "several numbers"), ("complex", "several numbers"), ("flat", "2 axes"), ("five", "5 axes")])
def test_what_is_no_volume_of_real_numbers(ending, voxels, words, tmp_path):
    three = np.zeros((*SHAPE, 3), np.uint8)
    made = {
        "vector": lambda: sitk.GetImageFromArray(three, isVector=True),
        "complex": lambda: sitk.GetImageFromArray(VOXELS.astype(np.complex64)),
        "flat": lambda: sitk.GetImageFromArray(VOXELS[0]),
        "five": lambda: sitk.GetImageFromArray(VOXELS[None, None], isVector=False),
    }[voxels]()
    written(tmp_path / f"x.{ending}", made)
    with pytest.raises(BadVolume, match=words) as caught:
        read_itk(tmp_path / f"x.{ending}")
    assert caught.value.status == ("voxel_type" if voxels in ("vector", "complex") else "unreadable")


@pytest.mark.parametrize("ending", ["mha", "nrrd"])
def test_labels_must_be_whole(ending, tmp_path):
    written(tmp_path / f"x.{ending}")
    with pytest.raises(BadVolume, match="whole numbers"):
        read_itk(tmp_path / f"x.{ending}", "label")
    with pytest.raises(BadVolume, match="does not exist"):
        read_itk(tmp_path / f"absent.{ending}")


@settings(max_examples=300, deadline=None)
@given(st.data())
@pytest.mark.parametrize("ending", ["mha", "nrrd"])
def test_a_flipped_bit_anywhere_in_a_packed_file_is_found_behind_its_header(ending, tmp_path_factory, data):
    """ITK lets most of these pass, or ends the process."""
    path = tmp_path_factory.getbasetemp() / f"bits.{ending}"
    raw = written(path, packed=True)
    start = raw.index(b"\x1f\x8b") + 10 if ending == "nrrd" else raw.index(b"LOCAL\n") + 6
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    spoilt = bytearray(raw)
    spoilt[bit // 8] ^= 1 << bit % 8
    path.write_bytes(spoilt)
    finding = check_case(SourceCase("x", "x", (path,)), {}, modality="CT")
    known = ("unreadable", "spacing", "no_place", "voxel_type", "ok", "nan", "not_hu", "spacing_outlier", "outlier_voxels")
    assert finding.status in (known[:1] if bit // 8 >= start else known)


@settings(max_examples=300, deadline=None)
@given(st.data())
@pytest.mark.parametrize("ending", ["mha", "nrrd"])
def test_a_spoilt_header_never_crashes(ending, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / f"head.{ending}"
    raw = written(path)
    head = bytearray(raw[: -VOXELS.nbytes])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(head) - 1))
        head[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4) | st.sampled_from([b"9", b"-", b"e99", b" ", b"\n"]))
    path.write_bytes(bytes(head) + raw[-VOXELS.nbytes :])
    try:
        volume = read_itk(path, assume_place=data.draw(st.booleans()))
    except BadVolume as error:
        assert error.status in ("unreadable", "spacing", "no_place", "voxel_type", "nan")
    else:
        assert torch.isfinite(volume.data).all() and np.isfinite(volume.affine).all() and volume.data.numel() <= 4 * VOXELS.size


MEASURE = """
import resource, sys
from pathlib import Path
from medldm.data.check import check_case
from medldm.data.sources import SourceCase

check_case(SourceCase("x", "x", (Path("good.mha"),)), {})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[1:]:
    finding = check_case(SourceCase("x", "x", (Path(name),)), {})
    print(name, finding.status, "claims" in finding.reason, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_and_huge_claims(tmp_path):
    """Headers of 32767^3 voxels, and 2 MB that would unpack to 2 GiB of zeros: refused with less than 50 MB."""
    zeros = zlib.compress(bytes(64 << 20), 9) * 32
    names = []
    for ending in ("mha", "nrrd"):
        raw = written(tmp_path / f"good.{ending}")
        (tmp_path / f"huge.{ending}").write_bytes(change("^(DimSize =|sizes:) .*", r"\1 32767 32767 32767")(raw) + bytes(131072))
        (tmp_path / f"bomb.{ending}").write_bytes(change("^(DimSize =|sizes:) .*", r"\1 512 1024 1024")(reheaded(raw, lambda _: zeros)))
        names += [f"huge.{ending}", f"bomb.{ending}"]
    result = subprocess.run([sys.executable, "-c", MEASURE, *names], cwd=tmp_path, capture_output=True, text=True, check=True)
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [row[:3] for row in rows] == [[name, "unreadable", "True"] for name in names]
    assert max(int(row[3]) for row in rows) < 50 * 1024  # KiB


@pytest.mark.parametrize("ending", ["mhd", "nhdr"])
@pytest.mark.parametrize("packed", [False, True])
def test_voxels_beside_their_header(ending, packed, tmp_path):
    path = tmp_path / f"a.1.{ending}"
    raw = written(path, packed=packed)
    (data,) = [file for file in tmp_path.iterdir() if file != path]
    assert files_of(path) == (path, data) == SourceCase("x", "x", (path,)).files
    path.rename(tmp_path / f"b.{ending}")
    with pytest.raises(BadVolume, match="another file"):  # named after another header
        read_itk(tmp_path / f"b.{ending}")
    for name in ("../secret.raw", "/etc/hostname", "LIST", "a%02d.raw 1 5 1", "a.1.txt"):
        path.write_bytes(raw.replace(data.name.encode(), name.encode()))
        with pytest.raises(BadVolume, match="another file") as caught:
            read_itk(path)
        assert name not in caught.value.reason
    path.write_bytes(raw)
    data.write_bytes(data.read_bytes()[:-9])
    with pytest.raises(BadVolume, match="truncated"):
        read_itk(path)
    data.unlink()
    with pytest.raises(BadVolume, match="do not lie beside it"):
        read_itk(path)


def test_no_text_of_a_header_is_told(tmp_path):
    made = image()
    made.SetMetaData("0010|0010", "CANARY^JOHN\nsecond = line")
    for ending, old, new in (("mha", "MET_FLOAT", "CANARY"), ("nrrd", "encoding: raw", "encoding: CANARY"), ("nrrd", r"\(4,", "(CANARY,")):
        raw = written(tmp_path / f"x.{ending}", made)
        assert read_itk(tmp_path / f"x.{ending}").shape == (5, 6, 7)
        (tmp_path / f"x.{ending}").write_bytes(change(old, new)(raw))
        finding = check_case(SourceCase("x", "x", (tmp_path / f"x.{ending}",)), {})
        assert finding.status == "unreadable" and "CANARY" not in finding.reason


def test_layouts_find_them(tmp_path):
    for name in ("imagesTr/c_0000.mha", "imagesTr/c_0001.mha", "labelsTr/c.mha"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        written(tmp_path / name, image(np.rint(VOXELS).astype(np.uint8)))
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1", "1": "T2"}, "labels": {}, "file_ending": ".mha"}))
    (case,) = find_cases(tmp_path).cases
    loaded, label = load_case(case)
    assert loaded.data.shape == (2, 5, 6, 7) and label.unit == "label" and case.case == "c"
    (tmp_path / "list.csv").write_text("case,image,label\nx.mha,imagesTr/c_0000.mha,labelsTr/c.mha\n")
    assert [(c.case, c.label.name) for c in find_cases(tmp_path / "list.csv").cases] == [("x", "c.mha")]
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("p.NRRD", "q.mhd", "p_seg.nii.gz", "q.seg.nrrd"):
        (plain / name).touch()
    (plain / "q.raw").touch()
    assert {c.case: c.label.name for c in find_cases(plain).cases} == {"p": "p_seg.nii.gz", "q": "q.seg.nrrd"}
    (plain / "p.mha").touch()
    with pytest.raises(UserError, match="holds both"):
        find_cases(plain)


def test_the_same_image_in_two_formats_is_one_content(tmp_path):
    written(tmp_path / "x.nrrd", image(direction=turned((0.3, 0.2, 0.1), True)))
    write_volume(tmp_path / "x.nii.gz", read_itk(tmp_path / "x.nrrd"))
    assert np.abs(read_volume(tmp_path / "x.nii.gz").affine - read_itk(tmp_path / "x.nrrd").affine).max() < 1e-5
    findings = [check_case(SourceCase("x", "x", (tmp_path / name,)), {}) for name in ("x.nrrd", "x.nii.gz")]
    assert findings[0].digest == findings[1].digest != ""


def test_the_real_lung(shared_data):
    path = shared_data / "ct/elastix_lung/3DCT_lung_baseline_small.mha"
    volume = read_itk(path, "HU")
    reference = sitk.ReadImage(path)
    assert np.array_equal(volume.data[0].numpy().T, sitk.GetArrayFromImage(reference)) and volume.shape == (57, 78, 64)
    assert np.allclose(volume.affine[:3, 3], np.array(reference.GetOrigin()) * [-1, -1, 1]) and volume.orientation == "LPS"
    assert check_case(SourceCase("x", "x", (path,)), {}, modality="CT").status == "ok"
    assert -1200 < float(volume.data.min()) < -1000 and 300 < float(volume.data.max()) < 3100 and volume.unit == "HU"  # air and bone
