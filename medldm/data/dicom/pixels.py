"""Pixels of DICOM files, decoded distrustfully: what a file really holds must be what its header said."""

import hashlib
import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from medldm.data.dicom.foreign import distrust, quiet
from medldm.data.sources import BadCase

FIX = "pip install 'medldm[dicom]'"
FRAME_MARKERS = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7}  # start of frame, JPEG and JPEG-LS
RLE = "1.2.840.10008.1.2.5"


def decoder_missing(syntax: str) -> tuple[str, str] | None:
    """Status and reason where pixels of this transfer syntax cannot be decoded; None where they can.

    Args:
        syntax: UID of the transfer syntax; "" for a file that names none.
    """
    from pydicom.pixels import get_decoder

    if not syntax:
        return None
    with quiet():
        try:
            decoder = get_decoder(syntax)
        except (NotImplementedError, ValueError):
            return "unsupported", "has a transfer syntax that is no image compression known here."
        if decoder.is_encapsulated and not decoder.is_available:
            return "no_decoder", f"is compressed in a way for which no decoder is installed; get one with: {FIX}"
    return None


def read_planes(path: Path, frames: Sequence[int], size: tuple[int, int], name: str) -> list[np.ndarray]:
    """Decode planes of a file.

    Args:
        path: the file.
        frames: which, counted from 0.
        size: rows and columns that its header stated when the series was found.
        name: what messages call the file.

    Returns:
        Stored values [rows columns] of each, integers.

    Raises:
        BadCase: the file is damaged, cannot be decoded, or holds something else than its header said.
    """
    with distrust(name):
        from pydicom.pixels import iter_pixels

        dataset = read_dataset(path)
        if dataset.file_meta.TransferSyntaxUID.is_compressed:
            _refuse_other_codestreams(dataset, frames, size, name)
        planes = list(iter_pixels(dataset, indices=list(frames)))
        wrong = next((plane for plane in planes if plane.shape != size or plane.dtype.kind not in "iu"), None)
        if wrong is not None or len(planes) != len(frames):
            raise BadCase(name, "unreadable", f"does not hold the {len(frames)} planes of {size[0]}x{size[1]} pixels that its header announced.")
        return planes


def read_dataset(path: Path) -> Any:
    """A file as pydicom's data set, with a transfer syntax also where the file names none."""
    from pydicom import dcmread
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    dataset = dcmread(path, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def iterate_frames(dataset: Any, order: Sequence[int], size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Stored values [rows columns] of frames of a data set, one by one.

    Frames of one bit a pixel follow each other without filling, so that one may begin within a byte; these are unpacked here
    because pydicom (3.0) reads such frames only where they begin with a byte.

    Args:
        dataset: with its pixels.
        order: which frames, counted from 0.
        size: their rows and columns.
    """
    from pydicom.pixels import iter_pixels

    if dataset.BitsAllocated != 1 or dataset.file_meta.TransferSyntaxUID.is_compressed:
        yield from iter_pixels(dataset, indices=list(order))
        return
    length, packed = size[0] * size[1], np.frombuffer(dataset.PixelData, np.uint8)
    for frame in order:
        begin, end = frame * length, (frame + 1) * length
        bits = np.unpackbits(packed[begin // 8 : -(-end // 8)], bitorder="little")
        yield bits[begin % 8 :][:length].reshape(size)


def pixel_digest(path: Path, frame: int, size: tuple[int, int]) -> str:
    """SHA-256 of the stored values of one plane; of the path where it cannot be read, so that it equals no other.

    Args:
        path: the file.
        frame: which plane, counted from 0.
        size: its rows and columns.
    """
    try:
        plane = read_planes(path, [frame], size, "")[0]
    except BadCase:
        return hashlib.sha256(str(path).encode()).hexdigest()
    return hashlib.sha256(plane.astype(np.int64).tobytes()).hexdigest()


def _refuse_other_codestreams(dataset: Any, frames: Sequence[int], size: tuple[int, int], name: str) -> None:
    """Refuse a compressed plane that says of itself that it is larger than the header says: decoders believe the plane."""
    from pydicom.encaps import generate_frames

    if dataset.file_meta.TransferSyntaxUID == RLE:
        return  # has no size of its own, and unpacks to at most 64 times its length
    count, wanted = int(dataset.get("NumberOfFrames") or 1), set(frames)
    for number, stream in enumerate(islice(generate_frames(dataset.PixelData, number_of_frames=count), max(wanted) + 1)):
        if number in wanted and (found := codestream_size(stream)) != (*size, 1):
            what = "is no JPEG" if found is None else f"has {found[0]}x{found[1]} pixels of {found[2]} components"
            raise BadCase(name, "unreadable", f"holds a compressed plane that {what} where {size[0]}x{size[1]} were announced.")


def codestream_size(stream: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and components that a JPEG, JPEG-LS or JPEG 2000 codestream announces, or None.

    ISO/IEC 10918-1 B.2.2 and 14495-1 C.2.2 (start of frame), ISO/IEC 15444-1 A.5.1 (SIZ).
    """
    if (start := stream[:4096].find(b"\xff\x4f\xff\x51")) >= 0 and len(stream) >= start + 42:
        right, lower, left, upper = struct.unpack_from(">4I", stream, start + 8)
        return lower - upper, right - left, struct.unpack_from(">H", stream, start + 40)[0]
    position = 2
    while stream[:2] == b"\xff\xd8" and position + 10 <= len(stream):
        if stream[position] != 0xFF:
            return None
        marker = stream[position + 1]
        if marker in FRAME_MARKERS:
            return struct.unpack_from(">HHB", stream, position + 5)
        filling = marker == 0xFF
        position += 1 if filling else 2 + struct.unpack_from(">H", stream, position + 2)[0]
    return None
