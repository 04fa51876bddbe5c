"""The planes of an image file: classic slices, frames of enhanced objects, Siemens mosaics."""

import re
from dataclasses import dataclass, replace
from math import ceil, sqrt
from typing import Any

import numpy as np

from medldm.data.dicom.csa import read_csa
from medldm.data.dicom.foreign import distrust
from medldm.data.dicom.headers import Header
from medldm.data.dicom.tags import first, items, number, numbers, text, whole, words
from medldm.data.sources import BadCase

#: What may tell two images at one position apart, in the order in which it is tried.
TELLING = (
    "component", "echo", "image_type", "contrast", "temporal", "b_value", "direction", "trigger", "kernel", "inversion", "flip",
    "thickness", "stack", "acquisition", "dimension",
)  # fmt: skip
COMPONENTS = {"MAGNITUDE": "M", "PHASE": "P", "PHASE MAP": "P", "REAL": "R", "IMAGINARY": "I", "M": "M", "P": "P", "R": "R", "I": "I"}
PLACE_IN_STACK = {0x00209057, 0x00200032, 0x00209056}  # in-stack position, image position, stack: dimensions that are no contrast
FARTHEST = 1e5  # mm; no scanner is larger
SCOUT = re.compile(r"(?<![a-z])(locali[sz]er|loc|scout|survey|surview|topogram|(3|three).?plane)(?![a-z])", re.IGNORECASE)
TILES, CSA = 0x0019100A, (0x00291010, 0x00291110, 0x00291210)
CSA_TAGS = frozenset({"NumberOfImagesInMosaic", "SliceNormalVector"})


@dataclass(frozen=True, slots=True)
class Plane:
    """One image in space, or a mosaic of them.

    Args:
        header: its file.
        frame: which of the file, counted from 0.
        size: rows and columns of the plane, or of one tile.
        position: centre of its first pixel, LPS mm.
        orientation: direction cosines along a row and along a column.
        spacing: mm between rows and between columns.
        slope: intensity = slope * stored value + intercept.
        intercept: see slope.
        padding: intensity of pixels that hold no measurement, or None.
        unit: "HU" or "a.u.".
        localizer: True where the header calls it one.
        telling: values of `TELLING`, "" where absent.
        tiles: images in a mosaic; 0 for a single plane.
        step: from tile to tile, LPS mm.
    """

    header: Header
    frame: int
    size: tuple[int, int]
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    slope: float
    intercept: float
    padding: float | None
    unit: str
    localizer: bool
    telling: tuple[str, ...]
    tiles: int = 0
    step: tuple[float, ...] = (0.0, 0.0, 0.0)


def planes_of(header: Header) -> list[Plane]:
    """The planes of an image file.

    Args:
        header: of a CT or MR image, with its data.

    Raises:
        BadCase: a plane has no place in space, or the groups of an enhanced object are malformed.
    """
    with distrust(""):
        data, header = header.data, header.without_data()
        shared = first(data, "SharedFunctionalGroupsSequence")
        frames = items(data, "PerFrameFunctionalGroupsSequence")
        if shared is not None or frames:
            if len(frames) != whole(data, "NumberOfFrames", 1):
                raise BadCase("", "unreadable", f"describes {len(frames)} of its {whole(data, 'NumberOfFrames', 1)} frames.")
            pointers = [int(item.get("DimensionIndexPointer") or 0) for item in items(data, "DimensionIndexSequence")]
            common = _group(shared)
            return [_plane(header, n, _Enhanced(data, common, frame), _dimension(frame, pointers)) for n, frame in enumerate(frames)]
        if whole(data, "NumberOfFrames", 1) != 1:
            raise BadCase("", "no_position", "holds several frames without their places in space.")
        plane = _plane(header, 0, data, "")
        return [_mosaic(plane, data)] if "MOSAIC" in words(data, "ImageType") else [plane]


class _Enhanced:
    """A frame of an enhanced object, read like a classic header: its own group, else the shared one, else the object itself."""

    NAMES = {  # noqa: RUF012
        "EchoTime": "EffectiveEchoTime", "ImageType": "FrameType", "TemporalPositionIdentifier": "TemporalPositionIndex",
        "AcquisitionNumber": "FrameAcquisitionNumber", "TriggerTime": "NominalCardiacTriggerDelayTime", "InversionTime": "InversionTimes",
    }  # fmt: skip

    def __init__(self, data: Any, shared: dict[str, Any], frame: Any):
        self.values = {**shared, **_group(frame)}
        self.direction = first(self.values, "DiffusionGradientDirectionSequence")
        self.data = data

    def get(self, keyword: Any) -> Any:
        """The value of an attribute by its classic name."""
        if keyword == "DiffusionGradientOrientation" and self.direction is not None:
            return self.direction.get(keyword)
        value = self.values.get(self.NAMES.get(keyword, keyword))
        return self.data.get(keyword) if value is None else value


def _group(groups: Any) -> dict[str, Any]:
    """The attributes of all functional groups of a frame, or of those that frames share."""
    sequences = [element for element in groups or () if element.VR == "SQ" and not element.tag.is_private]
    return {e.keyword: e.value for sequence in sequences for item in list(sequence.value)[:1] for e in item if e.keyword}


def _dimension(frame: Any, pointers: list[int]) -> str:
    """The dimension indices of a frame that say something else than its place."""
    content = first(frame, "FrameContentSequence")
    values = numbers(content, "DimensionIndexValues", len(pointers)) or ()
    return str([value for value, pointer in zip(values, pointers, strict=False) if pointer not in PLACE_IN_STACK])


def _plane(header: Header, frame: int, data: Any, dimension: str) -> Plane:
    position, orientation = numbers(data, "ImagePositionPatient", 3), numbers(data, "ImageOrientationPatient", 6)
    spacing = numbers(data, "PixelSpacing", 2)
    if position is None or orientation is None or spacing is None or max(map(abs, position)) > FARTHEST:
        raise BadCase("", "no_position", "does not say where it lies in space (position, orientation or pixel spacing).")
    axes = np.array(orientation).reshape(2, 3)
    if np.abs(axes @ axes.T - np.eye(2)).max() > 1e-2 or not 1e-3 < min(spacing) <= max(spacing) < 1e3:
        raise BadCase("", "no_position", "has an impossible orientation or pixel spacing.")
    slope = 1.0 if data.get("RescaleSlope") is None else number(data, "RescaleSlope")
    intercept = 0.0 if data.get("RescaleIntercept") is None else number(data, "RescaleIntercept")
    if not slope or intercept is None:
        raise BadCase("", "unsupported", "has a malformed rescale slope or intercept.")
    padding = number(data, "PixelPaddingValue")
    kind = words(data, "ImageType")
    hounsfield = header.modality == "CT" and text(data, "RescaleType").upper() in ("", "HU")
    return Plane(
        header=header,
        frame=frame,
        size=(whole(data, "Rows"), whole(data, "Columns")),
        position=position,
        orientation=tuple((axes / np.linalg.norm(axes, axis=1, keepdims=True)).ravel().tolist()),
        spacing=spacing,
        slope=slope,
        intercept=intercept,
        padding=None if padding is None else slope * padding + intercept,
        unit="HU" if hounsfield else "a.u.",
        localizer=any("LOCALIZER" in word or "SURVIEW" in word for word in kind) or bool(SCOUT.search(text(data, "SeriesDescription"))),
        telling=(*_telling(data, kind), dimension),
    )


def _telling(data: Any, kind: tuple[str, ...]) -> tuple[str, ...]:
    """Values of `TELLING`, but for the dimension."""
    component = text(data, "ComplexImageComponent").upper()
    component = COMPONENTS.get(component) or next((COMPONENTS[word] for word in kind[2:] if word in COMPONENTS), "")
    echo = f"{text(data, 'EchoNumbers')} {number(data, 'EchoTime') or 0:.3f}"
    names = (
        "ContrastBolusAgent", "TemporalPositionIdentifier", "DiffusionBValue", "DiffusionGradientOrientation", "TriggerTime",
        "ConvolutionKernel", "InversionTime", "FlipAngle", "SliceThickness", "StackID", "AcquisitionNumber",
    )  # fmt: skip
    return component, echo, "\\".join(kind), *(text(data, name) for name in names)


def _mosaic(plane: Plane, data: Any) -> Plane:
    """A mosaic with the place of its first tile.

    The stated position is that of a single image as large as the mosaic around the same centre, so the first pixel of a tile lies
    half the difference further along rows and columns (nibabel, "DICOM mosaics").
    """
    csa: dict[str, tuple[float, ...]] = {}
    for tag in CSA:
        raw = data.get(tag)
        if raw is not None and isinstance(raw.value, bytes) and not csa:
            csa = read_csa(raw.value, CSA_TAGS)
    raw = data.get(TILES)
    stated = str(raw.value) if raw is not None else ""
    tiles = int(csa["NumberOfImagesInMosaic"][0]) if "NumberOfImagesInMosaic" in csa else int(stated) if stated.isdigit() else 0
    gap = number(data, "SpacingBetweenSlices")
    side = ceil(sqrt(tiles)) if tiles > 0 else 1
    if tiles < 1 or not gap or any(length % side for length in plane.size):
        raise BadCase("", "unsupported", "is a mosaic that does not say how many images it holds, or how far apart they are.")
    rows, columns = plane.size[0] // side, plane.size[1] // side
    axes = np.array(plane.orientation).reshape(2, 3)
    normal = np.cross(*axes)
    if len(csa.get("SliceNormalVector", ())) == 3 and normal @ np.array(csa["SliceNormalVector"]) < 0:
        normal = -normal
    shift = axes[0] * plane.spacing[1] * (plane.size[1] - columns) / 2 + axes[1] * plane.spacing[0] * (plane.size[0] - rows) / 2
    position, step = np.array(plane.position) + shift, normal * gap
    return replace(plane, size=(rows, columns), position=tuple(position.tolist()), tiles=tiles, step=tuple(step.tolist()))
