"""Whole DICOM files and trees: nothing planted is left, pixels are the same bytes, references hold."""

import csv
import json
import shutil
from datetime import date
from pathlib import Path

import numpy as np
import planted as p
import pydicom
import pytest
from dicom_phantoms import CT, ENHANCED_MR, SEG, base, item, put_pixels, save, write_slices
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from medldm.commands.anonymize import anonymize
from medldm.errors import UserError
from medldm.privacy.pseudonyms import BYTES, Key, Secret
from medldm.privacy.rules import table

TAGS = [int(name, 16) for name, rule in table().items() if "x" not in name and not name.startswith(("0000", "0002", "0004"))]
TAGS = [tag for tag in TAGS if pydicom.datadict.dictionary_has_tag(tag) and tag not in (0x00420011, 0x0040A730)]
PIXELS = np.arange(48, dtype=np.int16).reshape(6, 8)


def ct(folder: Path, name: str = "a", sop_class: str = CT, **attributes):
    dataset = base(sop_class, SeriesInstanceUID="1.2.826.77.1", InstanceNumber=1, **attributes)
    put_pixels(dataset, PIXELS)
    return dataset, folder / name


def written(out: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted(out.rglob("*.dcm"))]


def audit(out: Path) -> list[dict[str, str]]:
    with open(out / "audit.csv", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def refusal(out: Path) -> str:
    return "; ".join(row["action"] for row in audit(out) if row["action"].startswith("refused"))


def test_of_200_planted_strings_none_is_left(tmp_path):
    source, out = tmp_path / "Canarowska Johanna" / "in", tmp_path / "out"
    planted: list[str] = []
    dataset, path = ct(source / "CNR-884213")
    planted += p.plant(dataset, TAGS)
    save(dataset, path)
    frames = [item(FrameContentSequence=[item(FrameAcquisitionDateTime="20200301101500")]) for _ in range(6)]
    enhanced = base(ENHANCED_MR, SeriesInstanceUID="1.2.826.77.2", PerFrameFunctionalGroupsSequence=frames)
    put_pixels(enhanced, np.stack([PIXELS] * 6))
    planted += p.plant(enhanced, [])
    save(enhanced, source / "Canarowska" / "enhanced")
    assert len(set(planted)) >= 200
    before = p.leaks(tmp_path / "Canarowska Johanna", planted)
    assert len(before) >= 200  # the search finds what is there
    anonymize(source, out)
    assert p.leaks(tmp_path / "out", planted) == {}
    one, two = sorted(written(out), key=lambda d: len(d.PixelData))
    assert one.PixelData == PIXELS.tobytes() and two.PixelData == np.stack([PIXELS] * 6).tobytes()
    assert two.PerFrameFunctionalGroupsSequence[3].FrameContentSequence[0].FrameAcquisitionDateTime[8:] == "101500"
    assert one.PatientName in ("p001", "p002") and one.PatientIdentityRemoved == "YES" and not [e for e in one.iterall() if e.tag.is_private]
    found = {row["element"]: row["action"] for row in audit(out)}
    assert found["Manufacturer"] == "identifier found: dummy" and found["(0099,1001)"] == "removed: private"
    assert found["AnatomicRegionSequence[0].CodeMeaning"] == "identifier found: dummy"


@pytest.mark.parametrize(("charset", "name", "words"), [
    ("ISO_IR 192", "Müllerová^Žofie", ["Müllerová", "Žofie"]),
    ("ISO_IR 100", "Lefèvre^Aurélien", ["Lefèvre", "Aurélien"]),
    (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", ["山田", "太郎", "やまだ", "Yamada"]),
    ("GB18030", "Wang^XiaoDong=王^小东", ["小东", "XiaoDong"]),
    (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동", ["吉洞", "길동", "Gildong"]),
    ("ISO_IR 144", "Люкceмбypг^Роза", ["Люкceмбypг", "Роза"]),
])  # fmt: skip
def test_names_in_other_scripts(tmp_path, charset, name, words):
    dataset, path = ct(tmp_path / "in", SpecificCharacterSet=charset)
    dataset.PatientName = name
    dataset.Manufacturer, dataset.SoftwareVersions = f"for {words[0]}", ["1.2", f"{words[-1]}"]
    dataset.ConvolutionKernel = "SOFT"
    block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", "1000")
    block.add_new(0x27, "OB", words[0].encode("utf-16-le") * 2 + b"\0" * 2)
    save(dataset, path)
    anonymize(tmp_path / "in", tmp_path / "out", private=["standard"])
    (after,) = written(tmp_path / "out")
    assert p.leaks(tmp_path / "out", words) == {}
    assert (after.Manufacturer, after.ConvolutionKernel) == ("ANONYMIZED", "SOFT")
    assert after[0x0019, 0x100C].value == 1000 and (0x0019, 0x1027) not in after


def test_private_attributes_are_kept_by_creator_and_not_by_place(tmp_path):
    dataset, path = ct(tmp_path / "in")
    for name, value in (("SIEMENS MR HEADER", 1000), ("SIEMENS MR HEADERS", 2000), ("ACME", 3000)):
        dataset.private_block(0x0019, name, create=True).add_new(0x0C, "IS", str(value))
    dataset.private_block(0x0019, "SIEMENS MR HEADER").add_new(0x0D, "LO", "private")
    dataset.RequestedProcedureCodeSequence = [item(CodeValue="1")]
    dataset.RequestedProcedureCodeSequence[0].private_block(0x0019, "OTHER", create=True).add_new(0x0C, "IS", "4000")
    save(dataset, path)
    anonymize(tmp_path / "in", tmp_path / "out", private=["SIEMENS MR HEADER,0019,0C", "SIEMENS MR HEADER,0019,0D"])
    (after,) = written(tmp_path / "out")
    kept = {int(e.tag): str(e.value) for e in after.iterall() if e.tag.is_private}
    assert kept == {0x00190010: "SIEMENS MR HEADER", 0x0019100C: "1000"}  # texts are not kept, whoever asks
    assert "113111" in [code.CodeValue for code in after.DeidentificationMethodCodeSequence]


def test_references_of_a_study_hold_and_its_intervals(tmp_path):
    frames = item(ReferencedSeriesSequence=[item(SeriesInstanceUID="1.2.826.77.9", ReferencedInstanceSequence=[])])
    slices = write_slices(tmp_path / "in" / "ct", SeriesInstanceUID="1.2.826.77.9", StudyInstanceUID="1.2.826.77")
    frames.ReferencedSeriesSequence[0].ReferencedInstanceSequence = [
        item(ReferencedSOPClassUID=CT, ReferencedSOPInstanceUID=pydicom.dcmread(path).SOPInstanceUID) for path in slices
    ]
    seg = base(SEG, SeriesInstanceUID="1.2.826.77.10", StudyInstanceUID="1.2.826.77", StudyDate="20200310", ContentDate="20201231")
    seg.ReferencedSeriesSequence = frames.ReferencedSeriesSequence
    seg.SegmentSequence = [item(SegmentNumber=1, SegmentLabel="Liver")]
    put_pixels(seg, np.ones((2, 4, 4), np.uint8))
    save(seg, tmp_path / "in" / "seg")
    other, path = ct(tmp_path / "in", "other", PatientID="somebody else", StudyDate="20200310")
    save(other, path)
    Key(Secret(bytes(BYTES))).write(tmp_path / "key.json")  # a random one moves both patients alike once in some thousand times
    anonymize(tmp_path / "in", tmp_path / "out", tmp_path / "key.json")
    after = written(tmp_path / "out")
    (mask,) = (d for d in after if d.SOPClassUID == SEG)
    images = [d for d in after if d.SOPClassUID == CT and d.PatientID == mask.PatientID]
    series = mask.ReferencedSeriesSequence[0]
    assert {r.ReferencedSOPInstanceUID for r in series.ReferencedInstanceSequence} == {d.SOPInstanceUID for d in images} and len(images) == 5
    assert {series.SeriesInstanceUID} == {d.SeriesInstanceUID for d in images} and mask.SegmentSequence[0].SegmentLabel == "Liver"
    assert {d.StudyInstanceUID for d in images} == {mask.StudyInstanceUID} and {d.FrameOfReferenceUID for d in images} == {mask.FrameOfReferenceUID}
    assert all(d.file_meta.MediaStorageSOPInstanceUID == d.SOPInstanceUID and d.SOPInstanceUID.startswith("2.25.") for d in after)

    def day(text):
        return date(int(text[:4]), int(text[4:6]), int(text[6:]))

    assert (day(mask.StudyDate) - day(images[0].StudyDate)).days == 10 and (day(mask.ContentDate) - day(mask.StudyDate)).days == 296
    (stranger,) = (d for d in after if d.PatientID != mask.PatientID)
    assert stranger.StudyDate != mask.StudyDate and {d.PatientID for d in after} == {"p001", "p002"}
    assert all(d.StudyTime == "101500" and d["PatientBirthDate"].is_empty for d in after)
    assert mask.LongitudinalTemporalInformationModified == "MODIFIED"


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_transfer_syntaxes_stay_and_so_do_the_bytes_of_pixels(tmp_path, syntax):
    dataset, path = ct(tmp_path / "in", Manufacturer="CANARY")
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.SourceApplicationEntityTitle = "CANARY"
    dataset.PixelData = PIXELS.astype(">i2" if syntax == ExplicitVRBigEndian else "<i2").tobytes()
    path.parent.mkdir()
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    before = pydicom.dcmread(path)
    anonymize(tmp_path / "in", tmp_path / "out")
    (after,) = written(tmp_path / "out")
    assert (
        after.file_meta.TransferSyntaxUID == syntax and after.PixelData == before.PixelData and "SourceApplicationEntityTitle" not in after.file_meta
    )
    assert "CANARY" not in str(after).upper() and "CANARY" not in str(after.file_meta)
    for name in ("ImagePositionPatient", "PixelSpacing", "RescaleSlope", "Rows", "BitsAllocated"):
        assert after.get(name) == before.get(name)


def test_what_is_kept_of_a_patient(tmp_path):
    dataset, path = ct(tmp_path / "in", PatientAge="093Y", PatientWeight="70.5", BurnedInAnnotation="NO", EthnicGroup="CANARY")
    dataset.add_new(0x00101020, "LO", "CANARY")
    dataset.DeidentificationMethodCodeSequence = [item(CodeValue="113102", CodingSchemeDesignator="DCM", CodeMeaning="CANARY")]
    save(dataset, path)
    anonymize(tmp_path / "in", tmp_path / "out")
    (after,) = written(tmp_path / "out")
    assert (after.PatientAge, after.PatientSex, after.PatientWeight) == ("090Y", "M", 70.5) and "PatientSize" not in after
    assert [code.CodeValue for code in after.DeidentificationMethodCodeSequence] == ["113100", "113102", "113107", "113108"]
    assert after.BurnedInAnnotation == "NO" and "EthnicGroup" not in after and "CANARY" not in str(after)
    anonymize(tmp_path / "in", tmp_path / "less", characteristics=False, dates="remove")
    (after,) = written(tmp_path / "less")
    assert "PatientAge" not in after and "PatientWeight" not in after and after["PatientSex"].is_empty and after["StudyDate"].is_empty
    assert [code.CodeValue for code in after.DeidentificationMethodCodeSequence] == ["113100", "113102"]
    assert after.LongitudinalTemporalInformationModified == "REMOVED"


US, SC, PDF, SR = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.5.1.4.1.1.88.11"


def damaged(folder: Path, kind: str) -> None:
    """One bad file."""
    dataset, path = ct(folder, f"{kind}.dcm")
    if kind in ("us", "sc", "pdf", "sr"):
        dataset.SOPClassUID = {"us": US, "sc": SC, "pdf": PDF, "sr": SR}[kind]
    if kind == "pdf":
        del dataset.PixelData
        dataset.EncapsulatedDocument = b"%PDF CANARY "
    if kind == "report in an image":
        dataset.ContentSequence = [item(TextValue="CANARY")]
    if kind == "burned in":
        dataset.BurnedInAnnotation = "YES"
    if kind == "overlay":
        dataset.add_new(0x60000010, "US", 6)
        dataset.add_new(0x60001500, "LO", "CANARY")
        dataset.add_new(0x60003000, "OW", b"\0" * 6)
    if kind == "syntax":
        dataset.file_meta.TransferSyntaxUID = "1.2.3.4.5"
        path.parent.mkdir(parents=True)
        return pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=True, enforce_file_format=False)
    if kind == "charset":
        dataset.SpecificCharacterSet = "CANARY"
    if kind == "no pixels":
        del dataset.PixelData
    if kind == "fewer pixels":
        dataset.Rows = 60
    if kind == "needed":
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "CANARY"]
    if kind == "after the pixels":
        dataset.PixelData += b"CANARY^JOHN "
    save(dataset, path)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    if kind == "no dicom":
        path.write_bytes(b"CANARY" * 100)


@pytest.mark.parametrize(("kind", "said"), [
    ("us", "ultrasound"), ("sc", "secondary capture"), ("pdf", "document"), ("sr", "report"), ("report in an image", "report"),
    ("burned in", "burned"),
    ("overlay", "overlays"), ("syntax", "transfer syntax"), ("charset", "character set"), ("no pixels", "no pixels"),
    ("fewer pixels", "fewer pixels"),
    ("cut", "cut short"), ("no dicom", "does not begin"), ("needed", "ImageType"), ("after the pixels", "stream of its pixels"),
])  # fmt: skip
def test_what_is_refused_and_that_nothing_of_it_is_written(tmp_path, kind, said):
    damaged(tmp_path / "in" / "bad", kind)
    dataset, path = ct(tmp_path / "in", "good")
    save(dataset, path)
    with pytest.raises(UserError, match="1 refused") as error:
        anonymize(tmp_path / "in", tmp_path / "out")
    assert said in refusal(tmp_path / "out") and len(written(tmp_path / "out")) == 1
    assert p.leaks(tmp_path / "out", ["CANARY"]) == {} and "CANARY" not in str(error.value)


def test_overlays_and_curves_go_where_pixels_are_accepted(tmp_path):
    damaged(tmp_path / "in", "overlay")
    anonymize(tmp_path / "in", tmp_path / "out", pixels="accept")
    (after,) = written(tmp_path / "out")
    assert not [tag for tag in list(after.keys()) if tag.group & 0xFF00 in (0x5000, 0x6000)] and after.PixelData == PIXELS.tobytes()
    assert "BurnedInAnnotation" not in after


def test_rectangles_are_blanked_and_nothing_else(tmp_path):
    damaged(tmp_path / "in", "burned in")
    anonymize(tmp_path / "in", tmp_path / "out", pixels=[(1, 2, 2, 3), (5, 7, 9, 9)])
    (after,) = written(tmp_path / "out")
    expected = PIXELS.copy()
    expected[1:3, 2:5] = expected[5:, 7:] = 0
    np.testing.assert_array_equal(after.pixel_array, expected)
    assert after.BurnedInAnnotation == "NO" and "113101" in [code.CodeValue for code in after.DeidentificationMethodCodeSequence]


def test_a_short_id_is_found_where_it_is_all_and_a_word_of_anatomy_is_none(tmp_path):
    dataset, path = ct(tmp_path / "in", PatientID="7", PatientName="Head^Li", Manufacturer="7", ConvolutionKernel="B 7 7")
    dataset.BodyPartExamined, dataset.SoftwareVersions, dataset.FilterType = "HEAD", "for Li", "head filter"
    dataset.RescaleType, dataset.KVP = "HU", "7"
    save(dataset, path)
    anonymize(tmp_path / "in", tmp_path / "out")
    (after,) = written(tmp_path / "out")
    assert (after.Manufacturer, after.SoftwareVersions) == ("ANONYMIZED", "ANONYMIZED")
    assert (after.BodyPartExamined, after.ConvolutionKernel, after.FilterType, after.RescaleType, after.KVP) == (
        "HEAD",
        "B 7 7",
        "ANONYMIZED",
        "HU",
        7,
    )


@pytest.mark.parametrize("name", ["Müller^Jürgen", "Mueller^Juergen", "Muller^Jurgen"])
def test_a_name_is_found_in_every_spelling(tmp_path, name):
    kernels = ["B30 Mueller", "B30 Müller", "B30 MULLER", "Juergen B30", "Jürgen-net", "B30 blue value"]
    dataset, path = ct(tmp_path / "in", PatientName=name, SpecificCharacterSet="ISO_IR 192", ConvolutionKernel=kernels)
    dataset.add_new(0x00189999, "OB", b"von MUELLER gemacht ")
    save(dataset, path)
    anonymize(tmp_path / "in", tmp_path / "out")
    (after,) = written(tmp_path / "out")
    assert not p.leaks(tmp_path / "out", ["Mueller", "Müller", "Muller", "Juergen", "Jürgen"])
    assert after.Modality == "CT"


def test_ordinary_numbers_and_names_cost_no_file_and_a_creator_takes_its_elements_along(tmp_path):
    dataset, path = ct(tmp_path / "in", PatientID="100", PatientName="Hu^Max", SpecificCharacterSet="ISO_IR 100", RescaleType="HU")
    dataset.ImageType = ["DERIVED", "SECONDARY", "MAX"]
    block = dataset.private_block(0x2001, "Philips Imaging DD 001", create=True)
    block.add_new(0x03, "FL", 1000.0)
    save(dataset, path)
    anonymize(tmp_path / "in", tmp_path / "out", private=["standard"])
    (after,) = written(tmp_path / "out")
    assert (after.SpecificCharacterSet, after.RescaleType, list(after.ImageType)) == ("ISO_IR 100", "HU", ["DERIVED", "SECONDARY", "MAX"])
    assert after[0x2001, 0x1003].value == 1000.0
    dataset.PatientName, dataset.Manufacturer, dataset.ImageType = "Prima^Philip", "Philips Medical Systems", ["ORIGINAL", "PRIMARY"]
    save(dataset, path)
    anonymize(tmp_path / "in", tmp_path / "again", private=["standard"])
    (after,) = written(tmp_path / "again")
    assert (after.Manufacturer, list(after.ImageType)) == ("Philips Medical Systems", ["ORIGINAL", "PRIMARY"])
    block.add_new(0x04, "CS", "PHILIP")
    dataset.PatientName, dataset[0x2001, 0x0010].value = "Quill^Ann", "Quill 001"
    save(dataset, path)
    anonymize(tmp_path / "in", tmp_path / "third", private=["Quill 001,2001,03"])
    (after,) = written(tmp_path / "third")
    assert (0x2001, 0x0010) not in after and (0x2001, 0x1003) not in after


@pytest.mark.parametrize("name", ["REMOVED", "Basic^Profile"])
def test_words_that_the_marks_use_may_be_a_name(tmp_path, name):
    dataset, path = ct(tmp_path / "in", PatientName=name, Manufacturer=f"works of {name}")
    save(dataset, path)
    anonymize(tmp_path / "in", tmp_path / "out", dates="remove")
    (after,) = written(tmp_path / "out")
    assert after.Manufacturer == "ANONYMIZED" and after.LongitudinalTemporalInformationModified == "REMOVED"


def test_a_pseudonym_is_nobodys_id(tmp_path):
    dataset, path = ct(tmp_path / "in", PatientID="P001")
    save(dataset, path)
    anonymize(tmp_path / "in", tmp_path / "out")
    assert written(tmp_path / "out")[0].PatientID == "p002"


@pytest.fixture(scope="module")
def real(shared_data):
    return shared_data / "dicom"


def test_every_real_file_with_planted_strings(real, tmp_path):
    """Those that pydicom can write with the strings; the others as they are."""
    source, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(real, source)
    planted = set()
    for path in sorted(q for q in source.rglob("*") if q.is_file()):
        try:
            dataset = pydicom.dcmread(path, force=True)
            planted |= set(p.plant(dataset, TAGS[::7]))
            dataset.save_as(path, enforce_file_format=True)
        except Exception:  # the malformed ones
            shutil.copy(real / path.relative_to(source), path)
    anonymize(source, out, tmp_path / "key.json", pixels="accept", faces="accept", skip_bad=True)
    assert p.leaks(out, planted) == {}
    after = written(out)
    refused = json.loads((tmp_path / "key.json").read_text())["refused"]
    assert len(after) >= 90 and len(after) + len(refused) == len(list(real.rglob("*"))) - len([d for d in real.rglob("*") if d.is_dir()]) - 1
    pixels = sorted(d.PixelData for d in after if "PixelData" in d)
    before = {f.read_bytes() for f in source.rglob("*") if f.is_file()}
    assert all(any(data[:100] in file for file in before) for data in pixels[:: len(pixels) // 5])


def test_real_files_keep_pixels_and_geometry(real, tmp_path):
    anonymize(real, tmp_path / "out", tmp_path / "key.json", pixels="accept", faces="accept", skip_bad=True, uids=True)
    after = {d.SOPInstanceUID: d for d in written(tmp_path / "out")}
    compared = 0
    for path in sorted(q for q in real.rglob("*") if q.is_file()):
        try:
            before = pydicom.dcmread(path, force=True)
        except Exception:  # not DICOM
            continue
        same = after.get(before.get("SOPInstanceUID"))
        if same is None or before.get("PixelData") is None or same.get("Rows") != before.Rows:
            continue
        if sum(
            other.get("SOPInstanceUID") == before.SOPInstanceUID for other in after.values()
        ) == 1 and same.file_meta.TransferSyntaxUID == before.file_meta.get("TransferSyntaxUID"):
            for name in (
                "ImagePositionPatient",
                "ImageOrientationPatient",
                "PixelSpacing",
                "RescaleSlope",
                "RescaleIntercept",
                "SliceThickness",
                "EchoTime",
                "KVP",
            ):
                assert same.get(name) == before.get(name), (path, name)
            compared += same.PixelData == before.PixelData
    assert compared >= 60
    syntaxes = {str(d.file_meta.TransferSyntaxUID) for d in written(tmp_path / "out")}
    assert syntaxes >= {f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2", ".1.99", ".4.80", ".4.90", ".5")}
    from medldm.data.dicom.pixels import read_planes

    (twin,) = read_planes(real / "pydicom_small" / "MR_small_RLE.dcm", [0], (64, 64), "x")
    ours = [path for path in (tmp_path / "out").rglob("*.dcm") if pydicom.dcmread(path).file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.5"]
    assert any((read_planes(path, [0], (64, 64), "x")[0] == twin).all() for path in ours)
