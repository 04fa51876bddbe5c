"""One case, from its source files to the files of a cohort, with a record of all that was done to it.

`records/<case>.json` is written last. It makes a case whole: a run that is started again passes over cases whose record and files
are as they were written, and `restore` reads from it the way back to the source.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medldm.cohort import Case
from medldm.data.check import load_case
from medldm.data.sources import BadCase, SourceCase, Stored
from medldm.data.steps.base import Step
from medldm.data.steps.history import History, apply_steps
from medldm.data.storing import write_case
from medldm.errors import UserError
from medldm.files import read_json, sha256, sha256_of, write_json
from medldm.run import describe
from medldm.volume import Volume

TOLERANCE = 1e-3  # of intensities in [-1, 1]
BINS = 64  # of the stored histogram over [-1, 1]


@dataclass(frozen=True)
class Recipe:
    """What happens to every case of a source.

    Args:
        steps: in order.
        labels: label value of the cohort (1, 2, ...) -> structure name.
        align: bring contrasts and label maps of other grids onto that of the first contrast.
        assume: statuses that the user vouches for, as in `check_case`.
    """

    steps: tuple[Step, ...]
    labels: dict[int, str]
    align: bool = False
    assume: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """A case of a cohort and what a report says of it.

    Args:
        case: its row.
        histogram: voxels per bin of 64 over [-1, 1], first channel.
    """

    case: Case
    histogram: tuple[int, ...]


def prepare_case(task: tuple[SourceCase, str, str], recipe: Recipe, root: Path) -> Prepared:
    """Write image, label map and record of one case, unless they are there already.

    Args:
        task: the case, its split, and the sha256 of its content (`Finding.content`).
        recipe: what happens to it.
        root: folder of the cohort.

    Raises:
        UserError: a file is no longer as it was when it was checked, a step does not fit it, or intensities leave [-1, 1].
    """
    source, split, content = task
    path = root / f"records/{source.case}.json"
    settings = [[describe(step) for step in recipe.steps], sorted(recipe.labels.items()), recipe.align, recipe.assume]
    key = sha256_of([content, split, source.patient, source.covariates, settings])
    if (done := _finished(path, key)) is not None:
        return done
    try:
        original, label = load_case(source, recipe.align, recipe.assume)
        image, label, changes = apply_steps(recipe.steps, original, label)
    except BadCase as error:
        raise UserError(f"{error.file} {error.reason}", "It was usable when it was checked. Run the same command again.") from error
    except UserError as error:
        raise UserError(f"Case {source.case!r}: {error}") from error
    low, high = float(image.data.min()), float(image.data.max())
    if min(low, -high) < -1 - TOLERANCE:
        fix = "End the steps of intensity with Window, Percentile, ZScore or Nyul."
        raise UserError(f"Case {source.case!r}: intensities from {low:.4g} to {high:.4g} come out of the steps; a cohort holds -1 to 1.", fix)
    case = write_case(root, source.case, image, label, recipe.labels, source.patient, split, source.covariates)
    prepared = Prepared(case, _histogram(image))
    read = {part.short: part.changed for part in source.images if isinstance(part, Stored) and part.changed}
    write_json(path, {"key": key, **asdict(prepared), "read": read, "history": History.of(original, changes).to_plain()})
    return prepared


def forget_others(root: Path, cases: Collection[str]) -> None:
    """Remove what an interrupted run wrote of cases that have since left the source, as patients may who withdraw their consent.

    Args:
        root: folder of the cohort.
        cases: those that stay.
    """
    for record in sorted((root / "records").glob("*.json")):
        if record.stem not in cases:
            for path in (root / f"images/{record.stem}.nii.gz", root / f"labels/{record.stem}.nii.gz", record):
                path.unlink(missing_ok=True)


def image_before(source: SourceCase, recipe: Recipe, number: int) -> Volume:
    """The image of a case as the step of that number gets it."""
    image, label = load_case(source, recipe.align, recipe.assume)
    return apply_steps(recipe.steps[:number], image, label)[0]


def read_history(root: Path, case: str) -> History:
    """How the volumes of a prepared case came from its source.

    Raises:
        UserError: the cohort has no record of the case.
    """
    path = root / f"records/{case}.json"
    if not path.is_file():
        raise UserError(f"{root} has no record of how case {case!r} was prepared.", "Give a cohort that `medldm prepare` wrote.")
    return History.from_plain(read_json(path).get("history"))


def _finished(path: Path, key: str) -> Prepared | None:
    """What an earlier run wrote, if it is whole and was made from the same things."""
    record = read_json(path) if path.is_file() else {}
    if record.get("key") != key:
        return None
    row: dict[str, Any] = record["case"] | {name: tuple(record["case"][name]) for name in ("shape", "spacing")}
    case = Case(**row)
    files = [path.parents[1] / name for name in (case.image, case.label) if name]
    whole = all(file.is_file() for file in files) and sha256(*files) == case.sha256
    return Prepared(case, tuple(record["histogram"])) if whole else None


def _histogram(image: Volume) -> tuple[int, ...]:
    counts = torch.histc(image.data[0].float(), BINS, -1.0, 1.0)
    return tuple(int(count) for count in np.rint(counts.numpy()))
