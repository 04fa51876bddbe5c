"""A synthetic cohort as DICOM files: a folder a case, with one file for each contrast and one for its label map."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from medldm.cohort import Case, Cohort
from medldm.data.dicom.rounding import rounded
from medldm.data.dicom.synthetic import Origin, image_object, label_object
from medldm.data.exporting import covariates_table
from medldm.errors import UserError
from medldm.files import atomic, read_json, write_csv
from medldm.volume import Volume, read_volume

SHEAR = 1e-4  # cosine between two axes; readers take slices to be stacked upright
NO_DATE = "19700101000000"

#: Takes a file of the cohort and what is written of it, and gives the signed manifest that vouches for both, or nothing.
Signed = Callable[[Path, Volume], bytes]


def write_dicom(
    cohort: Cohort, root: Path, name: str, done: Callable[[Case], None] = lambda case: None, signed: Signed = lambda path, volume: b""
) -> None:
    """Write `<case>/image.dcm` (`image_1.dcm`, `image_2.dcm` ... for contrasts) and `<case>/label.dcm`; the same bytes for the same cohort.

    Args:
        cohort: usable synthetic cases, from `exportable`.
        root: folder of the files.
        name: what the studies are called.
        done: called after each case.
        signed: gives the manifest that goes into a file; by default none does.

    Raises:
        UserError: a case lies turned or sheared in space, or a label has no name.
    """
    weights = str(cohort.parents.get("diffusion", ""))
    origin = Origin(f"{name} (synthetic)", weights, _made(cohort), cohort.unit, f"medldm synthetic {cohort.fingerprint()[:16]}")
    for case in cohort:
        _write_case(cohort, case, root / case.case, origin, signed)
        done(case)
    write_csv(root / "covariates.csv", covariates_table(cohort))


def _write_case(cohort: Cohort, case: Case, folder: Path, origin: Origin, signed: Signed) -> None:
    source = cohort.path(case.image)
    image = read_volume(source, cohort.unit)
    _refuse_turned(cohort, case, image)
    contrasts = [str(contrast) for contrast in cohort.facts.get("contrasts") or []]
    names = contrasts if len(contrasts) == len(image.data) else [f"contrast {n}" for n in range(1, len(image.data) + 1)]
    objects = [
        image_object(case, origin, part, n, f"synthetic {names[n - 1]}", signed(source, part.volume))
        for n, part in enumerate(rounded(image), start=1)
    ]
    files = {f"image_{n}.dcm" if len(objects) > 1 else "image.dcm": one for n, one in enumerate(objects, start=1)}
    if case.label:
        label = read_volume(cohort.path(case.label), "label")
        _refuse_turned(cohort, case, label)
        if strange := sorted(set(label.data.unique().int().tolist()) - {0, *cohort.labels}):
            raise UserError(f"{cohort.root}: the label map of case {case.case!r} has the value {strange[0]}, which has no name.", "Prepare it again.")
        files["label.dcm"] = label_object(case, origin, label, cohort.labels, objects, signed(cohort.path(case.label), label))
    for file, data in files.items():
        if not (folder / file).is_file():
            with atomic(folder / file) as temporary:
                data.save_as(temporary, enforce_file_format=True)


def _refuse_turned(cohort: Cohort, case: Case, volume: Volume) -> None:
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    if volume.orientation != "RAS" or np.abs(axes.T @ axes - np.eye(3)).max() > SHEAR:
        raise UserError(
            f"{cohort.root}: case {case.case!r} has axes that are not upright, or not RAS+.", "Prepare it with the step Reorient or Resample."
        )


def _made(cohort: Cohort) -> str:
    """When the cohort was made, which does not change from export to export."""
    record = cohort.root / "provenance.json"
    started = str(read_json(record).get("started", "")) if record.is_file() else ""
    return "".join(letter for letter in started if letter.isdigit()) or NO_DATE
