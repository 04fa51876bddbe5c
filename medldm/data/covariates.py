"""The table beside the images: one row a case, with its patient, its split and what else is known of it."""

import csv
from collections import defaultdict
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from medldm.cohort import COLUMNS, SPLITS, Covariate, covariate
from medldm.errors import UserError

#: Units of covariates that are understood by name; volumes of structures are added by `prepare`.
UNITS = {"age": "years"}


@dataclass(frozen=True)
class Row:
    """What the table says of one case.

    Args:
        patient: pseudonym of the person, or "".
        split: "train", "val", "test" or "".
        covariates: numbers, category names, or None where unknown.
    """

    patient: str = ""
    split: str = ""
    covariates: dict[str, Covariate] = field(default_factory=dict)


def read_covariates(path: Path) -> dict[str, Row]:
    """Read a covariates table.

    Args:
        path: CSV with the column `case`, optional columns `patient` and `split`; the others are covariates.

    Returns:
        Case name -> its row.

    Raises:
        UserError: the file is no such table, a case has two rows, a column mixes numbers and words, or a split is unknown.
    """
    lines, columns = _lines(path)
    names = [name for name in columns if name not in ("case", "patient", "split")]
    if taken := sorted(set(names) & set(COLUMNS)):
        raise UserError(f"{path}: the columns {', '.join(taken)} have a fixed meaning in a cohort.", "Rename them.")
    rows: dict[str, Row] = {}
    for number, line in enumerate(lines, start=2):
        case = case_name((line["case"] or "").strip())
        where = f"{path}, row {number}"
        if not case or case in rows:
            problem = f"case {case!r} has a row already." if case else "the cell of column 'case' is empty."
            raise UserError(f"{where}: {problem}", "Keep one row a case.")
        split = (line.get("split") or "").strip()
        if split not in SPLITS:
            raise UserError(f"{where}: split {split!r} is none of train, val, test.", "Correct it, or leave the cell empty.")
        rows[case] = Row((line.get("patient") or "").strip(), split, {name: covariate(line[name]) for name in names})
    for name in names:
        _refuse_mixed(path, name, {case: row.covariates[name] for case, row in rows.items()})
    return rows


def case_name(file_name: str) -> str:
    """A file name without `.nii` or `.nii.gz`."""
    lower = file_name.lower()
    return file_name[: -len(".nii.gz")] if lower.endswith(".nii.gz") else file_name[: -len(".nii")] if lower.endswith(".nii") else file_name


def refuse_shared_patients(path: Path, splits: dict[str, tuple[str, str]]) -> None:
    """Refuse a patient whose cases stand in two splits.

    Args:
        path: the table, for the message.
        splits: case -> (patient, split); cases without split are no conflict.

    Raises:
        UserError: lists up to five such pairs of cases.
    """
    first: dict[str, str] = {}
    pairs = []
    for case, (patient, split) in splits.items():
        other = first.setdefault(patient, case) if split else case
        if splits[other][1] != split:
            pairs.append(f"patient {patient!r}: case {other!r} in {splits[other][1]!r}, case {case!r} in {split!r}")
    if pairs:
        more = f" (and {len(pairs) - 5} more)" if len(pairs) > 5 else ""
        raise UserError(f"{path}: patients stand in two splits: {'; '.join(pairs[:5])}{more}.", "Give all cases of one patient one split.")


def _lines(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:  # spreadsheets put a byte order mark in front
            reader = csv.DictReader(stream, strict=True)
            lines, columns = list(reader), list(reader.fieldnames or [])
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.", "Give a CSV file as --covariates.") from error
    except (csv.Error, UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{path} cannot be read as CSV ({error}).", "Save it as comma-separated UTF-8 text.") from error
    if "case" not in columns or len(set(columns)) < len(columns) or "" in columns:
        found = ", ".join(map(repr, columns)) or "nothing"
        raise UserError(f"{path} has the columns {found}; each name once and one 'case' were expected.", "Correct the first row; separate by commas.")
    for number, line in enumerate(lines, start=2):
        if None in line or None in line.values():
            raise UserError(f"{path}, row {number}: the number of cells differs from the {len(columns)} columns.", "Correct the row.")
    return lines, columns


def _refuse_mixed(path: Path, name: str, values: dict[str, Covariate]) -> None:
    kinds: dict[type, list[str]] = defaultdict(list)
    for case, value in values.items():
        if isinstance(value, float) and not isfinite(value):
            raise UserError(f"{path}, column {name!r}: case {case!r} has {value}.", "Correct it, or leave the cell empty.")
        if value is not None:
            kinds[type(value)].append(case)
    if len(kinds) > 1:
        fewer = min(kinds.values(), key=len)
        raise UserError(
            f"{path}, column {name!r} mixes {len(kinds[float])} numbers and {len(kinds[str])} words (case {fewer[0]!r} has {values[fewer[0]]!r}).",
            "Correct it, or leave the cell empty.",
        )
