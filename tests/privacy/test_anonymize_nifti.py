"""NIfTI files, their sidecars and their names: texts and extensions go, numbers and voxels are the same bytes."""

import gzip
import json
import shutil
import struct
from pathlib import Path, PurePosixPath

import nibabel
import numpy as np
import planted as p
import pytest

from medldm.commands.anonymize import anonymize
from medldm.errors import UserError
from medldm.privacy.naming import patient_of, renamed

VOXELS = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
AFFINE = np.array([[-1.5, 0.1, 0, 12.25], [0, 2, 0.3, -7], [0, -0.2, 3, 40], [0, 0, 0, 1]])
STRINGS = ["CanaryText", "CanaryAux", "CanaryIntent", "CanaryDb", "CanaryType", "CanaryExt", "CanaryTail", "CanaryFile", "Canarowska"]


def write(path: Path, kind=nibabel.Nifti1Image, order: str = "<", tail: bytes = b"") -> Path:
    """An image with a string wherever its header has room for one."""
    image = kind(VOXELS, AFFINE, header=kind.header_class(endianness=order))
    image.header.set_slope_inter(0.5, -3)
    image.set_sform(AFFINE, 2), image.set_qform(AFFINE, 1)
    fields = {"descrip": b"CanaryText of Canarowska", "aux_file": b"CanaryAux", "intent_name": b"CanaryIntent"}
    if kind is nibabel.Nifti1Image:
        fields |= {"db_name": b"CanaryDb", "data_type": b"CanaryType"}
    for name, value in fields.items():
        image.header[name] = value
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"CanaryExt of Canarowska"))
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.parent / "CanaryFile.nii"
    nibabel.save(image, plain)
    data = plain.read_bytes() + tail
    plain.unlink()
    if path.suffix == ".gz":
        with open(path, "wb") as raw, gzip.GzipFile("CanaryFile.nii", "wb", fileobj=raw, mtime=1234567890) as stream:
            stream.write(data)
    else:
        path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_texts_and_extensions_go_and_voxels_stay(tmp_path, kind, order, suffix):
    before = nibabel.load(write(tmp_path / "in" / f"Canarowska_Johanna_t1{suffix}", kind, order, b"CanaryTail"))
    assert len(p.leaks(tmp_path / "in", STRINGS)) >= 6
    anonymize(tmp_path / "in", tmp_path / "out")
    (path,) = (tmp_path / "out").rglob("*.nii*")
    assert p.leaks(tmp_path / "out", STRINGS) == {} and path.relative_to(tmp_path / "out").as_posix() == f"p001_t1{suffix}"
    after = nibabel.load(path)
    assert type(after) is kind and after.header.endianness == order and not len(after.header.extensions)
    np.testing.assert_array_equal(np.asarray(after.dataobj.get_unscaled()), VOXELS)
    np.testing.assert_array_equal(after.affine, before.affine)
    texts = {"descrip", "aux_file", "intent_name", "db_name", "data_type", "unused_str", "regular", "vox_offset"}
    for name in set(after.header) - texts:
        np.testing.assert_array_equal(after.header[name], before.header[name], name)
    if suffix == ".nii.gz":
        head = path.read_bytes()[:10]
        assert head[3] == 0 and head[4:8] == b"\0\0\0\0"  # no name, no time


def test_a_bids_tree_stays_one_with_pseudonyms(tmp_path):
    root = tmp_path / "in"
    for subject, session in (("Canarowska", "20200301"), ("Canarowska", "20210301"), ("Wisselhoff", "1")):
        folder = root / f"sub-{subject}" / f"ses-{session}" / "anat"
        name = f"sub-{subject}_ses-{session}_acq-Habichtsberg_run-1_T1w"
        write(folder / f"{name}.nii.gz")
        (folder / f"{name}.json").write_text(json.dumps({
            "EchoTime": 0.003, "SliceTiming": [0, 1.5], "Manufacturer": "Siemens", "PatientName": "Canarowska", "InstitutionName": "CanaryFile",
            "AcquisitionTime": "10:15", "SeriesDescription": "CanaryText", "ImageType": ["ORIGINAL", subject], "FlipAngle": {"CanaryAux": 1},
            "ManufacturersModelName": f"Skyra of {subject}", "Canarowska": 3, "RepetitionTime": True,
        }))  # fmt: skip
    (root / "participants.tsv").write_text("participant_id\tname\nsub-Canarowska\tCanarowska\n")
    write(root / "sub-Wisselhoff" / "dwi" / "sub-Wisselhoff_dir-AP_dwi.nii.gz")
    (root / "sub-Wisselhoff" / "dwi" / "sub-Wisselhoff_dir-AP_dwi.bval").write_text("0 1000 1e3\n")
    (root / "sub-Wisselhoff" / "dwi" / "sub-Wisselhoff_dir-AP_dwi.bvec").write_text("0 1 Canarowska\n")
    with pytest.raises(UserError, match="1 refused: is no table of numbers"):
        anonymize(root, tmp_path / "out", tmp_path / "key.json")
    assert p.leaks(tmp_path / "out", [*STRINGS, "Habichtsberg", "20200301", "Wisselhoff", "participants"]) == {}
    patients = {row["identity"][1]: name for name, row in json.loads((tmp_path / "key.json").read_text())["patients"].items()}
    ours, theirs = patients["Canarowska"], patients["Wisselhoff"]
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("sub-*.*"))
    expected = [f"sub-{ours}/ses-s0{n}/anat/sub-{ours}_ses-s0{n}_run-1_T1w{suffix}" for n in (1, 2) for suffix in (".json", ".nii.gz")]
    expected += [f"sub-{theirs}/ses-s01/anat/sub-{theirs}_ses-s01_run-1_T1w{suffix}" for suffix in (".json", ".nii.gz")]
    expected += [f"sub-{theirs}/dwi/sub-{theirs}_dir-AP_dwi{suffix}" for suffix in (".bval", ".nii.gz")]
    assert found == sorted(expected)
    kept = json.loads(next((tmp_path / "out" / f"sub-{ours}").rglob("*.json")).read_text())
    assert kept == {"EchoTime": 0.003, "SliceTiming": [0, 1.5], "Manufacturer": "Siemens", "RepetitionTime": True}


@pytest.mark.parametrize(("old", "patient", "new"), [
    ("images/Smith_001.nii.gz", "Smith_001", "images/p001"),
    ("imagesTr/Smith_0000.nii.gz", "Smith", "imagesTr/p001_0000"),
    ("labelsTr/Smith.nii.gz", "Smith", "labelsTr/p001"),
    ("labelsTr/FLARE22_Tr_0001.nii.gz", "FLARE22_Tr_0001", "labelsTr/p001"),
    ("imagesTr/FLARE22_Tr_0001_0000.nii.gz", "FLARE22_Tr_0001", "imagesTr/p001_0000"),
    ("Smith/flair.nii.gz", "Smith", "p001_flair"),
    ("Smith_T1w.nii", "Smith", "p001_T1w"),
    ("sub-Smith/func/sub-Smith_task-Smith_echo-2_bold.nii.gz", "Smith", "sub-p001/func/sub-p001_echo-2_bold"),
    ("sub-CMH_0001/anat/sub-CMH_0001_T1w.nii.gz", "CMH_0001", "sub-p001/anat/sub-p001_T1w"),
    ("sub-CMH_0001_T1w.nii.gz", "CMH_0001", "sub-p001/sub-p001_T1w"),
    ("t1.nii.gz", "t1", "p001_t1"),
    ("control_0471.nii.gz", "control_0471", "p001"),
    ("patient_0001.nii.gz", "patient_0001", "p001"),
    ("patient_0002_t1.nii.gz", "patient_0002", "p001_t1"),
    ("images/study2_0002.nii.gz", "study2_0002", "images/p001"),
    ("Bravo_Juan_T1.nii.gz", "Bravo_Juan", "p001_T1"),
    ("White_Long_t2.nii.gz", "White_Long", "p001_t2"),
    ("John_Dixon.nii.gz", "John_Dixon", "p001"),
    ("Pat_Bold_T1.nii.gz", "Pat_Bold", "p001_T1"),
    ("Doe/scanX.nii.gz", "Doe/scanX", "p001"),
    ("Long/T1.nii.gz", "Long", "p001_T1"),
    ("E1/T1.nii.gz", "E1", "p001_T1"),
    ("train/images/1.nii.gz", "train/1", "images/p001"),
    ("Long_Ivy_brain_mask.nii.gz", "Long_Ivy", "p001_brain_mask"),
    ("case_00000/imaging.nii.gz", "case_00000", "p001_imaging"),
    ("case_00000/segmentation.nii.gz", "case_00000", "p001_segmentation"),
    ("volume-12.nii", "12", "p001_volume"),
    ("segmentation-12.nii", "12", "p001_segmentation"),
    ("label/label0001.nii.gz", "0001", "label/p001"),
    ("masks/mask_001.nii.gz", "001", "masks/p001_mask"),
    ("BraTS-GLI-00000-000-t1n.nii.gz", "BraTS-GLI-00000-000", "p001_t1n"),
    ("IXI002-Guys-0828-T1.nii.gz", "IXI002-Guys-0828", "p001_T1"),
    ("patient001_frame01_gt.nii.gz", "patient001", "p001_frame01_gt"),
    ("T1_Doe.nii.gz", "Doe", "p001_T1"),
])  # fmt: skip
def test_names(old, patient, new):
    path = PurePosixPath(old)
    assert patient_of(path) == patient and renamed(path, "p001", lambda session: "s01") == new


def test_what_a_sidecar_or_a_header_says_of_a_patient_is_sought_in_all_that_is_kept(tmp_path):
    """Nothing in the names of the files says who it is."""
    write(tmp_path / "in" / "x1.nii.gz")  # its header names Canarowska
    said = {
        "PatientName": "Quillfeather^Zoe", "PatientID": "7654321", "PatientBirthDate": "1970-03-02", "AccessionNumber": ["ACC99881"],
        "InstitutionName": "Birdwhistle Clinic", "CoilCombinationMethod": "Quillfeather", "ScanOptions": "ID7654321", "SequenceVariant": "Zoe Q",
        "ConversionSoftwareVersion": "ACC99881", "ImageType": ["ORIGINAL", "QUILLFEATHER"], "ContrastBolusIngredient": "Birdwhistle",
        "BodyPartExamined": "19700302", "RepetitionTime": 7654321, "EchoTime": 7654321.0, "SliceTiming": [19700302, 0.5],
        "Manufacturer": "of Canarowska", "KVP": 120, "FlipAngle": 8.5, "ScanningSequence": "SE",
    }  # fmt: skip
    (tmp_path / "in" / "x1.json").write_text(json.dumps(said))
    (tmp_path / "in" / "x1.bvec").write_text("0 1 0\n")
    anonymize(tmp_path / "in", tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "p001.json").read_text())
    assert kept == {"KVP": 120, "FlipAngle": 8.5, "ScanningSequence": "SE"}
    (tmp_path / "in" / "x1.bval").write_text("0 1000 7654321\n")
    with pytest.raises(UserError, match="1 refused: holds a trace of the patient among its numbers"):
        anonymize(tmp_path / "in", tmp_path / "again")
    assert p.leaks(tmp_path / "again", ["7654321", "Quillfeather"]) == {}


def test_channels_of_nnunet_are_told_from_numbers_by_the_files_beside_them(tmp_path):
    for name in ("doe_0000", "doe_0001", "img_0001", "img_0002"):
        write(tmp_path / "in" / "imagesTr" / f"{name}.nii.gz")
    (tmp_path / "in" / "other").mkdir()
    for name in ("A01.nii.gz", "A01.NII.GZ"):
        shutil.copyfile(tmp_path / "in" / "imagesTr" / "doe_0000.nii.gz", tmp_path / "in" / "other" / name)
    anonymize(tmp_path / "in", tmp_path / "out", key=tmp_path / "key.json")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.nii.gz")}
    patients = {row["identity"][1]: name for name, row in json.loads((tmp_path / "key.json").read_text())["patients"].items()}
    assert set(patients) == {"doe", "0001", "0002", "other/A01"}
    assert {f"imagesTr/{patients['doe']}_0000.nii.gz", f"imagesTr/{patients['doe']}_0001.nii.gz"} < found and len(found) == 6


def test_patients_of_one_scheme_of_names_stay_apart(tmp_path):
    for number in (1, 2, 3):
        write(tmp_path / "in" / f"patient_000{number}.nii.gz")
    anonymize(tmp_path / "in", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.nii.gz")) == ["p001.nii.gz", "p002.nii.gz", "p003.nii.gz"]


def test_names_that_become_equal_are_numbered(tmp_path):
    write(tmp_path / "in" / "sub-a" / "anat" / "sub-a_acq-x_T1w.nii.gz")
    write(tmp_path / "in" / "sub-a" / "anat" / "sub-a_acq-y_T1w.nii.gz")
    anonymize(tmp_path / "in", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.nii.gz")) == ["sub-p001_T1w.nii.gz", "sub-p001_T1w_2.nii.gz"]


@pytest.mark.parametrize("kind", ["cut", "cut gzip", "pair", "no nifti", "size", "bomb", "sidecar"])
def test_bad_files_are_refused(tmp_path, kind, capsys):
    write(tmp_path / "in" / "good.nii.gz")
    path = write(tmp_path / "in" / ("x_bad.nii.gz" if kind in ("cut gzip", "bomb") else "x_bad.nii"))
    data = bytearray(path.read_bytes())
    if kind in ("cut", "cut gzip"):
        data = data[:-12]
    if kind == "pair":
        data[344:348] = b"ni1\0"
    if kind == "no nifti":
        data = bytearray(b"CANARY" * 100)
    if kind == "size":
        data[40:56] = struct.pack("<8h", 3, -3, 4, 5, 1, 1, 1, 1)
    if kind == "bomb":
        data = bytearray(gzip.compress(gzip.decompress(bytes(data)) + bytes(80 << 20), 1))
    path.write_bytes(data)
    if kind == "sidecar":
        write(path)
        path.with_suffix(".json").write_text("[CANARY")
    with pytest.raises(UserError, match="1 refused"):
        anonymize(tmp_path / "in", tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.nii*"))) == (2 if kind == "sidecar" else 1)
    assert p.leaks(tmp_path / "out", ["CANARY"]) == {} and "CANARY" not in "".join(capsys.readouterr())


def test_real_images_keep_every_number(shared_data, tmp_path):
    source = shared_data / "ct" / "totalsegmentator"
    anonymize(source, tmp_path / "out", faces="accept")
    made = sorted((tmp_path / "out").rglob("*.nii.gz"))
    before = {nibabel.load(path).get_fdata().tobytes(): path for path in source.glob("*.nii.gz") if path.stat().st_size < 1 << 20}
    same = {nibabel.load(path).get_fdata().tobytes() for path in made} & set(before)
    assert len(made) == len(list(source.glob("*.nii.gz"))) and same == set(before) and before
