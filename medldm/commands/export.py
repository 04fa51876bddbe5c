"""`medldm export`: a cohort in the layout that other software reads."""

import re
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import Progress

from medldm.cohort import Cohort
from medldm.data.exporting import exportable, write_msd, write_nnunet
from medldm.errors import UserError
from medldm.run import Run
from medldm.tracking import tracked
from medldm.training.study import training_set

PREFIXES = {"nnunet": "Dataset", "msd": "Task"}


def export(
    cohort: Path,
    out: Path,
    format: Literal["nnunet", "msd"],
    dataset: int = 501,
    name: str = "Cohort",
    synthetic: Path | None = None,
    patients: int | None = None,
    seed: int = 0,
) -> Path:
    """Write a cohort in the layout of nnU-Net v2 or of the Medical Segmentation Decathlon.

    Patients, splits and covariates stand in covariates.csv, so that `prepare` reads back what was written. An interrupted export
    continues with the cases that are missing.

    Args:
        cohort: a folder made by `prepare` or `generate`.
        out: folder of the export; the data set is a folder in it, such as Dataset501_Cohort.
        format: nnunet or msd.
        dataset: number of the data set, 1 to 999.
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
    reads = {"cohort": whole.fingerprint()}
    if synthetic is not None or patients is not None:
        made = Cohort.load(synthetic) if synthetic else None
        reads |= {"synthetic": made.fingerprint()} if made else {}
        whole = training_set(whole, patients, seed, made)
    usable = exportable(whole, format == "nnunet")
    folder = out / f"{PREFIXES[format]}{dataset:03d}_{name}"
    run = Run.claim(out, "export", arguments, reads)
    if run.finished:
        print(f"{folder} is written already.")
        return folder
    with tracked(run, reads) as tracker, Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("exporting", total=len(usable))
        write = write_nnunet if format == "nnunet" else write_msd
        write(usable, folder, name, lambda case: progress.advance(task))
        tracker.metrics({"cases": len(usable)})
        run.finish(reads, [f"{folder.name}/{file}" for file in ("dataset.json", "covariates.csv")])
    print(f"{folder}: {len(usable)} cases, {len(usable.split('test'))} of them for the test")
    if (folder / "splits_final.json").is_file():
        print("splits_final.json belongs into the folder of this data set in nnUNet_preprocessed")
    return folder
