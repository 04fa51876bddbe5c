"""Text that may be burned into pixels: which files are at risk, and rectangles that are blanked."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from medldm.data.dicom.headers import STORAGE
from medldm.data.dicom.tags import items, text, whole, words
from medldm.data.sources import BadCase

ULTRASOUND = tuple(STORAGE + kind for kind in ("3", "3.1", "6", "6.1", "6.2"))
CAPTURE, VISIBLE_LIGHT = STORAGE + "7", STORAGE + "77.1"
EMBEDDED = 0x0100, 0x0102  # bits and first bit of an overlay that lies in unused bits of the pixels


def risk(dataset: Any) -> str:
    """Why the pixels of a file may show who it is, or "".

    Args:
        dataset: a file, before it is changed.
    """
    sop_class, kind = text(dataset, "SOPClassUID"), set(words(dataset, "ImageType"))
    if sop_class in ULTRASOUND or text(dataset, "Modality").upper() in ("US", "IVUS", "ES"):
        return "is an ultrasound or endoscopy image, which often has names burned in"
    if sop_class == CAPTURE or sop_class.startswith(CAPTURE + ".") or {"SECONDARY CAPTURE", "SCREEN SAVE", "SCREENSAVE", "DOSE_INFO"} & kind:
        return "is a secondary capture, a picture of a screen or a page"
    if text(dataset, "ConversionType") in ("DF", "SD", "DV", "WSD", "SI", "DRW"):
        return "was converted from film, video, paper or a screen"
    if sop_class.startswith(VISIBLE_LIGHT):
        return "is a photograph"
    if text(dataset, "BurnedInAnnotation").upper() == "YES":
        return "says that text is burned into its pixels"
    if any(tag.group & 0xFF01 == 0x6000 for tag in list(dataset.keys())):
        return "has overlays, which may hold text"
    if text(dataset, "PhotometricInterpretation").upper() == "RGB" and text(dataset, "Modality").upper() in ("CT", "MR", "PT"):
        return "is a colour picture of a modality that measures intensities"
    return "" if not items(dataset, "DisplayedAreaSelectionSequence") else "holds graphics of a presentation"


def expected_bytes(dataset: Any) -> int:
    """Bytes of uncompressed pixels that the header announces."""
    frames = max(1, whole(dataset, "NumberOfFrames", 1))
    samples = whole(dataset, "Rows") * whole(dataset, "Columns") * whole(dataset, "SamplesPerPixel", 1) * frames
    bits = samples * whole(dataset, "BitsAllocated")
    if text(dataset, "PhotometricInterpretation") == "YBR_FULL_422":
        bits = bits * 2 // 3
    return (bits + 7) // 8


def blank(dataset: Any, boxes: Sequence[tuple[int, int, int, int]]) -> None:
    """Set rectangles of every frame to 0; compressed pixels are stored uncompressed afterwards.

    Args:
        dataset: changed in place; PixelData is that of a whole number of bytes a pixel.
        boxes: each (first row, first column, rows, columns); what lies outside of the image is passed over.

    Raises:
        BadCase: nothing here decodes the pixels, or their form is another one.
    """
    pixels = unpacked(dataset)
    for row, column, height, width in boxes:
        pixels[:, :, row : row + height, column : column + width] = 0
    pack(dataset, pixels)


def unpacked(dataset: Any) -> np.ndarray:
    """The bytes of the pixels, to be changed [frames planes rows columns bytes], uint8; there are planes where colours lie one after the other.

    Args:
        dataset: changed in place: compressed pixels become uncompressed ones.

    Raises:
        BadCase: nothing here decodes the pixels, or their form is another than whole bytes.
    """
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_compressed and not syntax.is_deflated:
        try:
            dataset.decompress(as_rgb=False, generate_instance_uid=False)
        except Exception as error:  # decoders are packages of others
            raise BadCase("", "pixels", f"has compressed pixels that are not decoded here, to be changed ({type(error).__name__}).") from None
    rows, columns, samples = whole(dataset, "Rows"), whole(dataset, "Columns"), whole(dataset, "SamplesPerPixel", 1)
    bits, frames = whole(dataset, "BitsAllocated"), max(1, whole(dataset, "NumberOfFrames", 1))
    if bits % 8 or bits == 0 or text(dataset, "PhotometricInterpretation") == "YBR_FULL_422" or "PixelData" not in dataset:
        raise BadCase("", "pixels", "has pixels of another form than whole bytes, which are not changed.")
    data = np.frombuffer(bytearray(dataset.PixelData), np.uint8)[: expected_bytes(dataset)]
    planar = samples > 1 and whole(dataset, "PlanarConfiguration") == 1
    return data.reshape((frames, samples, rows, columns, bits // 8) if planar else (frames, 1, rows, columns, samples * bits // 8))


def pack(dataset: Any, pixels: np.ndarray) -> None:
    """Give a file its changed pixels, as `unpacked` gave them."""
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
