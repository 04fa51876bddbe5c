"""One DICOM file, without its pixels: whose it is, what it is, and which planes it holds."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from sys import intern
from typing import Any, BinaryIO

from medldm.cohort import Covariate
from medldm.data.dicom.foreign import distrust
from medldm.data.dicom.pixels import decoder_missing
from medldm.data.dicom.tags import PERSONS, items, number, text, who, whole, words
from medldm.data.sources import BadCase
from medldm.volume import LIMIT_BYTES, LIMIT_RATIO

DEFLATED = "1.2.840.10008.1.2.1.99"
STORAGE = "1.2.840.10008.5.1.4.1.1."
IMAGES = {STORAGE + kind for kind in ("2", "2.1", "2.2", "4", "4.1", "4.4")}  # CT and MR: classic, enhanced, legacy converted
CAPTURES = STORAGE + "7"
PLACED_CAPTURE = STORAGE + "7.3"  # multi-frame grayscale word; with a place for each frame it is a volume, such as `synthetic.py` writes
SEGMENTATION, STRUCTURES = STORAGE + "66.4", STORAGE + "481.3"

TAGS: list[Any] = [
    *PERSONS,
    "SOPClassUID", "SOPInstanceUID", "SyntheticData", "Modality", "ImageType", "StudyDate", "StudyTime", "SeriesDescription",
    "ProtocolName", "SequenceName", "PulseSequenceName",
    "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "PatientAge",
    "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "InstanceNumber", "FrameOfReferenceUID",
    "AcquisitionNumber", "TemporalPositionIdentifier", "TriggerTime", "EchoTime", "EchoNumbers", "InversionTime", "FlipAngle",
    "ContrastBolusAgent", "ConvolutionKernel", "DiffusionBValue", "DiffusionGradientOrientation", "ComplexImageComponent",
    "SliceThickness", "SpacingBetweenSlices", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PixelPresentation",
    "BitsAllocated", "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence",
    "PixelRepresentation", "PixelPaddingValue",
    "DimensionIndexSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "ReferencedSeriesSequence", "SegmentationType", "SegmentSequence", "MaximumFractionalValue",
    "ReferencedFrameOfReferenceSequence", "StructureSetROISequence", "ROIContourSequence",
    0x0019100A, 0x00291010, 0x00291110, 0x00291210,  # Siemens: images in a mosaic; CSA header in any of its private blocks
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Header:
    """A file.

    Args:
        path: where it lies.
        identity: PatientID and its issuer; else name and date of birth; all "" where there is none.
        study_uid: the study.
        study_when: its date and time, for the order of cases only.
        series_uid: the series.
        series_number: its number.
        texts: description of the series, names of protocol and of sequence; "" where absent.
        sop_class: what kind of object it is.
        sop_uid: the object.
        frame_of_reference: objects with the same one share coordinates.
        modality: "CT", "MR" or "".
        covariates: age in years and sex.
        synthetic: True where it says that no patient was imaged.
        status: "" where its pixels may form a volume; else one word, see `series.py`.
        reason: why not.
        data: the header itself, dropped when planes or structures are taken from it.
    """

    path: Path
    identity: tuple[str, ...] = ("", "", "", "")
    study_uid: str = ""
    study_when: str = ""
    series_uid: str = ""
    series_number: int = 0
    texts: tuple[str, ...] = field(default=("", "", ""), repr=False)
    sop_class: str = ""
    sop_uid: str = ""
    frame_of_reference: str = ""
    modality: str = ""
    covariates: dict[str, Covariate] = field(default_factory=dict)
    synthetic: bool = False
    status: str = ""
    reason: str = ""
    data: Any = None

    def without_data(self) -> "Header":
        """The same without the header's data, which is large."""
        return replace(self, data=None)

    def refused(self, status: str, reason: str) -> "Header":
        """The same with a status and a reason."""
        return replace(self, status=status, reason=reason)


def is_dicom(path: Path) -> bool:
    """True for a file with "DICM" at byte 128, or that begins like a header without that preamble."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(132)
    except OSError:
        return False
    return head[128:] == b"DICM" or _begins_with_a_tag(head)


def _begins_with_a_tag(head: bytes) -> bool:
    """True when the first 8 bytes are a tag of group 2 or 8 and a value representation or a short length, little endian."""
    if len(head) < 132 or head[:2] not in (b"\x02\x00", b"\x08\x00") or head[3] > 1:
        return False
    return (head[4:6].isalpha() and head[4:6].isupper()) or (head[6:8] == b"\0\0" and head[5] < 4)


def read_header(path: Path) -> Header:
    """Read what comes before the pixels; a file that cannot be read is a header with the status "unreadable"."""
    try:
        with distrust(""):
            from pydicom import dcmread

            with open(path, "rb") as stream:
                if DEFLATED.encode() in stream.read(1024):
                    return Header(path, status="unsupported", reason="is deflated as a whole; inflate it first, for example with dcmconv.")
                stream.seek(0)
                dataset = dcmread(stream, stop_before_pixels=True, force=True, specific_tags=TAGS)
                header = _header(path, dataset)
                problem = _problem(header, dataset, stream)
                return header.refused(*problem) if problem else header
    except BadCase as bad:
        return Header(path, status=bad.status, reason=bad.reason)


def _header(path: Path, dataset: Any) -> Header:
    identity = tuple(text(dataset, name) for name in ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate"))
    modality = text(dataset, "Modality").upper()
    sequence = text(dataset, "SequenceName") or text(dataset, "PulseSequenceName")
    return Header(
        path=path,
        identity=(identity[0], identity[1], "", "") if identity[0] else ("", "", identity[2], identity[3]) if identity[2] else ("",) * 4,
        study_uid=text(dataset, "StudyInstanceUID"),
        study_when=text(dataset, "StudyDate") + text(dataset, "StudyTime"),
        series_uid=text(dataset, "SeriesInstanceUID"),
        series_number=whole(dataset, "SeriesNumber"),
        texts=tuple(intern(found) for found in (text(dataset, "SeriesDescription"), text(dataset, "ProtocolName"), sequence)),
        sop_class=text(dataset, "SOPClassUID") or text(getattr(dataset, "file_meta", None), "MediaStorageSOPClassUID"),
        sop_uid=text(dataset, "SOPInstanceUID"),
        frame_of_reference=text(dataset, "FrameOfReferenceUID"),
        modality=modality if modality in ("CT", "MR") else "",
        covariates=who(dataset),
        synthetic=text(dataset, "SyntheticData").upper() == "YES",
        data=dataset,
    )


def _problem(header: Header, dataset: Any, stream: BinaryIO) -> tuple[str, str] | None:
    """Why a file is no part of a volume, as status and reason; None where it may be one, or holds structures."""
    if header.sop_class in (SEGMENTATION, STRUCTURES):
        return None
    kind = words(dataset, "ImageType")
    placed = header.sop_class == PLACED_CAPTURE and bool(items(dataset, "PerFrameFunctionalGroupsSequence"))
    if (header.sop_class.startswith(CAPTURES) and not placed) or {"SECONDARY CAPTURE", "SCREEN SAVE"} & set(kind):
        return "secondary_capture", "is a secondary capture, a picture of a screen."
    if header.sop_class and header.sop_class not in IMAGES and not placed:
        return "no_volume", "is a DICOM object of another kind than CT and MR images."
    if not header.sop_class and not header.modality:
        return "no_volume", "does not say what kind of DICOM object it is."
    element = stream.read(4)
    if element not in (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10"):
        return ("unsupported", "holds pixels as floating point numbers.") if element[:2] == b"\xe0\x7f" else ("no_volume", "holds no pixels.")
    for refuse in (_pixel_problem, _size_problem):
        if problem := refuse(dataset, stream):
            return problem
    return None


def _pixel_problem(dataset: Any, stream: BinaryIO) -> tuple[str, str] | None:
    """Pixels that are no plain intensities, or that nothing here decodes."""
    photometric, samples = text(dataset, "PhotometricInterpretation"), whole(dataset, "SamplesPerPixel", 1)
    if samples != 1 or photometric.startswith(("RGB", "YBR", "PALETTE")):
        return "no_volume", "is a colour image."
    if "COLOR" in {_presentation(group) for group in (dataset, *items(dataset, "SharedFunctionalGroupsSequence"))}:
        return "no_volume", "shows some of its values as colours, which are no intensities."
    if photometric != "MONOCHROME2":
        return "unsupported", "has a photometric interpretation other than MONOCHROME2 (inverted, or not stated)."
    if whole(dataset, "BitsAllocated") not in (8, 16, 32):
        return "unsupported", f"has {whole(dataset, 'BitsAllocated')} bits a pixel; 8, 16 and 32 are read."
    if dataset.get("ModalityLUTSequence"):
        return "unsupported", "gives its intensities by a lookup table."
    return decoder_missing(_syntax(dataset))


def _presentation(group: Any) -> str:
    types = [*items(group, "MRImageFrameTypeSequence"), *items(group, "CTImageFrameTypeSequence"), group]
    return next((found for item in types if (found := text(item, "PixelPresentation").upper())), "")


def _syntax(dataset: Any) -> str:
    """The transfer syntax; a file without meta information is taken as it was read, uncompressed."""
    return text(getattr(dataset, "file_meta", None), "TransferSyntaxUID")


def _size_problem(dataset: Any, stream: BinaryIO) -> tuple[str, str] | None:
    """A header that asks for more pixels than the file can hold; checked before any memory is taken."""
    from pydicom.uid import UID

    frames = number(dataset, "NumberOfFrames")
    if dataset.get("NumberOfFrames") not in (None, "") and (frames is None or frames < 1):
        return "unreadable", "has a malformed number of frames."
    shape = (whole(dataset, "Rows"), whole(dataset, "Columns"), int(frames or 1))
    claimed = shape[0] * shape[1] * shape[2] * whole(dataset, "BitsAllocated") // 8
    left = os.fstat(stream.fileno()).st_size - stream.tell()
    if min(shape) < 1:
        return "unreadable", "has a malformed size."
    syntax = _syntax(dataset)
    compressed = bool(syntax) and UID(syntax).is_compressed
    if claimed > LIMIT_BYTES or (compressed and claimed > left * LIMIT_RATIO):
        return "unreadable", f"claims {claimed / 2**20:.0f} MiB of pixels in {left / 2**20:.2f} MiB."
    if not compressed and claimed > left:
        return "unreadable", f"is truncated: {left} of {claimed} bytes of pixels."
    return None
