"""Which layout a source has, and its cases with their patients, splits and covariates."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medldm.cohort import Covariate
from medldm.data.covariates import SEPARATORS, Row, read_covariates, refuse_shared_patients
from medldm.data.layouts.bids import find_bids, is_bids
from medldm.data.layouts.challenges import find_challenge
from medldm.data.layouts.labels import label_names
from medldm.data.layouts.names import KNOWN, NO_FILES, tree
from medldm.data.layouts.nested import VISIT
from medldm.data.layouts.plain import find_plain
from medldm.data.layouts.table import find_table
from medldm.data.sources import Source, SourceCase
from medldm.data.tables import refuse_mixed
from medldm.errors import UserError
from medldm.files import read_json

TABLES = ("covariates.csv", "participants.csv", "participants.tsv")


def find_cases(
    source: Path,
    covariates: Path | None = None,
    labels: dict[str, int] | None = None,
    contrasts: list[str] | None = None,
    root: Path | None = None,
) -> Source:
    """Find the cases of a source in any known layout. Reads names, headers of DICOM files and small tables, never voxels.

    Args:
        source: a folder, or a CSV file as in `find_table`.
        covariates: a table as in `read_covariates`; else `covariates.csv`, `participants.csv` or `participants.tsv` of the folder.
        labels: structure name -> label value; else those that the source names.
        contrasts: the images of a case that become its channels, in this order; may be left out where there is one. In a DICOM archive
            words of the descriptions of series; without them each series is a case.
        root: folder of the images that a CSV names; by default its own.

    Raises:
        UserError: nothing is there that a layout has, files do not pair up, or a table is wrong.
    """
    source, contrasts = Path(source), contrasts or None
    if root is not None and not source.is_file():
        raise UserError(f"{source} is no CSV file, so that --root {root} has no meaning.", "Leave --root away.")
    if source.is_file() and source.suffix.lower() in (".csv", ".tsv"):
        return _with_table(find_table(source, label_names(source, labels), contrasts, root), covariates)
    if not source.is_dir():
        raise UserError(f"{source} is not a folder.", "Give the folder of the images, or a CSV that names them, as --source.")
    found = _in_folder(source, labels, contrasts)
    own = next((source / name for name in TABLES if (source / name).is_file()), None)
    return _with_table(found, covariates, own)


def _in_folder(source: Path, labels: dict[str, int] | None, contrasts: list[str] | None) -> Source:
    about = read_json(source / "dataset.json") if (source / "dataset.json").is_file() else {}
    if (source / "imagesTr").is_dir():
        return find_challenge(source, about, labels, contrasts)
    if sets := sorted(path.parent.name for path in source.glob("*/imagesTr")):
        raise UserError(f"{source} holds {len(sets)} data sets of MSD or nnU-Net.", f"Give one as --source, such as {source / sets[0]}.")
    names = label_names(source, about.get("labels") if labels is None else labels)
    if is_bids(source):
        return find_bids(source, names, contrasts)
    from medldm.data.dicom.archive import holds_dicom

    files = tree(source)
    dicom = holds_dicom(source)
    if dicom and not files:
        return _archive(source, labels, contrasts)
    if not files:
        raise UserError(f"{source} holds {NO_FILES}, and no DICOM.", KNOWN)
    found = find_plain(source, files, names, contrasts)
    return replace(found, notes=(*found.notes, "Its DICOM files are not read, since it holds image files.")) if dicom else found


def _archive(source: Path, labels: dict[str, int] | None, contrasts: list[str] | None) -> Source:
    """The volumes of a DICOM archive: each a case, or those of a study that words of descriptions name."""
    from medldm.data.dicom.archive import find_series
    from medldm.data.dicom.entries import KEY_COLUMNS

    if labels is not None:
        raise UserError(f"{source} is a DICOM archive; its structures have their names there.", "Leave --labels away.")
    archive = find_series(source, contrasts)
    key = tuple(dict(zip(KEY_COLUMNS, row, strict=True)) for row in archive.key)
    return Source(source, "dicom", archive.cases, archive.labels, tuple(contrasts or ()), notes=archive.notes, key=key)


def _with_table(found: Source, given: Path | None, own: Path | None = None) -> Source:
    """The source with the rows of a table; the table wins over the source, except over what is known of single sessions.

    Args:
        found: the cases.
        given: the table that the user names.
        own: the table that lies in the source, which counts where no other is given.
    """
    if strange := [case.case for case in found.cases if not case.case.isprintable()]:
        raise UserError(f"{found.root}: the name {strange[0]!a} holds characters that cannot be written.", "Rename this file.")
    path = Path(given) if given else own
    private = found.kind == "dicom"
    rows: dict[str, Row] = {}
    unknown = 0
    if path:
        rows, unknown = read_covariates(path, _names(found), private)
        if given and not rows:
            raise UserError(f"{path}: no row belongs to a case of {found.root}.", "Its key column must hold names of cases or patients.")
    columns = sorted({name for case in found.cases for name in case.covariates} | {name for row in rows.values() for name in row.covariates})
    wins = given is not None or found.kind != "bids"
    cases = tuple(_joined(case, rows.get(case.case, Row()), columns, wins) for case in found.cases)
    where = path or found.root
    if alone := _look_like_visits(cases):
        note = f"{alone}; each case counts as a patient of its own. Say who is who in a table with the columns case and patient."
        found = replace(found, notes=(*found.notes, note))
    for name in columns:
        refuse_mixed(where, name, {f"case {case.case!r}": case.covariates[name] for case in cases})
    refuse_shared_patients(where, {case.case: (case.patient, case.split) for case in cases})
    return replace(found, cases=cases, unknown_rows=unknown, missing_rows=len(cases) - len(rows) if path else 0)


def _names(found: Source) -> dict[str, Sequence[str]]:
    """Case -> what a table may call its patient: as here, as BIDS participants without `sub-`, or as a DICOM archive does."""
    identities = {row["case"]: (row["patient_id"],) for row in found.key if row["patient_id"]}
    bids = found.kind == "bids"
    return {c.case: (c.patient, *((c.patient.removeprefix("sub-"),) if bids else identities.get(c.case, ()))) for c in found.cases}


def _look_like_visits(cases: Sequence[SourceCase]) -> str:
    """A few words on cases that are patients of their own and share the beginning of a name that goes on as a visit; else ""."""
    groups: dict[str, list[str]] = {}
    for case in cases:
        if case.patient == case.case and (match := re.fullmatch(rf"(.+?){SEPARATORS}+({VISIT.pattern})", case.case.lower())):
            groups.setdefault(match[1], []).append(case.case)
    several = [names for names in groups.values() if len(names) > 1]
    if not several:
        return ""
    return f"{sum(map(len, several))} cases are called as visits of {len(several)} patients are ({several[0][0]}, {several[0][1]} ...)"


def _joined(case: SourceCase, row: Row, columns: Sequence[str], row_wins: bool) -> SourceCase:
    """The case with what its row says, a value for each column."""
    first, second = (row.covariates, case.covariates) if row_wins else (case.covariates, row.covariates)
    values: Mapping[str, Covariate] = {name: second.get(name) if first.get(name) is None else first.get(name) for name in columns}
    return replace(case, patient=row.patient or case.patient, split=row.split or case.split, covariates=dict(values))
