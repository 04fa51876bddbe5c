"""A DICOM archive as a source: pseudonyms, a table keyed by true PatientIDs, none of which shows."""

import numpy as np
import pytest

from medldm.data.layouts import find_cases
from medldm.errors import UserError


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Two patients with a CT of 4 slices each."""
    import pydicom
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    root = tmp_path_factory.mktemp("archive")
    for patient in ("CANARY1", "CANARY2"):
        study, series, frame = (generate_uid() for _ in range(3))
        for number in range(4):
            slice_ = pydicom.Dataset()
            slice_.file_meta = pydicom.dataset.FileMetaDataset()
            slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            slice_.file_meta.MediaStorageSOPClassUID = slice_.SOPClassUID = CTImageStorage
            slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID = generate_uid()
            slice_.StudyInstanceUID, slice_.SeriesInstanceUID, slice_.FrameOfReferenceUID = study, series, frame
            slice_.PatientID, slice_.PatientName, slice_.PatientAge, slice_.PatientSex = patient, f"{patient}^JOHN", "050Y", "F"
            slice_.Modality, slice_.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
            slice_.InstanceNumber, slice_.SeriesNumber = number + 1, 1
            slice_.ImageOrientationPatient, slice_.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 2 * number]
            slice_.PixelSpacing, slice_.SliceThickness = [1, 1], 2
            slice_.Rows = slice_.Columns = 8
            slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
            slice_.BitsAllocated = slice_.BitsStored = 16
            slice_.HighBit, slice_.PixelRepresentation, slice_.RescaleSlope, slice_.RescaleIntercept = 15, 1, 1, -1000
            slice_.PixelData = np.full((8, 8), number, np.int16).tobytes()
            slice_.save_as(root / f"{patient}_{number}.dcm", enforce_file_format=True)
    return root


def test_an_archive_is_found_and_its_table_read_by_patient_id(archive, tmp_path):
    (tmp_path / "t.csv").write_text("PatientID,Age,site\nCANARY2,70,north\nCANARY9,20,south\n")
    source = find_cases(archive, tmp_path / "t.csv")
    assert source.kind == "dicom" and [case.modality for case in source.cases] == ["CT", "CT"] and source.unknown_rows == 1
    (two,) = [row["case"] for row in source.key if row["patient_id"] == "CANARY2"]
    assert {case.case: case.covariates for case in source.cases} == {
        case.case: {"age": 70.0, "sex": "F", "site": "north"} if case.case == two else {"age": 50.0, "sex": "F", "site": None}
        for case in source.cases
    }
    assert {case.patient for case in source.cases} == {"p001", "p002"}
    assert not any("CANARY" in text for case in source.cases for text in (case.case, case.patient, *map(str, case.covariates.values())))


def test_a_table_by_pseudonym(archive, tmp_path):
    (tmp_path / "t.csv").write_text("patient,age\np001,1\np002,2\n")
    assert [case.covariates["age"] for case in find_cases(archive, tmp_path / "t.csv").cases] == [1.0, 2.0]
    (tmp_path / "c.csv").write_text("case,patient_id,age\np001_s01,CANARY1,1\n")
    assert {case.patient for case in find_cases(archive, tmp_path / "c.csv").cases} == {"p001", "p002"}


def test_wrong_tables_show_no_identity(archive, tmp_path):
    for text in ("PatientID,age\nCANARY1,1\nCANARY1,2\n", "PatientID,age\nCANARY1,1\nCANARY2,old\n", "PatientID,age\nCANARY7,1\n"):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(UserError) as caught:
            find_cases(archive, tmp_path / "t.csv")
        assert "CANARY" not in str(caught.value)
    (tmp_path / "t.csv").write_text("case,patient_id,study_uid,age\np001_s01,x,1.2.3,5\n")
    with pytest.raises(UserError, match="study_uid tell who the patients are"):
        find_cases(archive, tmp_path / "t.csv")


def test_options_that_do_not_fit_an_archive(archive):
    with pytest.raises(UserError, match="--labels"):
        find_cases(archive, labels={"x": 1})
    with pytest.raises(UserError, match="'T1w'"):
        find_cases(archive, contrasts=["T1w"])


def test_nifti_comes_first(archive, tmp_path):
    (tmp_path / "x.nii.gz").touch()
    (tmp_path / "y.dcm").write_bytes((archive / "CANARY1_0.dcm").read_bytes())
    source = find_cases(tmp_path)
    assert source.kind == "plain" and "DICOM files are not read" in source.notes[-1]


def test_neither(tmp_path):
    (tmp_path / "a.png").write_text("x")
    with pytest.raises(UserError, match=r"holds no image file .*, and no DICOM"):
        find_cases(tmp_path)


def test_real_archive(shared_data):
    source = find_cases(shared_data / "dicom")
    assert source.kind == "dicom" and len(source.cases) > 20 and source.notes
