"""`medldm restore`: what was made from a prepared case goes back to the grid and the intensities of its source."""

from functools import partial
from pathlib import Path

from medldm.commands.progress import counted
from medldm.data.covariates import case_name
from medldm.data.preparing import read_history
from medldm.data.steps.history import restore as restore_volume
from medldm.errors import UserError
from medldm.files import sha256, sha256_of
from medldm.parallel import spread
from medldm.run import Run
from medldm.tracking import tracked
from medldm.volume import read_volume, write_volume

UNITS = {"images": "a.u.", "labels": "label"}


def restore(cohort: Path, volumes: Path, out: Path, jobs: int = 1) -> Path:
    """Put volumes of prepared cases back on the source grid, in the source's intensities and label values.

    A volume belongs to the case of its name and lies anywhere on that case's prepared grid. What preparation lost stays lost:
    intensities that were clipped come back as the limit, and voxels outside of a crop as the lowest value.

    Args:
        cohort: the cohort that `medldm prepare` wrote; it holds a record of every step.
        volumes: a folder with images/<case>.nii.gz and labels/<case>.nii.gz (such as a cohort), or one of the two.
        out: folder for the same files on the source grid.
        jobs: processes at work.

    Returns:
        The folder.

    Raises:
        UserError: a volume belongs to no prepared case or lies elsewhere, or a file is damaged.
    """
    cohort, volumes, out = Path(cohort), Path(volumes), Path(out)
    if not (cohort / "records").is_dir():
        raise UserError(f"{cohort} has no records of how its cases were prepared.", "Give the folder that `medldm prepare` wrote as --cohort.")
    files = _files(volumes)
    for path, _ in files:
        read_history(cohort, case_name(path.name))  # all names are known before anything is written
    reads = {"volumes": sha256_of([[path.name, sha256(path)] for path, _ in files])}
    run = Run.claim(out, "restore", dict(cohort=cohort, volumes=volumes), reads)
    if run.finished:
        print(f"{out} is restored already.")
        return out
    with tracked(run, reads):
        written = list(counted(spread(partial(_restore, cohort=cohort, out=out), files, jobs), len(files), "restoring"))
        run.finish(reads, written)
    print(f"{out}: {len(written)} volumes on the grids of their sources")
    return out


def _files(volumes: Path) -> list[tuple[Path, str]]:
    """Every volume, with the folder that says what it is."""
    if not volumes.is_dir():
        raise UserError(f"{volumes} is not a folder.", "Give a folder with images/ or labels/ as --volumes.")
    folders = {volumes.name: volumes} if volumes.name in UNITS else {name: volumes / name for name in UNITS}
    files = [(path, kind) for kind, folder in folders.items() if folder.is_dir() for path in sorted(folder.glob("*.nii.gz"))]
    if not files:
        raise UserError(f"{volumes} has no .nii.gz files in images/ or labels/.", "Say what they are by the name of their folder.")
    return files


def _restore(file: tuple[Path, str], cohort: Path, out: Path) -> str:
    path, kind = file
    try:
        volume = restore_volume(read_volume(path, UNITS[kind]), read_history(cohort, case_name(path.name)))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    write_volume(out / kind / path.name, volume)
    return f"{kind}/{path.name}"
