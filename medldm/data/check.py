"""Is every file of a case whole, finite, plausible, and where its label map says it is?

unreadable      missing, truncated, corrupt, no image at all        nan                 voxels that are not finite
no_image        a label map without image                           no_label         *  an image without label map, where others have one
grid_mismatch   label map or contrast on another grid               label_values        no whole numbers, negative, without a name, an image
constant        almost all voxels are equal                         voxel_type          complex numbers or colours
spacing         an axis of length 0                                 no_place         *  the file does not say where it lies
outlier_voxels * single voxels far above all others                 not_hu           *  a CT that is not in Hounsfield units
spacing_outlier * outside 0.05 to 20 mm, or unlike other cases      no_volume           fewer than 3 slices; set aside, as no error

Those with a star a user may vouch for. `compare.py` holds the cases against each other and adds some words; what sources know from
headers alone (`data/sources.py`) adds others.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from medldm.data.align import aligned
from medldm.data.finding import Finding
from medldm.data.itk import read_image
from medldm.data.plausible import SPACING_MM, label_values, refuse_constant, refuse_flat, refuse_no_hounsfield, refuse_outlier_voxels, sampled
from medldm.data.sources import BadCase, SourceCase, Stored
from medldm.data.thumbnail import in_ras_order, thumbnail
from medldm.volume import BadVolume, Volume

#: What a user may vouch for; everything else has to be repaired or left out.
ASSUMABLE = (
    "no_place", "spacing_outlier", "orientation_outlier", "size_outlier", "outlier_voxels", "not_hu", "near_duplicate", "duplicate_label",
    "no_label",
)  # fmt: skip

GRID_TOLERANCE = 1e-3  # mm
LEAST_COVERED = 0.5  # of the first contrast's grid, by what is aligned to it
LEAST_LABELLED = 27  # voxels, from which on equal label maps are no chance
BY_ALIGN = "where positions are right, `--align true` interpolates it."


def load_case(case: SourceCase, align: bool = False, assume: Collection[str] = ()) -> tuple[Volume, Volume | None]:
    """Read the image [C I J K] of a case, contrasts as channels, and its label map [1 I J K] on the same grid.

    Args:
        case: its files.
        align: interpolate contrasts and label maps of other grids on that of the first contrast, by their positions.
        assume: with "no_place", files that do not say where they lie are taken as nibabel takes them.

    Raises:
        BadCase: a file is unreadable, there is no image, or grids differ.
    """
    if not case.images:
        raise BadCase(_short(case.label), "no_image", "is a label map without an image.")
    unit = "HU" if case.modality == "CT" else "a.u."
    contrasts = [_read(part, unit, "no_place" in assume) for part in case.images]
    image = contrasts[0]
    for number, part in enumerate(case.images[1:], start=1):
        contrasts[number] = _on_grid(part, contrasts[number], image, align)
    image = image.with_data(torch.cat([contrast.data for contrast in contrasts]))
    if case.label is None:
        return image, None
    label = _read(case.label, "label", "no_place" in assume)
    if len(label.data) != 1:
        raise BadCase(_short(case.label), "grid_mismatch", f"has {len(label.data)} channels; a label map has one.")
    return image, replace(_on_grid(case.label, label, image, align), affine=image.affine)


def check_case(
    case: SourceCase,
    labels: Mapping[int, str],
    labelled: bool = False,
    modality: str = "",
    align: bool = False,
    assume: Collection[str] = (),
) -> Finding:
    """Check one case on its own.

    Args:
        case: its files.
        labels: label value -> name; where it is not empty, other values are an error.
        labelled: True where a missing label map is an error.
        modality: "CT" holds images to Hounsfield units; by default what the case says.
        align: as in `load_case`.
        assume: words of ASSUMABLE that are known to be in order.
    """
    file = _short(case.images[0] if case.images else case.label) or case.case
    if case.status != "ok":
        return Finding(case.case, case.patient, file, case.status, case.reason)
    try:
        image, label = load_case(case, align, assume)
        if label is None and labelled and "no_label" not in assume:
            raise BadCase(file, "no_label", "has no label map, though other images of this source have one; `--assume '[no_label]'` keeps it.")
        _refuse_implausible(file, image, (modality or case.modality) == "CT", assume)
        values = () if label is None else label_values(_short(case.label), label, dict(labels))
    except BadCase as bad:
        return Finding(case.case, case.patient, bad.file, bad.status, bad.reason)
    content = hashlib.sha256(bytes.fromhex(_digest(image.data.numpy())) + image.affine.tobytes())
    content.update(b"" if label is None else label.data.numpy().tobytes())
    ras = in_ras_order(image)
    low, median, high = (float(level) for level in np.percentile(sampled(image.data[0].numpy()), (1, 50, 99)))
    return Finding(
        case.case, case.patient, file, digest=_digest(ras), content=content.hexdigest(), channels=len(image.data),
        label_values=values, label_digest=_label_digest(label),
        shape=image.shape, spacing=image.spacing, orientation=image.orientation, low=low, median=median, high=high, thumbnail=thumbnail(ras[0]),
    )  # fmt: skip


def _refuse_implausible(file: str, image: Volume, is_ct: bool, assume: Collection[str]) -> None:
    if "spacing_outlier" not in assume and not all(SPACING_MM[0] <= s <= SPACING_MM[1] for s in image.spacing):
        sizes = " x ".join(f"{s:.4g}" for s in image.spacing)
        raise BadCase(file, "spacing_outlier", f"has voxels of {sizes} mm; {SPACING_MM[0]:g} to {SPACING_MM[1]:g} mm were expected.")
    refuse_flat(file, image)
    refuse_constant(file, image)
    if "outlier_voxels" not in assume:
        refuse_outlier_voxels(file, image)
    if is_ct and "not_hu" not in assume:
        refuse_no_hounsfield(file, image)


def _read(part: Path | Stored, unit: str, assume_place: bool) -> Volume:
    """A file or a stored volume, with finite voxels, and whole ones in label maps."""
    if isinstance(part, Path):
        try:
            return read_image(part, unit, assume_place)
        except BadVolume as error:
            raise BadCase(_short(part), error.status, error.reason) from error
    volume = part.read()
    if not torch.isfinite(volume.data).all():
        raise BadCase(part.short, "nan", f"has {int((~torch.isfinite(volume.data)).sum())} voxels that are NaN or infinite.")
    if unit == "label" and not torch.equal(volume.data, volume.data.round()):
        raise BadCase(part.short, "label_values", "is a label map with values that are not whole numbers.")
    return volume


def _short(part: Path | Stored | None) -> str:
    return "" if part is None else f"{part.parent.name}/{part.name}" if isinstance(part, Path) else part.short


def _on_grid(part: Path | Stored, volume: Volume, image: Volume, align: bool) -> Volume:
    """The volume, if it lies on the grid of the image, or interpolated on it."""
    distance = float(np.abs(volume.affine - image.affine).max())
    if volume.shape == image.shape and distance <= GRID_TOLERANCE:
        return volume
    if align:
        volume, share = aligned(volume, image)
        if share < LEAST_COVERED:
            raise BadCase(_short(part), "grid_mismatch", f"covers {100 * share:.0f} % of its image; too little to align it.")
        return volume
    if volume.shape != image.shape:
        raise BadCase(_short(part), "grid_mismatch", f"has shape {_x(volume.shape)}, its image {_x(image.shape)}; {BY_ALIGN}")
    raise BadCase(_short(part), "grid_mismatch", f"lies elsewhere than its image (the affines differ by up to {distance:.3g} mm); {BY_ALIGN}")


def _digest(voxels: np.ndarray) -> str:
    digest = hashlib.sha256(repr(voxels.shape).encode())
    digest.update(np.ascontiguousarray(voxels))
    return digest.hexdigest()


def _label_digest(label: Volume | None) -> str:
    """SHA-256 of a label map with so much in it that two do not agree by chance."""
    if label is None or (label.data != 0).sum() < LEAST_LABELLED or (label.data == label.data.flatten()[0]).all():
        return ""
    return _digest(in_ras_order(label))


def _x(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
