"""A dirty archive: every series becomes volumes, is set aside, or is refused with the right word; nothing shows who it is."""

import numpy as np
import pytest
from dicom_phantoms import AXIAL, COLUMNS, CT, GAP, MR, ORIGIN, ROWS, SLICES, assert_in_place, base, put_pixels, save, write_slices

from medldm.data.dicom.archive import find_series, holds_dicom
from medldm.data.dicom.entries import KEY_COLUMNS


def statuses(folder):
    return sorted(case.status for case in find_series(folder).cases)


def test_patients_series_and_covariates(tmp_path):
    write_slices(tmp_path / "CANARY/a", PatientAge="061Y")
    write_slices(tmp_path / "CANARY/b", SeriesNumber=2)
    write_slices(tmp_path / "other", PatientID="CANARY-8", PatientSex="")
    write_slices(tmp_path / "nobody", PatientID="", PatientName="", PatientBirthDate="")
    (tmp_path / "readme.txt").write_text("no DICOM" * 50)
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / ".hidden").write_bytes(b"\0" * 128 + b"DICM")
    archive = find_series(tmp_path)
    assert {case.status for case in archive.cases} == {"ok"} and len(archive.cases) == 4
    cases = {row[5]: case for row, case in zip(archive.key, archive.cases, strict=True)}
    one, two = cases["CANARY/a"], cases["CANARY/b"]
    assert one.patient == two.patient != cases["other"].patient and cases["nobody"].patient == "unknown"
    assert (two.case, one.case) == (f"{one.patient}_s01", f"{one.patient}_s02")  # by series number
    assert one.covariates == {"age": 61.0, "sex": "M"}
    assert two.covariates["age"] == pytest.approx(60, abs=0.01) and cases["other"].covariates["sex"] is None
    assert "1 files are no DICOM" in archive.notes[0]
    assert holds_dicom(tmp_path)


def test_names_do_not_depend_on_the_order_of_files_or_on_folders(tmp_path):
    for number, names in enumerate((("a", "b"), ("z", "c"))):
        write_slices(tmp_path / str(number) / names[0], PatientID="one", SeriesInstanceUID="1.2.11", seed=number)
        write_slices(tmp_path / str(number) / names[1], PatientID="two", SeriesInstanceUID="1.2.12", seed=number)
    keys = [{row[:3] for row in find_series(tmp_path / str(number)).key} for number in range(2)]
    assert keys[0] == keys[1]


def test_nothing_shows_who_it_is(tmp_path, caplog, capfd, recwarn):
    """Not in names, reasons, notes or logs of good, bad and strange files; paths are in `files` alone."""
    folder = tmp_path / "CANARY^JOHN"
    write_slices(folder / "good")
    write_slices(folder / "gap")[2].unlink()
    write_slices(folder / "bad", PatientAge="CANARY", RescaleType="CANARY", ImageType="CANARY", StudyDate="CANARY")
    for path in write_slices(folder / "slope"):
        path.write_bytes(path.read_bytes().replace(b"0.05", b"CANARY"[:4]))
    for path in sorted((folder / "bad").iterdir())[:2]:
        path.write_bytes(path.read_bytes()[:-30])
    (folder / "CANARY.dcm").write_bytes(b"CANARY" * 100)
    caplog.clear(), capfd.readouterr(), recwarn.clear()
    archive = find_series(folder)
    images = [image for case in archive.cases for image in case.images]
    assert len(archive.cases) == 5 and len(images) == 1
    images[0].read()
    shown = [(c.case, c.patient, c.status, c.reason, c.covariates) for c in archive.cases], [image.short for image in images]
    heard = caplog.text, *capfd.readouterr(), [str(warning.message) for warning in recwarn]
    assert "CANA" not in repr((shown, heard, archive.notes, archive.labels)).upper()
    assert any("CANARY" in cell for row in archive.key for cell in row) and "CANARY-7" not in repr(archive)  # the key has no place in a log


def remove(index):
    def change(paths):
        paths[index].unlink()

    return change


def copy_as_other(paths):
    """An identical slice under another name and UID."""
    from pydicom import dcmread

    dataset = dcmread(paths[1])
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.77"
    save(dataset, paths[1].parent / "again")
    return dataset


def another_image(paths):
    dataset = copy_as_other(paths)
    dataset.PixelData = bytes(reversed(dataset.PixelData))
    save(dataset, paths[1].parent / "again")


def moved(shift, index=2):
    def change(paths):
        from pydicom import dcmread

        dataset = dcmread(paths[index])
        dataset.ImagePositionPatient = [a + b for a, b in zip(dataset.ImagePositionPatient, shift, strict=True)]
        save(dataset, paths[index])

    return change


def edited(**attributes):
    def change(paths):
        from pydicom import dcmread

        for path in paths:
            dataset = dcmread(path)
            for name, value in attributes.items():
                if value is None:
                    del dataset[name]
                else:
                    setattr(dataset, name, value)
            save(dataset, path)

    return change


def truncated(paths):
    paths[3].write_bytes(paths[3].read_bytes()[:-10])


def deflated(paths):
    for path in paths:
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"))


def huge(paths):
    edited(Rows=65535, Columns=65535, BitsAllocated=32, NumberOfFrames=1000)(paths)


def colours(paths):
    from pydicom import dcmread

    for path in paths:
        dataset = dcmread(path)
        put_pixels(dataset, np.zeros((ROWS, COLUMNS), np.uint8))
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
        dataset.PixelData = bytes(ROWS * COLUMNS * 3)
        save(dataset, path)


@pytest.mark.parametrize("damage, status, words", [
    (remove(2), "missing_slices", "lacks 1 slices"),
    (moved((0, 0, 0.5)), "unequal_gaps", "2.5 to 3.5 mm"),
    (moved((0.9, 0, 0)), "shifted_slices", "within their planes"),
    (another_image, "duplicate_slices", "1 slices"),
    (truncated, "unreadable", "truncated"),
    (huge, "unreadable", "MiB"),
    (deflated, "unsupported", "deflated"),
    (colours, "no_volume", "colour"),
    (edited(PhotometricInterpretation="MONOCHROME1"), "unsupported", "MONOCHROME2"),
    (edited(ImagePositionPatient=None), "no_position", "where it lies"),
    (edited(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "no_position", "impossible orientation"),
    (edited(PixelSpacing=[0, 0]), "no_position", "pixel spacing"),
    (edited(PixelData=None), "no_volume", "no pixels"),
    (edited(RescaleSlope="0"), "unsupported", "rescale slope"),
    (edited(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "localizer", "localizer"),
    (edited(SeriesDescription="3-plane scout of CANARY"), "localizer", "localizer"),
    (edited(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), "secondary_capture", "screen"),
    (edited(SOPClassUID="1.2.840.10008.5.1.4.1.1.481.2", Modality="RTDOSE"), "no_volume", "another kind"),
    (edited(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.22", Modality="SR"), "no_volume", "another kind"),
])  # fmt: skip
def test_each_fault_has_its_word(tmp_path, damage, status, words):
    damage(write_slices(tmp_path))
    cases = find_series(tmp_path).cases
    assert {case.status for case in cases} == {status}, cases
    assert words in cases[0].reason and not cases[0].images and cases[0].reason.endswith((".", ")", "]"))


def test_a_missing_decoder_is_named_with_its_extra(tmp_path, monkeypatch):
    from pydicom.pixels.decoders.base import Decoder

    def claim(dataset, k):
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.80"
        dataset.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
        dataset["PixelData"].is_undefined_length = True

    monkeypatch.setattr(Decoder, "is_available", False)
    write_slices(tmp_path, change=claim)
    (case,) = find_series(tmp_path).cases
    assert case.status == "no_decoder" and "medldm[dicom]" in case.reason


def test_copies_are_left_out_and_counted(tmp_path):
    paths = write_slices(tmp_path / "a")
    copy_as_other(paths)
    (tmp_path / "b").mkdir()
    for path in paths:
        (tmp_path / "b" / path.name).write_bytes(path.read_bytes())
    archive = find_series(tmp_path)
    (case,) = archive.cases
    assert case.status == "ok" and f"{SLICES + 1} slices are copies" in " ".join(archive.notes)
    assert_in_place(case.images[0].read())


def test_a_damaged_copy_does_no_harm(tmp_path):
    paths = write_slices(tmp_path)
    (tmp_path / "0damaged").write_bytes(paths[0].read_bytes()[:-40])
    (case,) = find_series(tmp_path).cases
    assert case.status == "ok"


@pytest.mark.parametrize("name, values", [
    ("EchoTime", (5, 80)), ("ContrastBolusAgent", ("", "Gd")), ("TemporalPositionIdentifier", (1, 2)), ("AcquisitionNumber", (1, 2)),
    ("ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"])), ("DiffusionBValue", (0.0, 1000.0)),
    ("ConvolutionKernel", ("B30", "B70")),
])  # fmt: skip
def test_contrasts_of_one_series_are_volumes_of_their_own(tmp_path, name, values):
    for number, value in enumerate(values):
        write_slices(tmp_path / str(number), sop_class=MR, SeriesInstanceUID="1.2.50", RescaleType="US", **{name: value},
                     change=lambda d, k, n=number: setattr(d, "RescaleIntercept", 500 * n))  # fmt: skip
    cases = find_series(tmp_path).cases
    assert [case.status for case in cases] == ["ok", "ok"] and len({case.patient for case in cases}) == 1
    for number, case in enumerate(cases):
        volume = case.images[0].read()
        assert_in_place(volume.with_data(volume.data - 500 * number))


def test_one_incomplete_echo_spares_the_other(tmp_path):
    for number, echo in enumerate((5, 80)):
        paths = write_slices(tmp_path / str(number), sop_class=MR, SeriesInstanceUID="1.2.50", EchoTime=echo)
    paths[2].unlink()
    assert statuses(tmp_path) == ["missing_slices", "ok"]


def test_two_stacks_of_one_series_that_follow_each_other(tmp_path):
    """Thin slices through the skull base, thick ones above, in one series."""
    write_slices(tmp_path / "thin", SeriesInstanceUID="1.2.51", change=lambda d, k: setattr(d, "SliceThickness", 3))

    def higher(dataset, k):
        dataset.SliceThickness = 6
        dataset.ImagePositionPatient[2] += SLICES * GAP + 20

    write_slices(tmp_path / "thick", step=(0, 0, 6), SeriesInstanceUID="1.2.51", change=higher)
    cases = find_series(tmp_path).cases
    assert [round(case.images[0].read().spacing[2], 3) for case in cases] == [3, 6]


def test_orientations_and_sizes_are_put_apart_and_three_perpendicular_ones_are_a_localizer(tmp_path):
    planes = {"axial": AXIAL, "sagittal": (0, 1, 0, 0, 0, -1), "coronal": (1, 0, 0, 0, 0, -1)}
    for name in ("axial", "sagittal"):
        write_slices(tmp_path / name, planes[name], sop_class=MR, SeriesInstanceUID="1.2.52")
    assert statuses(tmp_path) == ["ok", "ok"]
    write_slices(tmp_path / "coronal", planes["coronal"], sop_class=MR, SeriesInstanceUID="1.2.52")
    assert statuses(tmp_path) == ["localizer"]

    def smaller(dataset, k):
        put_pixels(dataset, np.zeros((4, 4), np.int16))

    write_slices(tmp_path / "sizes/a", SeriesInstanceUID="1.2.53")
    write_slices(tmp_path / "sizes/b", SeriesInstanceUID="1.2.53", change=smaller)
    assert statuses(tmp_path / "sizes") == ["ok", "ok"]


def test_rounded_positions_are_no_gaps(tmp_path):
    def rounded(dataset, k):
        dataset.ImagePositionPatient = [ORIGIN[0], ORIGIN[1], round(ORIGIN[2] + k * 2.5333, 2)]

    write_slices(tmp_path, change=rounded)
    assert statuses(tmp_path) == ["ok"]


def test_a_file_without_preamble_is_read(tmp_path):
    for path in write_slices(tmp_path):
        path.write_bytes(path.read_bytes()[132:])
    (case,) = find_series(tmp_path).cases
    assert case.status == "ok"
    assert_in_place(case.images[0].read())


def test_what_holds_dicom(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.nii.gz").write_bytes(b"\x1f\x8b" + bytes(200))
    assert not holds_dicom(tmp_path)
    write_slices(tmp_path / "b")
    assert holds_dicom(tmp_path)


def test_a_lone_slice_and_an_empty_folder(tmp_path):
    assert find_series(tmp_path).cases == ()
    dataset = base(CT, SeriesInstanceUID="1.2.60", ImagePositionPatient=[0, 0, 0], ImageOrientationPatient=list(AXIAL), PixelSpacing=[1, 1])
    put_pixels(dataset, np.zeros((4, 4), np.int16))
    save(dataset, tmp_path / "a")
    (case,) = find_series(tmp_path).cases
    assert (case.status, case.patient) == ("no_volume", "p001") and "1 slice" in case.reason


def test_one_uid_with_other_pixels_is_no_copy(tmp_path):
    from pydicom import dcmread

    paths = write_slices(tmp_path)
    dataset = dcmread(paths[2])
    dataset.PixelData = bytes(reversed(dataset.PixelData))
    save(dataset, tmp_path / "other")
    (case,) = find_series(tmp_path).cases
    assert case.status == "duplicate_slices"


def test_a_series_of_two_patients_is_refused(tmp_path):
    for number in range(2):
        write_slices(tmp_path / str(number), SeriesInstanceUID="1.2.50", PatientID=f"id-{number}", PatientName=f"Name^{number}")
    cases = find_series(tmp_path).cases
    assert [case.status for case in cases] == ["several_patients"] * 2 and "1 other patients" in cases[0].reason


def test_volumes_of_nobody_are_told(tmp_path):
    for number in range(2):
        write_slices(tmp_path / str(number), PatientID="", PatientName="", PatientBirthDate="")
    archive = find_series(tmp_path)
    assert {case.patient for case in archive.cases} == {"unknown"}
    assert "2 volumes do not say whose they are; they count as one patient, since they may be." in archive.notes


def test_the_key_tells_the_volumes_of_one_series_apart(tmp_path):
    for number, echo in enumerate((5, 80)):
        write_slices(tmp_path / str(number), sop_class=MR, SeriesInstanceUID="1.2.50", EchoTime=echo)
    first, second = (dict(zip(KEY_COLUMNS, row, strict=True))["part"] for row in find_series(tmp_path).key)
    assert "5.000" in first and "80.000" in second and "first slice at" in first
