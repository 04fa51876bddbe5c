"""One DICOM file: read with distrust, refused where it is not understood as a whole, written from the beginning."""

import io
import zlib
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from medldm.data.dicom.foreign import distrust
from medldm.data.dicom.headers import DEFLATED, STORAGE, is_dicom
from medldm.data.dicom.tags import text
from medldm.data.sources import BadCase
from medldm.privacy.deidentify import Action, Deidentifier
from medldm.privacy.faces import Finding
from medldm.privacy.identifiers import Identifiers
from medldm.privacy.pixels import blank, expected_bytes, risk
from medldm.privacy.profile import MARKS, Profile, mark
from medldm.privacy.slices import without_face
from medldm.volume import LIMIT_BYTES

PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
#: Objects without pixels that are handled: spatial registration, mapping of values, radiotherapy.
WITHOUT_PIXELS = tuple(STORAGE + kind for kind in ("66.1", "66.3", "67", "481."))
DOCUMENTS = {
    STORAGE + "88.": "is a structured report, whose content is free text",
    STORAGE + "104.": "holds a document (PDF, CDA, STL ...), which nothing here looks into",
    STORAGE + "11.": "is a presentation state, whose graphics are free text",
    STORAGE + "9.": "holds a waveform, which may be a voice",
    "1.2.840.10008.1.3.10": "is an index of files (DICOMDIR), which names patients",
}


def read(path: Path, pixels: bool) -> Any:
    """A data set with its file meta information.

    Args:
        path: the file.
        pixels: read the whole file, and hold it to what it announces.

    Raises:
        BadCase: it is no DICOM, damaged, cut short, or coded in an unknown way.
    """
    with distrust(""):
        from pydicom import dcmread
        from pydicom.charset import python_encoding
        from pydicom.uid import UID

        if not is_dicom(path):
            raise BadCase("", "unreadable", "has the name of a DICOM file and does not begin like one.")
        _refuse_bomb(path)
        dataset = dcmread(path, stop_before_pixels=not pixels, force=True)
        syntax = UID(text(dataset.file_meta, "TransferSyntaxUID"))
        if syntax and not (syntax.is_transfer_syntax and not syntax.is_private):
            raise BadCase("", "unsupported", "has an unknown transfer syntax.")
        charsets = dataset.get("SpecificCharacterSet") or []
        if any(name not in python_encoding for name in ([charsets] if isinstance(charsets, str) else charsets)):
            raise BadCase("", "unsupported", "has an unknown character set, so that its texts cannot be searched.")
        if not text(dataset, "SOPClassUID"):
            raise BadCase("", "unsupported", "does not say what kind of object it is.")
        if pixels:
            _refuse_truncated(dataset)
        return dataset


def encodings(dataset: Any) -> set[str]:
    """The encodings of a file's texts, as Python calls them."""
    from pydicom.charset import convert_encodings

    return set(convert_encodings(dataset.get("SpecificCharacterSet", "") or ""))


def refuse_kind(dataset: Any, profile: Profile) -> None:
    """Refuse what is not handled.

    Raises:
        BadCase: the object is of a kind whose content nobody can clean by rules, or its pixels may show text.
    """
    sop_class = text(dataset, "SOPClassUID")
    for prefix, reason in DOCUMENTS.items():
        if sop_class.startswith(prefix):
            raise BadCase("", "unsupported", f"{reason}.")
    if "EncapsulatedDocument" in dataset or "ContentSequence" in dataset or "WaveformSequence" in dataset:
        raise BadCase("", "unsupported", "holds a document, a report or a waveform.")
    if not any(tag in dataset for tag in PIXEL_TAGS) and not sop_class.startswith(WITHOUT_PIXELS):
        raise BadCase("", "unsupported", "holds no pixels and is of a kind that is not handled.")
    if profile.pixels == "refuse" and (reason := risk(dataset)):
        raise BadCase("", "pixels", f"{reason}; say what to do with --pixels.")


def deidentify(path: Path, deidentifier: Deidentifier, findings: Sequence[Finding] = ()) -> tuple[bytes, list[Action]]:
    """A whole file, de-identified.

    Args:
        path: the source.
        deidentifier: that of its patient.
        findings: of faces in the volumes that it is of; those that are there become air.

    Returns:
        The bytes of the new file, and what was done. Pixels keep their bytes, but for rectangles that are blanked and faces.

    Raises:
        BadCase: the file is refused; the reason names no value.
    """
    dataset = read(path, pixels=True)
    with distrust(""):
        profile = deidentifier.profile
        refuse_kind(dataset, profile)
        if profile.blanks and "PixelData" in dataset:
            blank(dataset, profile.pixels)
        faces = [finding for finding in findings if finding.face]
        for finding in faces:
            without_face(dataset, finding)
        _search_pixels(dataset, deidentifier.known)
        done = deidentifier.apply(dataset)
        mark(dataset, profile, profile.blanks and "PixelData" in dataset, bool(faces))
        _renew_meta(dataset)
        if deidentifier.known.in_bytes(_searched(dataset)):
            raise BadCase("", "identifier", "still holds a trace of the patient after all that could be removed.")
        blanked = [("PixelData", "rectangles blanked")] if profile.blanks and "PixelData" in dataset else []
        return _bytes(dataset), [*done, *blanked, *(finding.action for finding in findings), ("(file meta)", "made anew")]


def _refuse_bomb(path: Path) -> None:
    """Refuse a deflated file that inflates beyond all measure, before it does."""
    with open(path, "rb") as stream:
        head = stream.read(1024)
        at = head.find(DEFLATED.encode())
        if at < 0:
            return
        stream.seek(0)
        data = stream.read()
    begin = _end_of_meta(data)
    inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    rest = data[begin:]
    while rest and not inflater.eof:
        size += len(inflater.decompress(rest, 1 << 24))
        rest = inflater.unconsumed_tail
        if size > LIMIT_BYTES:
            raise BadCase("", "unreadable", "inflates to more than any image holds.")


def _end_of_meta(data: bytes) -> int:
    """Where the file meta information ends, by its group length."""
    if data[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        raise BadCase("", "unreadable", "is deflated and does not say where.")
    return 144 + int.from_bytes(data[140:144], "little")


def _refuse_truncated(dataset: Any) -> None:
    """Refuse a file that ends before it should, and pixels that are fewer or more than announced."""
    for raw in _raw(dataset):
        if raw.length not in (0xFFFFFFFF, len(raw.value or b"")):
            raise BadCase("", "unreadable", "is cut short.")
    data = dataset.get_item("PixelData").value if "PixelData" in dataset else None
    if data is None:
        return
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_encapsulated:
        if not data.endswith(b"\xfe\xff\xdd\xe0\0\0\0\0") and dataset["PixelData"].is_undefined_length is False:
            raise BadCase("", "unreadable", "has compressed pixels of a wrong form.")
    elif len(data) < expected_bytes(dataset):
        raise BadCase("", "unreadable", "has fewer pixels than its header announces.")


def _raw(dataset: Any) -> Iterator[Any]:
    """The elements of the top level as they were read."""
    for tag in list(dataset.keys()):
        raw = dataset.get_item(tag)
        if hasattr(raw, "length") and isinstance(raw.value, bytes | None):
            yield raw


def _search_pixels(dataset: Any, known: Identifiers) -> None:
    """Look for traces where pixels are compressed (their streams have comments), and in what follows the last pixel.

    Intensities themselves are not searched: text in them is drawn, not spelt.
    """
    if "PixelData" not in dataset:
        return
    data, syntax = dataset.PixelData, dataset.file_meta.get("TransferSyntaxUID")
    spare = data if syntax is not None and syntax.is_encapsulated else data[expected_bytes(dataset) :]
    if len(spare) > 1 and known.in_bytes(spare):
        raise BadCase("", "identifier", "holds a trace of the patient in the stream of its pixels.")


def _renew_meta(dataset: Any) -> None:
    """File meta information that says how the file is coded and nothing else; a preamble of zeros."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = dataset.original_encoding
    plain = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = dataset.file_meta.get("TransferSyntaxUID") or plain
    dataset.file_meta, dataset.preamble = meta, b"\0" * 128


def _searched(dataset: Any) -> bytes:
    """A data set as a file that is never deflated, without pixels and without what `mark` wrote, whose words may be a name by chance."""
    from pydicom.dataset import FileDataset
    from pydicom.uid import ExplicitVRLittleEndian

    whole = FileDataset("", {}, preamble=dataset.preamble, file_meta=deepcopy(dataset.file_meta))
    for tag in list(dataset.keys()):
        if int(tag) not in (*PIXEL_TAGS, *MARKS):
            whole[tag] = dataset.get_item(tag)
    implicit, little = dataset.original_encoding
    whole.set_original_encoding(implicit, little, dataset.original_character_set)
    if dataset.file_meta.TransferSyntaxUID.is_deflated or dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        whole.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return _bytes(whole)


def _bytes(dataset: Any) -> bytes:
    """A data set as a file."""
    from pydicom import dcmwrite

    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()
