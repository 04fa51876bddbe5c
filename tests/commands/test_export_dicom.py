"""`export --format dicom`: readers of others see the same voxels in the same place, and nobody can take the files for a patient's."""

import json
import re
import shutil
import subprocess
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from pydicom import dcmread
from pydicom.uid import UID
from test_export import generated_cohort, small_cohort

from medldm.cohort import Cohort
from medldm.commands import export as exports
from medldm.commands import prepare as preparation
from medldm.commands.export import export
from medldm.commands.prepare import prepare
from medldm.commands.verify import verify
from medldm.data.dicom.alone import read_alone
from medldm.data.dicom.archive import find_series
from medldm.data.dicom.rounding import rounded
from medldm.data.storing import write_case
from medldm.errors import UserError
from medldm.volume import BadVolume, Volume, read_volume

#: Turned about all axes, with a spacing whose millionths of mm are exact halves.
OBLIQUE = np.array([[0.9765625, 0, 0, -61.3], [0, 1.17, 0, 20.7], [0, 0, 2.5, -3.1], [0, 0, 0, 1.0]])
_turn = np.linalg.qr(np.eye(3) + 0.2 * np.random.default_rng(1).normal(size=(3, 3)))[0]
OBLIQUE[:3] = _turn * np.sign(np.diag(_turn)) @ OBLIQUE[:3]


@pytest.fixture(autouse=True, scope="module")
def no_store():
    """Setting up a store takes seconds, and is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (exports, preparation):
            patch.setattr(module, "tracked", lambda run, reads: nullcontext(SimpleNamespace(metrics=lambda found: None)))
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three generated cases that lie obliquely, and their export."""
    root, generator, labels = tmp_path_factory.mktemp("made"), torch.Generator().manual_seed(0), {3: "left organ", 300: "lesion"}
    cases = []
    for n in range(3):
        image = Volume(torch.randn(1, 7, 9, 6, generator=generator), OBLIQUE)
        values = torch.tensor([0, 3, 300.0])[torch.randint(3, (1, 7, 9, 6), generator=generator)]
        values[:, :, :, -1] = 0  # slices that no structure reaches
        cases.append(write_case(root / "c", f"synthetic-{n}", image, Volume(values, OBLIQUE, "label"), labels, covariates={"age": 70.5, "sex": "F"}))
    parents = {"diffusion": "ab" * 32, "cohort": "cd" * 32}
    cohort = Cohort(root / "c", tuple(cases), "a.u.", labels, dict.fromkeys(cases[0].covariates, ""), parents, True)
    cohort.save()
    return cohort, export(cohort.root, root / "out", "dicom", name="Study")


def as_itk(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Voxels [K J I] as SimpleITK reads them, and the place of each in LPS mm."""
    ijk = np.moveaxis(np.indices(volume.shape), 0, -1)
    places = (ijk @ volume.affine[:3, :3].T + volume.affine[:3, 3]) * [-1, -1, 1]
    return volume.data[0].numpy(), places


def test_simpleitk_reads_the_same_voxels_in_the_same_place(made):
    cohort, folder = made
    for case in cohort:
        image = SimpleITK.ReadImage(str(folder / case.case / "image.dcm"))
        volume = read_volume(cohort.path(case.image))
        voxels, places = as_itk(volume)
        step = np.ptp(voxels) / 65535
        for ijk in np.ndindex(*volume.shape):
            index = image.TransformPhysicalPointToContinuousIndex(places[ijk].tolist())
            assert np.abs(np.array(index) - np.rint(index)).max() < 1e-4
            assert abs(image[tuple(round(i) for i in index)] - voxels[ijk]) <= 0.501 * step
        assert np.allclose(sorted(image.GetSpacing()), sorted(volume.spacing)) and image.GetSize() == volume.shape


def test_dcm2niix_reads_the_same_volume(made, tmp_path):
    dcm2niix = pytest.importorskip("dcm2niix")
    cohort, folder = made
    (tmp_path / "in").mkdir()
    shutil.copy(folder / "synthetic-2" / "image.dcm", tmp_path / "in")
    command = [dcm2niix.bin, "-z", "n", "-b", "n", "-f", "found", "-o", str(tmp_path), str(tmp_path / "in")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    found, source = nibabel.as_closest_canonical(nibabel.load(tmp_path / "found.nii")), read_volume(cohort.path(cohort.cases[2].image))
    assert np.abs(found.affine - source.affine).max() < 1e-4
    assert np.abs(found.get_fdata() - source.data[0].numpy()).max() <= 0.501 * np.ptp(source.data[0].numpy()) / 65535


def test_a_secondary_capture_without_a_place_stays_set_aside(made, tmp_path):
    data = dcmread(made[1] / "synthetic-0" / "image.dcm")
    del data.PerFrameFunctionalGroupsSequence
    data.save_as(tmp_path / "picture.dcm")
    assert [case.status for case in find_series(tmp_path).cases] == ["secondary_capture"]


def test_our_reader_brings_back_voxels_place_and_labels(made):
    cohort, folder = made
    for case in cohort:
        image, label = read_volume(cohort.path(case.image)), read_volume(cohort.path(case.label), "label")
        again, labels = (read_alone(folder / case.case / file) for file in ("image.dcm", "label.dcm"))
        assert torch.equal(again.data, rounded(image)[0].volume.data) and torch.equal(labels.data, label.data)
        assert np.array_equal(again.affine, image.affine) and np.array_equal(labels.affine, label.affine)  # to the last bit


def test_prepare_reads_them_as_an_archive(made, tmp_path, capsys):
    cohort, folder = made
    again = prepare(folder, tmp_path / "again", window=(-1.0, 1.0), val=0, test=0)
    assert again.labels == {1: "left_organ", 2: "lesion"} and len(again) == 3 and "3 volumes say that they are synthetic" in capsys.readouterr().out
    who = {
        row["case"]: row["patient_id"] for row in (dict(zip(("case", "patient", "patient_id"), row, strict=False)) for row in find_series(folder).key)
    }
    for case in again:
        source = next(one for one in cohort if one.case == who[case.case])
        assert case.covariates["age"] == 70.5 and case.covariates["sex"] == "F"
        image, label = read_volume(cohort.path(source.image)), read_volume(cohort.path(source.label), "label")
        found = read_volume(again.path(case.image))
        step = float(image.data.max() - image.data.min()) / 65535
        assert float((found.data - image.data.clip(-1, 1)).abs().max()) < 0.51 * step and np.abs(found.affine - image.affine).max() < 1e-5
        assert torch.equal(read_volume(again.path(case.label), "label").data, (label.data > 0) + (label.data > 3).float())


def test_segments_are_where_the_standard_puts_them(made):
    """Pixels by pydicom, places by the standard's formula; no reader of ours."""
    cohort, folder = made
    label = read_volume(cohort.path(cohort.cases[0].label), "label")
    voxels, places = as_itk(label)
    seg = dcmread(folder / "synthetic-0" / "label.dcm")
    seen = np.zeros_like(voxels)
    shared = seg.SharedFunctionalGroupsSequence[0]
    along_row, along_column = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    down, across = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    values = {item.SegmentNumber: int(item.SegmentedPropertyTypeCodeSequence[0].CodeValue) for item in seg.SegmentSequence}
    for frame, pixels in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
        corner = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        value = values[frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber]
        for row, column in np.argwhere(pixels):
            where = corner + along_row * across * column + along_column * down * row
            ijk = np.unravel_index(np.linalg.norm(places - where, axis=-1).argmin(), label.shape)
            assert np.linalg.norm(places[ijk] - where) < 1e-4
            seen[ijk] = value
    assert np.array_equal(seen, voxels)
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["left organ", "lesion"]


def test_each_frame_of_a_segment_names_the_frame_of_the_image_in_its_place(made):
    image, label = (dcmread(made[1] / "synthetic-0" / file) for file in ("image.dcm", "label.dcm"))
    assert label.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID
    for frame in label.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        assert (source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID) == (image.SOPClassUID, image.SOPInstanceUID)
        there = image.PerFrameFunctionalGroupsSequence[source.ReferencedFrameNumber - 1].PlanePositionSequence[0]
        assert there.ImagePositionPatient == frame.PlanePositionSequence[0].ImagePositionPatient


def test_dciodvfy_agrees(made):
    """D. Clunie's validator, where it is installed; editions before 2023 do not know SyntheticData."""
    program = shutil.which("dciodvfy") or pytest.skip("dciodvfy (dicom3tools) is not installed")
    for path in sorted(made[1].rglob("*.dcm")):
        told = subprocess.run([program, "-new", str(path)], capture_output=True, text=True, errors="replace", timeout=60)
        said = told.stdout + told.stderr
        assert "MultiframeGrayscaleWordSCImage" in said or "Segmentation" in said
        assert [line for line in said.splitlines() if line.startswith("Error") and "(0008,001c)" not in line] == []


def test_files_say_that_they_are_synthetic_and_name_nobody(made):
    folder = made[1]
    image, label = (dcmread(folder / "synthetic-1" / file) for file in ("image.dcm", "label.dcm"))
    for data in (image, label):
        assert (data.SyntheticData, data.PatientIdentityRemoved, str(data.PatientName), data.PatientID) == (
            "YES",
            "YES",
            "synthetic-1",
            "synthetic-1",
        )
        assert (data.PatientAge, data.PatientSex, data.ImageType[0]) == ("846M", "F", "DERIVED") and data.DeidentificationMethod
        maker = data.ContributingEquipmentSequence[0]
        assert maker.Manufacturer == "medldm" and maker.PurposeOfReferenceCodeSequence[0].CodeValue == "109100"
        assert "ab" * 32 in maker.ContributionDescription and maker.SoftwareVersions
        assert data.StudyInstanceUID == image.StudyInstanceUID and data.FrameOfReferenceUID == image.FrameOfReferenceUID
        uids = {str(element.value) for element in data.iterall() if element.VR == "UI" and not UID(element.value).name[0].isalpha()}
        assert uids and all(re.fullmatch(r"2\.25\.\d{10,39}", uid) for uid in uids)
    assert UID(image.SOPClassUID).name.startswith("Multi-frame Grayscale Word Secondary Capture")
    assert image.ImageType == ["DERIVED", "SECONDARY"] and image.ConversionType == "SYN" and image.BurnedInAnnotation == "NO"
    assert image.Modality == "OT" and image.RescaleSlope in [float(s) for s in re.findall(r"steps of ([\d.e-]*\d)", image.DerivationDescription)]
    assert ("cd" * 32).encode() not in b"".join(path.read_bytes() for path in folder.rglob("*.dcm"))  # the real cohort


#: Attributes of types 1 and 2 (PS3.3) of modules that both kinds of objects must have; some may be empty, none absent.
BOTH = (
    "PatientName PatientID PatientBirthDate PatientSex StudyInstanceUID StudyDate StudyTime StudyID AccessionNumber ReferringPhysicianName Modality "
    "SeriesInstanceUID SeriesNumber FrameOfReferenceUID PositionReferenceIndicator InstanceNumber ContentDate ContentTime NumberOfFrames SOPClassUID "
    "SOPInstanceUID Rows Columns SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored HighBit PixelRepresentation PixelData"
)
IMAGE = "Manufacturer ConversionType FrameIncrementPointer BurnedInAnnotation RescaleSlope RescaleIntercept RescaleType PresentationLUTShape"
IMAGE += " Laterality"
LABEL = "Manufacturer ManufacturerModelName DeviceSerialNumber SoftwareVersions ImageType LossyImageCompression SegmentationType ContentLabel"
LABEL += " ContentDescription ContentCreatorName DimensionOrganizationSequence DimensionIndexSequence ReferencedSeriesSequence"
EMPTY = {"PatientBirthDate", "StudyID", "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator"}
EMPTY |= {"ContentDescription", "ContentCreatorName", "Laterality"}


def test_required_attributes_are_there(made):
    for file, more in (("image.dcm", IMAGE), ("label.dcm", LABEL)):
        data = dcmread(made[1] / "synthetic-0" / file)
        names = f"{BOTH} {more}".split()
        assert {name for name in names if name not in data} == set()
        assert {name for name in names if data[name].is_empty} == EMPTY & set(names)


def test_highdicom_agrees(made):
    """Its tables of modules (PS3.3) and its readers."""
    highdicom = pytest.importorskip("highdicom")
    tables = Path(highdicom.__file__).parent / "_standard"
    kinds, modules, content = (
        json.loads((tables / f"{n}.json").read_text()) for n in ("sop_class_iod_map", "iod_module_map", "module_attribute_map")
    )
    cohort, folder = made
    for file in ("image.dcm", "label.dcm"):
        data = dcmread(folder / "synthetic-0" / file)
        needed = [module["key"] for module in modules[kinds[data.SOPClassUID]] if module["usage"] == "M" or module["key"] == "frame-of-reference"]
        rows = [row for key in needed for row in content[key] if not row["path"] and row["type"] in ("1", "2")]
        assert len(rows) > 25
        assert [r["keyword"] for r in rows if r["keyword"] not in data or (r["type"] == "1" and data[r["keyword"]].is_empty)] == []
    image, label = read_volume(cohort.path(cohort.cases[0].image)), read_volume(cohort.path(cohort.cases[0].label), "label")
    volumes = (
        highdicom.imread(folder / "synthetic-0" / "image.dcm").get_volume(apply_real_world_transform=False, apply_modality_transform=True),
        highdicom.seg.segread(folder / "synthetic-0" / "label.dcm").get_volume(combine_segments=True),
    )
    for found, source in zip(volumes, (rounded(image)[0].volume.data[0].numpy(), np.searchsorted([0, 3, 300], label.data[0].numpy())), strict=True):
        back = found.to_patient_orientation("RAS")
        assert np.allclose(np.diag([-1, -1, 1, 1]) @ back.affine, image.affine, atol=1e-5) and np.allclose(back.array, source, atol=1e-6)


def test_hounsfield_units_are_exact_whole_numbers(tmp_path):
    cohort = generated_cohort(tmp_path / "g", 1)
    values = torch.randint(-1024, 3071, (1, 4, 5, 6)).float()
    case = write_case(tmp_path / "g", "ct", Volume(values, np.diag([2.0, 1.5, 3.0, 1.0])), covariates={"age": 61.0, "sex": None})
    replace(cohort, cases=(case,), unit="HU", labels={}, covariates={"age": "years", "sex": ""}).save()
    file = export(tmp_path / "g", tmp_path / "out", "dicom") / "ct" / "image.dcm"
    data = dcmread(file)
    assert (data.Modality, data.RescaleType, data.RescaleSlope, data.PatientAge, data.PatientSex) == ("CT", "HU", 1, "061Y", "")
    image = SimpleITK.ReadImage(str(file))
    assert "integer" in image.GetPixelIDTypeAsString()
    assert np.array_equal(SimpleITK.GetArrayFromImage(image)[:, ::-1, ::-1], values[0].numpy().transpose(2, 1, 0))
    read = find_series(file.parent).cases[0].images[0].read()
    assert read.unit == "HU" and torch.equal(read.data.flip(1, 2), values)


@pytest.mark.parametrize(
    "values", [torch.full((1, 4, 4, 4), 0.3), torch.tensor([-3e38, 3e38, 1e-30, 7]).repeat(1, 4, 4, 1), torch.arange(64.0).view(1, 4, 4, 4) * 1e4]
)
def test_rounding_keeps_to_half_a_step(values):
    part = rounded(Volume(values, np.eye(4)))[0]
    error = (part.volume.data.double() - values.double()).abs().max()
    assert float(error) <= 0.501 * float(part.slope) * (values.max() > values.min()) + 1e-7
    assert len(part.slope) <= 16 and len(part.intercept) <= 16


def test_contrasts_are_series_of_one_study_and_come_back_as_channels(tmp_path):
    made = generated_cohort(tmp_path / "g", facts={"contrasts": ["T1w", "FLAIR"]})
    folder = export(tmp_path / "g", tmp_path / "out", "dicom")
    assert sorted(path.name for path in (folder / made.cases[0].case).iterdir()) == ["image_1.dcm", "image_2.dcm", "label.dcm"]
    again = find_series(folder, ["T1w", "FLAIR"])
    assert [len(case.images) for case in again.cases if case.status == "ok"] == [2, 2, 2] and all(case.label for case in again.cases)


def test_the_same_export_gives_the_same_files_and_nothing_is_overwritten(made, tmp_path):
    cohort, folder = made
    again = export(cohort.root, tmp_path / "again", "dicom", name="Study")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(files) == 7 and all((folder / file).read_bytes() == (again / file).read_bytes() for file in files)
    (tmp_path / "again" / "provenance.json").unlink()
    (again / "synthetic-1" / "label.dcm").unlink()
    (again / "synthetic-2" / "image.dcm").write_bytes(b"mine")
    export(cohort.root, tmp_path / "again", "dicom", name="Study")  # continues with what is missing
    assert (again / "synthetic-1" / "label.dcm").read_bytes() == (folder / "synthetic-1" / "label.dcm").read_bytes()
    assert (again / "synthetic-2" / "image.dcm").read_bytes() == b"mine"
    with pytest.raises(UserError, match="other arguments"):
        export(cohort.root, tmp_path / "again", "dicom", name="Other")


def test_what_is_not_synthetic_upright_or_whole_is_refused(tmp_path):
    real = small_cohort(tmp_path / "real")
    with pytest.raises(UserError, match=r"holds real images.*\n?.*anonymize"):
        export(real.root, tmp_path / "out", "dicom")
    made = generated_cohort(tmp_path / "g")
    with pytest.raises(UserError, match="choose training cases"):
        export(made.root, tmp_path / "out", "dicom", patients=1)
    (made.root / made.cases[0].image).write_bytes(b"other")
    with pytest.raises(UserError, match="not the file that was written"):
        export(made.root, tmp_path / "out", "dicom")
    assert not (tmp_path / "out").exists()
    for n, affine in enumerate((np.diag([-2.0, 1.5, 3.0, 1.0]), np.array([[2, 0.1, 0, 0], [0, 1.5, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1.0]]))):
        case = write_case(tmp_path / f"t{n}", "turned", Volume(torch.rand(1, 4, 5, 6), affine))
        Cohort(tmp_path / f"t{n}", (case,), synthetic=True).save()
        with pytest.raises(UserError, match="not upright"):
            export(tmp_path / f"t{n}", tmp_path / f"o{n}", "dicom")


def test_without_a_manifest_nothing_is_known_and_damage_is_told(made, tmp_path, capsys):
    file = made[1] / "synthetic-0" / "image.dcm"
    with pytest.raises(UserError, match="1 of 1 files are not valid"):
        verify([file])
    assert "metadata_missing" in capsys.readouterr().out
    (tmp_path / "short.dcm").write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BadVolume, match="truncated"):
        read_alone(tmp_path / "short.dcm")
    seg = dcmread(made[1] / "synthetic-0" / "label.dcm")
    seg.Rows = seg.Columns = 65535
    seg.save_as(tmp_path / "bomb.dcm")
    with pytest.raises(BadVolume, match="claims"):
        read_alone(tmp_path / "bomb.dcm")
