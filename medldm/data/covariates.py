"""The table beside the images: one row a case or a patient, with what is known of it.

The rows are keyed by the first of these columns: `case`, `participant_id`, `patient_id`, `patientid`, `subject_id`, `subject`,
`patient`; else by the first column, if it names cases. A key names a case, a patient, or the beginning of a case's name that ends
at a separator (`IXI013-HH-1212` is the row of `IXI013-HH-1212_T1`; the longest counts). Titles are read in lower case, with `_` for
all that is neither letter nor digit. Columns that name persons are never covariates.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medldm.cohort import Covariate, covariate
from medldm.data.tables import covariate_names, read_lines, refuse_mixed, split_name, wrong_columns
from medldm.errors import UserError

#: Units of covariates that are understood by name; volumes of structures are added by `prepare`.
UNITS = {"age": "years"}
#: Columns that name cases or persons.
KEYS = ("case", "participant_id", "patient_id", "patientid", "subject_id", "subject", "patient")
SEPARATORS = r"[_.\-]"
#: Endings of images: NIfTI, MetaImage and NRRD.
ENDINGS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr")


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


def read_covariates(path: Path, cases: Mapping[str, Sequence[str]], private: bool = False) -> tuple[dict[str, Row], int]:
    """Read a covariates table.

    Args:
        path: CSV, or TSV by its name; optional columns `patient` and `split`, the others are covariates.
        cases: case -> its patient, and further names that the patient goes by.
        private: keys are true identities: messages give the number of a row, and no patient is called by the key.

    Returns:
        Case -> its row, for cases that have one, and the number of rows that belong to no case.

    Raises:
        UserError: the file is no such table, two rows have one key or belong to one case, a column mixes numbers and words, or a
            split is unknown.
    """
    lines, titles = read_lines(path)
    key = next((name for name in KEYS if name in titles), next(iter(titles), ""))
    if not key:
        raise wrong_columns(path, titles)
    rows = _rows(path, lines, titles, key, private)
    owners = _owners(path, rows, cases, key)
    if key not in KEYS and not owners:
        raise wrong_columns(path, titles)
    return {case: _of_case(rows[owner], owner, case, cases[case][0], private) for case, owner in owners.items()}, len(rows.keys() - owners.values())


def case_name(file_name: str) -> str:
    """A file name without the ending of an image."""
    ending = next((ending for ending in ENDINGS if file_name.lower().endswith(ending)), "")
    return file_name[: len(file_name) - len(ending)]


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


def _rows(path: Path, lines: list[dict[str, str]], titles: dict[str, str], key: str, private: bool) -> dict[str, Row]:
    """Key -> its row."""
    persons = [name for name in ("patient", *KEYS) if name in titles and name != key]
    person = "patient" if "patient" in persons else persons[0] if persons and key == "case" and not private else ""
    names = covariate_names(path, titles, (key, "split", *KEYS))
    rows: dict[str, Row] = {}
    spoken: dict[str, str] = {}
    for number, line in enumerate(lines, start=2):
        who = case_name(line[key])
        where = f"{path}, row {number}"
        if not who or who in rows:
            named = f"a {key}" if private else f"{key} {who!r}"
            raise UserError(f"{where}: {f'{named} has a row already.' if who else f'the cell of column {key!r} is empty.'}", f"Keep one row a {key}.")
        spoken[who] = f"row {number}" if private else f"{key} {who!r}"
        values = {name: covariate(line[name]) for name in names}
        rows[who] = Row(line.get(person, ""), split_name(where, line.get("split", "")), values)
    for name in names:
        refuse_mixed(path, name, {spoken[who]: row.covariates[name] for who, row in rows.items()})
    return rows


def _owners(path: Path, rows: Mapping[str, Row], cases: Mapping[str, Sequence[str]], key: str) -> dict[str, str]:
    """Case -> key of its row. Where the column `case` names cases, it names nothing else."""
    by_case = {case: case for case in cases if case in rows}
    if key == "case" and by_case:
        return by_case
    owners: dict[str, str] = {}
    for case, persons in cases.items():
        named = [case] if case in rows else sorted({person for person in persons if person in rows})
        heads = [case[: match.start()] for match in re.finditer(SEPARATORS, case)]
        found = named or [head for head in reversed(heads) if head in rows][:1]
        if len(found) > 1:
            raise UserError(f"{path}: {len(found)} rows belong to case {case!r}.", "Keep one of them.")
        owners.update(dict.fromkeys([case], found[0]) if found else {})
    return owners


def _of_case(row: Row, owner: str, case: str, patient: str, private: bool) -> Row:
    """The row for one case. Cases that share a row are of one patient, called by the key where no better name is known."""
    known = row.patient or (patient if patient != case or owner == case or private else owner)
    return Row(known, row.split, row.covariates)
