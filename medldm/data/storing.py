"""A case of a cohort, written: image, label map, checksum and what was measured from the labels."""

from pathlib import Path

import numpy as np

from medldm.cohort import Case, Covariate
from medldm.files import sha256
from medldm.volume import Volume, write_volume


def write_case(
    root: Path,
    case: str,
    image: Volume,
    label: Volume | None = None,
    labels: dict[int, str] | None = None,
    patient: str = "",
    split: str = "",
    covariates: dict[str, Covariate] | None = None,
) -> Case:
    """Write `images/<case>.nii.gz` and `labels/<case>.nii.gz` into a cohort's folder, each atomically.

    Args:
        root: folder of the cohort.
        case: unique name; becomes the file name.
        image: voxels [C I J K].
        label: label map [1 I J K] on the same grid, if there is one.
        labels: label value -> structure name; for each the covariate `volume_<name>` (mm3) is measured from `label`.
        patient: pseudonym of the person; the case where none is given.
        split: "train", "val", "test" or "".
        covariates: further covariates.
    """
    paths = [f"images/{case}.nii.gz"]
    write_volume(root / paths[0], image)
    measured: dict[str, Covariate] = {}
    if label is not None:
        paths.append(f"labels/{case}.nii.gz")
        write_volume(root / paths[1], label)
        measured = dict(structure_volumes(label, labels or {}))
    return Case(
        case=case,
        patient=patient or case,
        split=split,
        image=paths[0],
        label=paths[1] if label is not None else "",
        sha256=sha256(*(root / path for path in paths)),
        shape=image.shape,
        spacing=image.spacing,
        covariates={**(covariates or {}), **measured},
    )


def structure_volumes(label: Volume, labels: dict[int, str]) -> dict[str, float]:
    """Volume in mm3 of each structure: voxels times |det| of the affine.

    Args:
        label: label map [1 I J K].
        labels: label value -> structure name.

    Returns:
        `volume_<name>` -> mm3.
    """
    voxel = abs(float(np.linalg.det(label.affine[:3, :3])))
    counts = np.bincount(label.data.numpy().astype(np.int64).ravel(), minlength=max(labels, default=0) + 1)
    return {f"volume_{name}": round(int(counts[value]) * voxel, 6) for value, name in labels.items()}
