"""Source folders: which files form a case. Reads names only, never voxels.

    msd      dataset.json, imagesTr/<case>.nii.gz, labelsTr/<case>.nii.gz; labels {"1": "name"}
    nnunet   dataset.json with channel_names or file_ending, imagesTr/<case>_0000.nii.gz, labelsTr/<case>.nii.gz; labels {"name": 1}
    plain    images/ and optional labels/, or a folder of NIfTI files; optional dataset.json with labels of either form

Each may hold a `covariates.csv`. Images without labels of the two challenges (imagesTs) are left out.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medldm.cohort import Covariate
from medldm.data.covariates import Row, case_name, read_covariates, refuse_shared_patients
from medldm.errors import UserError
from medldm.files import read_json

KNOWN = "Known layouts: imagesTr/ + labelsTr/ + dataset.json (MSD, nnU-Net), images/ + labels/, or a folder of .nii.gz files."


@dataclass(frozen=True)
class SourceCase:
    """The files of one case and what is known of it.

    Args:
        case: unique name, from the file name.
        patient: pseudonym of the person; the case where none is given.
        images: one file per contrast; empty where there is a label map only.
        label: the label map, if there is one.
        split: "train", "val", "test", or "" where the source names none.
        covariates: numbers, category names, or None where unknown.
    """

    case: str
    patient: str
    images: tuple[Path, ...]
    label: Path | None = None
    split: str = ""
    covariates: dict[str, Covariate] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """The cases of a source folder.

    Args:
        root: the folder.
        kind: "msd", "nnunet" or "plain".
        cases: sorted by name.
        labels: label value -> structure name; empty where the source names none.
        unknown_rows: rows of the covariates table that belong to no case.
        missing_rows: cases without a row, where there is a table.
    """

    root: Path
    kind: str
    cases: tuple[SourceCase, ...]
    labels: dict[int, str]
    unknown_rows: int = 0
    missing_rows: int = 0

    @property
    def labelled(self) -> bool:
        """True when any case has a label map."""
        return any(case.label for case in self.cases)


def find_cases(source: Path, covariates: Path | None = None, labels: dict[str, int] | None = None) -> Source:
    """Find the cases of a folder in any known layout.

    Args:
        source: the folder.
        covariates: a table as in `read_covariates`; else `covariates.csv` in the folder, if there is one.
        labels: structure name -> label value; else those of `dataset.json`, if there is one.

    Raises:
        UserError: the folder has no NIfTI files where a layout has them, files do not pair up, or the table is wrong.
    """
    source = Path(source)
    if not source.is_dir():
        raise UserError(f"{source} is not a folder.", "Give the folder of the images as --source.")
    about = read_json(source / "dataset.json") if (source / "dataset.json").is_file() else {}
    if not isinstance(about, dict):
        raise UserError(f"{source}/dataset.json holds no object.", KNOWN)
    kind, image_folder, label_folder = _layout(source, about)
    images = _images(image_folder, kind)
    if not images:
        raise UserError(f"{image_folder} holds no .nii or .nii.gz file.", KNOWN)
    maps = _label_maps(label_folder, set(images))
    table = covariates or (source / "covariates.csv" if (source / "covariates.csv").is_file() else None)
    rows = read_covariates(table) if table else {}
    names = sorted({*images, *maps})
    cases = tuple(_case(name, images.get(name, ()), maps.get(name), rows) for name in names)
    if table:
        refuse_shared_patients(table, {case.case: (case.patient, case.split) for case in cases})
    unknown, missing = len(set(rows) - set(names)), len(set(names) - set(rows)) if table else 0
    return Source(source, kind, cases, label_names(source, about.get("labels") if labels is None else labels), unknown, missing)


def label_names(source: Path, given: Mapping[str, Any] | None) -> dict[int, str]:
    """Label value -> structure name from {"1": "name"}, {"name": 1} or nothing; background (0) is left out.

    Args:
        source: the folder, for messages.
        given: as in MSD (value -> name) or nnU-Net (name -> value).

    Raises:
        UserError: a value is no positive whole number, or two structures share a value or a name.
    """
    fix = "Give plain labels as --labels '{name: value, ...}'."
    if given is not None and not isinstance(given, Mapping):
        raise UserError(f"{source}: 'labels' is {type(given).__name__}, not names with values.", fix)
    names: dict[int, str] = {}
    for key, entry in (given or {}).items():
        name, value = (entry, key) if str(key).lstrip("-").isdigit() and isinstance(entry, str) else (key, entry)
        whole = isinstance(value, int | str) and not isinstance(value, bool) and str(value).isdigit()
        if not whole:
            raise UserError(f"{source}: the structure {name!r} has the label {value!r}; a whole number was expected.", fix)
        if int(value) == 0:
            continue
        name = re.sub(r"\W+", "_", str(name)).strip("_")  # becomes part of column names
        if not name or int(value) in names or name in names.values():
            raise UserError(f"{source}: the label {value} ({name!r}) is given twice or has no name.", fix)
        names[int(value)] = name
    return dict(sorted(names.items()))


def _layout(source: Path, about: dict[str, Any]) -> tuple[str, Path, Path | None]:
    """Kind, folder of images and folder of label maps."""
    if (source / "imagesTr").is_dir():
        ending = about.get("file_ending", ".nii.gz")
        if ending not in (".nii", ".nii.gz"):
            raise UserError(f"{source}/dataset.json: file_ending {ending!r} is not read.", "Convert the files to .nii.gz.")
        return "nnunet" if {"file_ending", "channel_names"} & set(about) else "msd", source / "imagesTr", source / "labelsTr"
    return ("plain", source / "images", source / "labels") if (source / "images").is_dir() else ("plain", source, None)


def _files(folder: Path | None) -> dict[str, Path]:
    """Name without ending -> NIfTI file; hidden files such as macOS's `._x.nii.gz` are none."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder and folder.is_dir() else []:
        name = case_name(path.name)
        if path.name.startswith(".") or name == path.name or not path.is_file():
            continue
        if name in found:
            raise UserError(f"{folder} holds both {found[name].name} and {path.name}.", "Keep one of them.")
        found[name] = path
    return found


def _images(folder: Path, kind: str) -> dict[str, tuple[Path, ...]]:
    """Case -> its image files; `_0000`, `_0001` ... count the contrasts of nnU-Net."""
    if kind != "nnunet":
        return {name: (path,) for name, path in _files(folder).items()}
    channels: dict[str, list[Path]] = defaultdict(list)
    for name, path in _files(folder).items():
        match = re.fullmatch(r"(.+)_(\d{4})", name)
        if not match or int(match[2]) != len(channels[match[1]]):
            raise UserError(f"{path}: the contrasts of a case must be named <case>_0000, <case>_0001 ... without a gap.", "Rename or add the file.")
        channels[match[1]].append(path)
    return {case: tuple(paths) for case, paths in channels.items()}


def _label_maps(folder: Path | None, cases: set[str]) -> dict[str, Path]:
    """Case -> label map: of the same name, or the longest case that it continues (`p1_seg` is of `p1`)."""
    maps: dict[str, Path] = {}
    for name, path in _files(folder).items():
        heads = [name[: match.start()] for match in re.finditer(r"[_.-]", name)]
        owner = next((head for head in [name, *reversed(heads)] if head in cases), name)
        if owner in maps:
            raise UserError(f"{maps[owner].name} and {path.name} in {folder} are both label maps of case {owner!r}.", "Keep one of them.")
        maps[owner] = path
    return maps


def _case(name: str, images: tuple[Path, ...], label: Path | None, rows: dict[str, Row]) -> SourceCase:
    row = rows.get(name, Row())
    columns = next(iter(rows.values())).covariates if rows else {}
    return SourceCase(name, row.patient or name, images, label, row.split, {column: row.covariates.get(column) for column in columns})
