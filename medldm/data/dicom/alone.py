"""One DICOM object by itself: what it shows, and the private texts that it carries."""

from pathlib import Path

import numpy as np

from medldm.data.dicom.entries import series_of
from medldm.data.dicom.foreign import distrust
from medldm.data.dicom.geometry import Refusal, arrange
from medldm.data.dicom.grouping import stacks_of
from medldm.data.dicom.headers import SEGMENTATION, Header, read_header
from medldm.data.dicom.planes import planes_of
from medldm.data.dicom.rounding import half_turn
from medldm.data.dicom.segmentation import Segmentation, frame_places
from medldm.data.dicom.series import Series
from medldm.data.dicom.synthetic import GROUP, SCHEME
from medldm.data.dicom.tags import first, items, text, whole
from medldm.data.sources import BadCase
from medldm.volume import BadVolume, Volume, claimed_bytes


def read_alone(path: Path) -> Volume:
    """The volume of a multi-frame image, or the label map of a segmentation with the values that `label_object` wrote; axes RAS+, [1 I J K].

    The affine is rounded to the float32 of NIfTI headers, from which it came.

    Args:
        path: one file, written by `medldm export` or laid out like that.

    Raises:
        BadVolume: it holds no volume, or is damaged.
    """
    try:
        header = read_header(path)
        if header.status:
            raise BadCase("", header.status, header.reason)
        with distrust(""):
            volume = half_turn(_labels(header) if header.sop_class == SEGMENTATION else _image(header))
    except BadCase as bad:
        raise BadVolume(path, bad.status, bad.reason) from None
    return Volume(volume.data, volume.affine.astype(np.float32).astype(np.float64), volume.unit)


def private_texts(path: Path) -> list[bytes]:
    """The texts in the private group of the manifest, whoever claims them: a changed creator does not hide one.

    Raises:
        BadVolume: the file cannot be read.
    """
    from pydicom import dcmread

    try:
        with distrust(""):
            found = [
                element.value for element in dcmread(path, stop_before_pixels=True, force=True).group_dataset(GROUP) if element.tag.element > 0xFF
            ]
    except BadCase as bad:
        raise BadVolume(path, bad.status, bad.reason) from None
    return [(value if isinstance(value, bytes) else str(value).encode()).rstrip(b" \0") for value in found]


def segment_names(header: Header) -> dict[str, tuple[str, str]]:
    """Label value -> the label and the meaning of the code of its segment, in a file that `read_alone` reads."""
    return {
        str(_value(item)): (text(item, "SegmentLabel"), text(first(item, "SegmentedPropertyTypeCodeSequence"), "CodeMeaning"))
        for item in items(header.data, "SegmentSequence")
    }


def _image(header: Header) -> Volume:
    stacks = stacks_of(planes_of(header))
    if len(stacks) != 1 or stacks[0].status != "ok":
        raise BadCase("", "no_volume", f"holds {len(stacks)} stacks of slices; {stacks[0].reason or 'one was expected.'}")
    return series_of(stacks[0], "").read()


def _labels(header: Header) -> Volume:
    positions, orientation, spacing = frame_places(header.data)
    size = whole(header.data, "Rows"), whole(header.data, "Columns")
    found = arrange(np.array(sorted(set(positions))), orientation, spacing, size)
    if isinstance(found, Refusal):
        raise BadCase("", found.status, found.reason)
    claimed_bytes(header.path, found[1].shape, np.dtype(np.uint8), header.path.stat().st_size, "label")
    values = tuple((whole(item, "SegmentNumber"), _value(item)) for item in items(header.data, "SegmentSequence"))
    return Segmentation("", Series("", (), (), (), found[1]), ((header.path, values),)).read()


def _value(segment: object) -> int:
    """The label value of a segment: its code, or its number where the code is of others."""
    code = first(segment, "SegmentedPropertyTypeCodeSequence")
    return whole(code, "CodeValue") if text(code, "CodingSchemeDesignator") == SCHEME else whole(segment, "SegmentNumber")
