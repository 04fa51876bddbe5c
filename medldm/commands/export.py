"""`medldm export`: a cohort in the layout that other software reads."""

import re
from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import Progress

from medldm.cohort import Cohort
from medldm.data.dicom.exporting import write_dicom
from medldm.data.exporting import exportable, write_msd, write_nnunet
from medldm.errors import UserError
from medldm.provenance.manifest import content_digest, envelopes, judge
from medldm.run import Run
from medldm.tracking import tracked
from medldm.training.study import training_set
from medldm.volume import Volume, read_volume

FOLDERS = {"nnunet": "Dataset{:03d}_{}", "msd": "Task{:03d}_{}", "dicom": "DICOM_{1}"}


def export(
    cohort: Path,
    out: Path,
    format: Literal["nnunet", "msd", "dicom"],
    dataset: int = 501,
    name: str = "Cohort",
    synthetic: Path | None = None,
    patients: int | None = None,
    seed: int = 0,
) -> Path:
    """Write a cohort in the layout of nnU-Net v2 or of the Medical Segmentation Decathlon, or a synthetic one as DICOM files.

    Patients, splits and covariates stand in covariates.csv, so that `prepare` reads back what was written. An interrupted export
    continues with the cases that are missing. DICOM files say that they are synthetic, hold images in 16 bits, and carry the signed manifest
    of a released cohort, so that `verify` reads them too.

    Args:
        cohort: a folder made by `prepare` or `generate`.
        out: folder of the export; the data set is a folder in it, such as Dataset501_Cohort.
        format: nnunet, msd or dicom.
        dataset: number of the data set, 1 to 999; DICOM has none.
        name: name of the data set, letters and digits.
        synthetic: a generated cohort, whose cases become training cases beside the real ones.
        patients: real training patients, the same as in the arms of `evaluate --downstream` with this seed; 0 for none, all by default.
        seed: chooses them.

    Returns:
        The folder of the data set.

    Raises:
        UserError: an argument is wrong, the cohort cannot be written in this layout, or the folder holds something else.
    """
    arguments = {key: value for key, value in locals().items() if key != "out"}
    if not 1 <= dataset <= 999 or not re.fullmatch(r"[A-Za-z0-9]+", name):
        raise UserError(f"dataset={dataset}, name={name!r}: a number from 1 to 999 and a name of letters and digits were expected.")
    cohort, out = Path(cohort), Path(out)
    if out.resolve().is_relative_to(cohort.resolve()):
        raise UserError(f"{out} lies inside the cohort {cohort}.", "Give a folder beside it as --out.")
    whole = Cohort.load(cohort)
    if format == "dicom":
        _refuse_real(whole, synthetic is not None or patients is not None)
    reads = {"cohort": whole.fingerprint()}
    if synthetic is not None or patients is not None:
        made = Cohort.load(synthetic) if synthetic else None
        reads |= {"synthetic": made.fingerprint()} if made else {}
        whole = training_set(whole, patients, seed, made)
    usable = exportable(whole, format == "nnunet")
    folder = out / FOLDERS[format].format(dataset, name)
    run = Run.claim(out, "export", arguments, reads)
    if run.finished:
        print(f"{folder} is written already.")
        return folder
    with tracked(run, reads) as tracker, Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("exporting", total=len(usable))
        write = {"nnunet": write_nnunet, "msd": write_msd, "dicom": partial(write_dicom, signed=_signed)}[format]
        write(usable, folder, name, lambda case: progress.advance(task))
        tracker.metrics({"cases": len(usable)})
        run.finish(reads, [f"{folder.name}/{file}" for file in ("dataset.json", "covariates.csv") if (folder / file).is_file()])
    _tell(folder, usable, format)
    return folder


def _tell(folder: Path, cases: Cohort, format: str) -> None:
    steps = "intensities within half of 1/65535 of the range of their image, whole numbers as they were"
    tests = f"{len(cases.split('test'))} of them for the test"
    print(f"{folder}: {len(cases)} cases, {steps if format == 'dicom' else tests}")
    if (folder / "splits_final.json").is_file():
        print("splits_final.json belongs into the folder of this data set in nnUNet_preprocessed")


def _refuse_real(cohort: Cohort, arm: bool) -> None:
    if not cohort.synthetic:
        advice = "Give a cohort of `generate` or `release`. DICOM files of patients are passed on by `medldm anonymize`."
        raise UserError(f"{cohort.root} holds real images; DICOM files are written of synthetic cohorts only.", advice)
    if arm:
        raise UserError("--synthetic and --patients choose training cases, which DICOM files are not.", "Leave them away, or choose nnunet or msd.")
    cohort.check_files()


def _signed(source: Path, written: Volume) -> bytes:
    """The manifest of a file of a released cohort, if it vouches for what is written of it; nothing where there is none.

    Raises:
        UserError: the file is not what was signed, or was signed before manifests vouched for DICOM files.
    """
    notes = envelopes(source)
    found = judge(notes, partial(read_volume, source), ())
    if found.state == "tampered":
        raise UserError(f"{source} is not what was signed. {found.reason}", "Restore it from a copy.")
    if found.manifest and content_digest(written) not in found.manifest["content"].values():
        raise UserError(f"{source} was released by an older version, whose manifest knows no DICOM.", "Release the cohort again.")
    return notes[0] if notes else b""
