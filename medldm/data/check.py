"""Is every file whole, finite and where its label map says it is?

unreadable      missing, truncated, corrupt, no NIfTI at all        nan            voxels that are not finite
no_image        a label map without image                           no_label       an image without label map, where others have one
grid_mismatch   label map or contrast on another grid               label_values   no whole numbers, negative, or without a name
constant        almost all voxels are equal                         channels       another number of contrasts than most cases
duplicate       the image of another patient
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from medldm.data.layouts import SourceCase
from medldm.errors import UserError
from medldm.volume import Volume, read_volume

GRID_TOLERANCE = 1e-3  # mm
CONSTANT_PERCENTILES = (0.5, 99.5)

# What read_volume says, as a word for tables.
REFUSALS = {"NaN": "nan", "not whole numbers": "label_values"}


class BadCase(UserError):
    """A case that cannot be used.

    Args:
        file: which file, as folder and name.
        status: one of the words above.
        reason: what is wrong with it, without the path.
    """

    def __init__(self, file: str, status: str, reason: str):
        super().__init__(f"{file}: {reason}")
        self.file, self.status, self.reason = file, status, reason


@dataclass(frozen=True)
class Finding:
    """The result of checking one case.

    Args:
        case: its name.
        patient: its patient.
        file: the file that is wrong, else the image, as folder and name.
        status: "ok" or a word for what is wrong.
        reason: what is wrong.
        digest: SHA-256 of the image's voxels; "" where they could not be read.
        content: SHA-256 of image, label map and affine.
        channels: contrasts of the image.
        label_values: foreground values in the label map.
    """

    case: str
    patient: str
    file: str
    status: str = "ok"
    reason: str = ""
    digest: str = ""
    content: str = ""
    channels: int = 0
    label_values: tuple[int, ...] = ()


def load_case(case: SourceCase) -> tuple[Volume, Volume | None]:
    """Read the image [C I J K] of a case, contrasts as channels, and its label map [1 I J K] on the same grid.

    Raises:
        BadCase: a file is unreadable, there is no image, or grids differ.
    """
    if not case.images:
        raise BadCase(_short(case.label), "no_image", "is a label map without an image.")
    contrasts = [_read(path) for path in case.images]
    image = contrasts[0]
    for path, other in zip(case.images[1:], contrasts[1:], strict=True):
        _refuse_other_grid(path, other, image)
    image = image.with_data(torch.cat([contrast.data for contrast in contrasts]))
    if case.label is None:
        return image, None
    label = _read(case.label, "label")
    _refuse_other_grid(case.label, label, image)
    if len(label.data) != 1:
        raise BadCase(_short(case.label), "grid_mismatch", f"has {len(label.data)} channels; a label map has one.")
    return image, replace(label, affine=image.affine)


def check_case(case: SourceCase, labels: dict[int, str], labelled: bool = False) -> Finding:
    """Check one case on its own.

    Args:
        case: its files.
        labels: label value -> name; where it is not empty, other values are an error.
        labelled: True where a missing label map is an error.
    """
    file = _short(case.images[0] if case.images else case.label)
    try:
        image, label = load_case(case)
        if label is None and labelled:
            raise BadCase(file, "no_label", "has no label map, though other images of this source have one.")
        _refuse_constant(file, image)
        values = () if label is None else _label_values(_short(case.label), label, labels)
    except BadCase as bad:
        return Finding(case.case, case.patient, bad.file, bad.status, bad.reason)
    voxels = hashlib.sha256(repr(image.data.shape).encode() + image.data.numpy().tobytes())
    content = hashlib.sha256(voxels.digest() + image.affine.tobytes())
    content.update(b"" if label is None else label.data.numpy().tobytes())
    digest, whole = voxels.hexdigest(), content.hexdigest()
    return Finding(case.case, case.patient, file, digest=digest, content=whole, channels=len(image.data), label_values=values)


def compare(findings: Sequence[Finding]) -> list[Finding]:
    """Check the cases against each other: an image of two patients, or another number of contrasts than most.

    Of equal images the first keeps its status, so that the others can be left out.
    """
    usual = Counter(f.channels for f in findings if f.status == "ok").most_common(1)
    first: dict[str, Finding] = {}
    compared = []
    for finding in findings:
        other = first.setdefault(finding.digest, finding) if finding.status == "ok" else finding
        if other.patient != finding.patient:
            finding = replace(finding, status="duplicate", reason=f"has the same voxels as case {other.case!r} of another patient.")
        elif finding.status == "ok" and finding.channels != usual[0][0]:
            finding = replace(finding, status="channels", reason=f"has {finding.channels} contrasts; most cases have {usual[0][0]}.")
        compared.append(finding)
    return compared


def _read(path: Path, unit: str = "a.u.") -> Volume:
    try:
        return read_volume(path, unit)
    except UserError as error:
        reason = str(error).removeprefix(str(path)).strip()
        status = next((status for words, status in REFUSALS.items() if words in reason), "unreadable")
        raise BadCase(_short(path), status, reason) from error
    except OSError as error:
        raise BadCase(_short(path), "unreadable", f"cannot be read ({error.strerror}).") from error


def _short(path: Path | None) -> str:
    return f"{path.parent.name}/{path.name}" if path else ""


def _refuse_other_grid(path: Path, volume: Volume, image: Volume) -> None:
    if volume.shape != image.shape:
        raise BadCase(_short(path), "grid_mismatch", f"has shape {_x(volume.shape)}, its image {_x(image.shape)}.")
    distance = float(np.abs(volume.affine - image.affine).max())
    if distance > GRID_TOLERANCE:
        raise BadCase(_short(path), "grid_mismatch", f"lies elsewhere than its image (the affines differ by up to {distance:.3g} mm).")


def _refuse_constant(file: str, image: Volume) -> None:
    for channel in image.data.numpy():
        low, high = np.percentile(channel, CONSTANT_PERCENTILES)
        if not high > low:
            raise BadCase(file, "constant", f"is almost constant: at least 99 % of its voxels are {low:g}.")


def _label_values(file: str, label: Volume, labels: dict[int, str]) -> tuple[int, ...]:
    values = tuple(int(value) for value in np.unique(label.data.numpy()) if value != 0)
    strange = [value for value in values if value < 0 or (labels and value not in labels)]
    if strange:
        known = f"the named labels are {', '.join(f'{v} ({name})' for v, name in labels.items())}" if labels else "labels are positive"
        raise BadCase(file, "label_values", f"has the values {', '.join(map(str, strange[:5]))}; {known}.")
    return values


def _x(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
