"""Strings that tell who a patient is, planted where they are found in practice, and the search for what is left of them."""

import gzip
import re
from collections.abc import Iterable
from pathlib import Path

from pydicom import Dataset, config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.sequence import Sequence
from pydicom.tag import Tag

config.settings.writing_validation_mode = config.IGNORE
NAME, PATIENT_ID, BIRTH = "Canarowska^Johanna Maria", "CNR-884213", "19510714"
WHO = {
    "PatientName": NAME, "PatientID": PATIENT_ID, "PatientBirthDate": BIRTH, "AccessionNumber": "ACC7741902",
    "OtherPatientIDs": ["HOSP-55182", "SOC-90417"],
    "PatientBirthName": "Wisselhoff^Johanna", "InstitutionName": "Krankenhaus Lindenbluete", "InstitutionAddress": "Ahornallee 77, 04177 Quittenberg",
    "PatientAddress": "Fichtenweg 12, 04179 Moosbach", "PatientTelephoneNumbers": "+49-341-5550198",
    "ReferringPhysicianName": "Habichtsberg^Ottokar^^Dr.",
    "PerformingPhysicianName": "Quandtmeyer^Sieglinde", "OperatorsName": "Tollkirsch^Bruno", "NameOfPhysiciansReadingStudy": "Erlenkoetter^Ute",
    "StationName": "XQSTATION7", "DeviceSerialNumber": "SN4471908", "StudyID": "ST90871", "AdmissionID": "ADM-30217",
    "RequestingPhysician": "Zwetschke^Alwin",
    "InstitutionalDepartmentName": "Abteilung Wollgras",
}  # fmt: skip
TEXT = {"LO": 60, "SH": 16, "ST": 200, "LT": 200, "UT": 200, "UC": 200, "PN": 60, "AE": 16}
#: Attributes that the rules keep: a string of the patient there is found by the search only.
KEPT = (
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "ConvolutionKernel",
    "SequenceName",
    "RescaleType",
    "FilterType",
    "WindowCenterWidthExplanation",
)
WORDS = ("Canarowska", "Johanna", "CNR-884213", "ACC7741902", "HOSP-55182", "Wisselhoff", "Lindenbluete", "Quittenberg", "Fichtenweg", "5550198",
         "Habichtsberg", "Ottokar", "Quandtmeyer", "Sieglinde", "Tollkirsch", "Erlenkoetter", "XQSTATION7", "SN4471908", "ST90871", "ADM-30217",
         "Zwetschke", "19510714", "14.07.1951", "1951-07-14", "Wollgras")  # fmt: skip


def item(**attributes) -> Dataset:
    """An item of a sequence."""
    found = Dataset()
    for name, value in attributes.items():
        setattr(found, name, value)
    return found


def plant(dataset: Dataset, tags: Iterable[int], mark: str = "") -> list[str]:
    """Fill a data set with strings.

    Args:
        dataset: a file, changed in place; pixels, geometry and kind of object stay.
        tags: attributes of text that get a string of their own, such as those of the standard's table.
        mark: ends these strings, so that those of several files differ.

    Returns:
        The strings.
    """
    planted = list(WORDS)
    for name, value in WHO.items():
        setattr(dataset, name, value)
    for number, tag in enumerate(tags):
        vr = dictionary_VR(tag)
        if vr in TEXT and tag not in dataset:
            planted.append(f"Plant{number:03d}Zq{mark}")
            dataset.add_new(tag, vr, f"{planted[-1]} wrote"[: TEXT[vr]])
    for number, name in enumerate(KEPT):
        if name not in dataset:
            setattr(dataset, name, f"by {WORDS[number]}"[:16])
    for name in ("ImageComments", "PatientComments", "StudyComments", "AdditionalPatientHistory"):
        setattr(dataset, name, f"Seen by Dr. Habichtsberg, tel. 5550198, {name}Zq")
        planted.append(f"{name}Zq")
    _nest(dataset, planted)
    _private(dataset, planted)
    dataset.DataSetTrailingPadding = b"TrailZq7 Canarowska "
    planted.append("TrailZq7")
    dataset.preamble = b"PreambleZq Canarowska".ljust(128, b"\0")
    planted.append("PreambleZq")
    return planted


def _nest(dataset: Dataset, planted: list[str]) -> None:
    """Sequences in sequences: codes, requests, frames, original attributes."""
    deep = item(CodeValue="T-1", CodingSchemeDesignator="99LOC", CodeMeaning="Head of Canarowska")
    deep.PersonIdentificationCodeSequence = Sequence([item(CodeValue="NestZq1", CodingSchemeDesignator="99", CodeMeaning="NestZq2")])
    dataset.AnatomicRegionSequence = Sequence([deep])
    dataset.RequestAttributesSequence = Sequence([item(RequestedProcedureID="NestZq3", ScheduledProcedureStepDescription="NestZq4 Johanna")])
    dataset.OriginalAttributesSequence = Sequence(
        [item(ModifyingSystem="NestZq5", ModifiedAttributesSequence=Sequence([item(PatientName="NestZq6")]))]
    )
    dataset.ProcedureCodeSequence = Sequence([item(CodeValue="P1", CodingSchemeDesignator="L", CodeMeaning="for ACC7741902")])
    dataset.OperatorIdentificationSequence = Sequence(
        [item(InstitutionName="NestZq7", PersonIdentificationCodeSequence=Sequence([item(CodeMeaning="NestZq8")]))]
    )
    planted += [f"NestZq{n}" for n in range(1, 9)]
    for number, frame in enumerate(dataset.get("PerFrameFunctionalGroupsSequence") or []):
        for content in frame.get("FrameContentSequence") or []:
            content.FrameComments, content.FrameLabel = f"FrameZq{number}", "Canarowska"
            planted.append(f"FrameZq{number}")


def _private(dataset: Dataset, planted: list[str]) -> None:
    """Private attributes: text, bytes of unknown representation, a sequence, an attribute without creator, a creator that is a name."""
    block = dataset.private_block(0x0099, "CANAROWSKA LAB", create=True)
    block.add_new(0x01, "LO", "PrivZq1 Johanna")
    block.add_new(0x02, "UN", "PrivZq2 Jürgen".encode("utf-16-le"))
    block.add_new(0x03, "SQ", Sequence([item(PatientName="PrivZq3", PatientComments="PrivZq4")]))
    block.add_new(0x04, "OB", b"PrivZq5\0")
    dataset.add(DataElement(Tag(0x0099, 0x5501), "LO", "PrivZq6"))
    planted += [f"PrivZq{n}" for n in range(1, 7)]


def forms(text: str) -> set[bytes]:
    """A string as bytes in the encodings of files, in small letters where they are ASCII."""
    codes = ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "shift_jis", "iso2022_jp", "gb18030", "euc_kr", "iso8859_5")
    return {form.encode(code, "ignore").lower() for form in (text, text.lower(), text.upper()) for code in codes} - {b""}


def printable(data: bytes) -> bytes:
    """All that a file holds in ASCII, or in UTF-16 but for the zeros: what a string of ASCII can be found in, without most of the pixels."""
    return b"\n".join(run for view in (data, data.replace(b"\0", b"")) for run in re.findall(rb"[ -~]{3,}", view))


def leaks(root: Path, planted: Iterable[str]) -> dict[str, list[str]]:
    """String -> files of a folder that hold it, in their bytes (inflated where they are .gz) or their names."""
    found: dict[str, list[str]] = {}
    plain = {text: text.lower().encode() for text in set(planted) if text.isascii()}
    others = {text: [form for form in forms(text) if len(form) >= 3] for text in set(planted) if not text.isascii()}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        data = data.lower() + b"\n" + path.relative_to(root).as_posix().lower().encode()
        small = printable(data)
        held = [text for text, code in plain.items() if code in small]
        for text in [*held, *(text for text, codes in others.items() if any(code in data for code in codes))]:
            found.setdefault(text, []).append(path.relative_to(root).as_posix())
    return found
