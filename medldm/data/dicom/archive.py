"""A tree of DICOM files of many patients, as cases with pseudonyms.

Only headers are read, and the pixels of images that no header tells apart, to see whether they are copies.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path

from medldm.data.dicom.entries import Entry, combine, key_rows, several, source_case
from medldm.data.dicom.grouping import stacks_of
from medldm.data.dicom.headers import SEGMENTATION, STRUCTURES, Header, is_dicom, read_header
from medldm.data.dicom.planes import Plane, planes_of
from medldm.data.dicom.segmentation import Structures, label_values, structures_of
from medldm.data.sources import SET_ASIDE, BadCase, SourceCase

SUFFIXES = (".dcm", ".dicom", ".ima")
LOOK_AT = 200  # files, to tell whether a folder holds DICOM
NOBODY = ("", "", "", "")
NO_VOLUME = ("localizer", "secondary_capture", "no_volume")


@dataclass(frozen=True)
class Archive:
    """What a tree of DICOM files holds.

    Args:
        cases: sorted by name; those with a status other than "ok" have no image.
        labels: label value -> structure name.
        notes: how files were understood, one sentence each.
        key: rows of `entries.KEY_COLUMNS` that say which case is which series. They hold PatientIDs and UIDs: to be written on explicit
            wish only. A file of structures has a row of its own with the status "label".
    """

    cases: tuple[SourceCase, ...]
    labels: dict[int, str]
    notes: tuple[str, ...]
    key: tuple[tuple[str, ...], ...] = field(repr=False)


def holds_dicom(root: Path) -> bool:
    """True where a folder has a DICOMDIR, or a DICOM file among its first few hundred files."""
    root = Path(root)
    return (root / "DICOMDIR").is_file() or any(is_dicom(path) for path in islice(_files(root), LOOK_AT))


def find_series(root: Path, contrasts: Sequence[str] | None = None) -> Archive:
    """Find the volumes of a tree of DICOM files, and what else it holds.

    Patients are numbered in the order of the SHA-256 of their ID (name and date of birth where there is none), cases of a patient
    by study date, series number and series. Every volume is a case of its own: each echo, phase, time point or direction; or, where
    contrasts are asked for, each study is one, called by its first contrast. Structures (SEG, RTSTRUCT) become the label maps of the
    volumes that they refer to.

    Args:
        root: the folder. Hidden files, DICOMDIR and files that are no DICOM are passed over.
        contrasts: words that name the series of a study that become channels, as in `choose`; the others are set aside.

    Raises:
        UserError: a contrast names no volume.
    """
    root = Path(root)
    planes, loose, structures, strangers = _sort_files(root)
    entries = [Entry([p.header for p in stack.planes], stack, stack.status, stack.reason) for group in planes for stack in stacks_of(group)]
    together: dict[tuple[str, ...], list[Header]] = defaultdict(list)
    for header in loose:
        together[(*_series_key(header), header.status, header.reason if header.series_uid else str(header.path))].append(header)
    entries += [Entry(headers, None, headers[0].status, headers[0].reason) for headers in together.values()]
    _refuse_shared_series(entries)
    attached, unused = _attach(structures, entries)
    entries += [Entry([one.header], None, "no_volume", "draws structures on images that are not here or form no volume.") for one in unused]
    _name(entries)
    entries.sort(key=lambda entry: entry.case)
    cases, notes = combine(entries, contrasts, root) if contrasts is not None else (entries, several(entries))
    kept = [one for entry in cases if entry.status == "ok" and entry.drawn for one in entry.drawn.structures]
    values = label_values(kept)
    known = {name for entry in entries for name, value in entry.headers[0].covariates.items() if value is not None}
    key = tuple(row for entry in entries for row in key_rows(entry, root))
    passed = len({one.header.path for one in attached} - {one.header.path for one in kept})
    found = tuple(source_case(entry, values, known) for entry in cases)
    return Archive(found, {value: name for name, value in values.items()}, (*_notes(entries, strangers, passed), *notes), key)


def _files(root: Path) -> Iterator[Path]:
    """Files that are not hidden, sorted; links to folders are not followed, and pipes and devices are no files."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(folder) / name for name in sorted(names) if not name.startswith(".") and name != "DICOMDIR")
        yield from (path for path in paths if path.is_file())


def _sort_files(root: Path) -> tuple[list[list[Plane]], list[Header], list[Structures], int]:
    """Planes by series, files without planes, structures, and the number of files that are no DICOM."""
    planes: dict[tuple[str, ...], list[Plane]] = defaultdict(list)
    loose: list[Header] = []
    structures: list[Structures] = []
    strangers = 0
    for path in _files(root):
        if not is_dicom(path):
            if path.suffix.lower() in SUFFIXES:
                loose.append(Header(path, status="unreadable", reason="has the name of a DICOM file and does not begin like one."))
            else:
                strangers += 1
            continue
        header = read_header(path)
        bare = header.without_data()
        try:
            if header.data is None or header.status in SET_ASIDE:
                loose.append(bare)
            elif header.sop_class in (SEGMENTATION, STRUCTURES):
                structures.append(structures_of(header))
            else:
                planes[_series_key(header)].extend(planes_of(header))
        except BadCase as bad:
            loose.append(bare if header.status else bare.refused(bad.status, bad.reason))
    return [group for group in planes.values() if group], loose, structures, strangers


def _series_key(header: Header) -> tuple[str, ...]:
    return (*header.identity, header.study_uid, header.series_uid or str(header.path.parent))


def _refuse_shared_series(entries: Sequence[Entry]) -> None:
    """Refuse volumes whose series belongs to several patients: each would hold a part of it, and nobody knows whose."""
    owners: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for entry in entries:
        owners[entry.headers[0].series_uid].add(entry.headers[0].identity)
    for entry in entries:
        uid = entry.headers[0].series_uid
        if entry.status == "ok" and uid and len(owners[uid]) > 1:
            entry.status, entry.reason = "several_patients", f"has the series UID of images of {len(owners[uid]) - 1} other patients."


def _attach(structures: Sequence[Structures], entries: Sequence[Entry]) -> tuple[list[Structures], list[Structures]]:
    """Give structures to the volumes that they refer to: by images, else by series, else by the only one of their coordinates.

    Returns:
        Structures that are used, and those that are not.
    """
    volumes = [entry for entry in entries if entry.status == "ok"]
    uids = [{header.sop_uid for header in entry.headers} for entry in volumes]
    used: list[Structures] = []
    unused: list[Structures] = []
    for one in structures:
        targets = [entry for entry, images in zip(volumes, uids, strict=True) if images & one.sop_uids]
        targets = targets or [entry for entry in volumes if entry.headers[0].series_uid in one.series_uids]
        frame = one.header.frame_of_reference
        if not targets and frame and not (one.sop_uids or one.series_uids):
            targets = [entry for entry in volumes if entry.headers[0].frame_of_reference == frame]
            targets = targets if len(targets) == 1 else []
        for entry in targets:
            entry.structures.append(one)
        (used if targets else unused).append(one)
    return used, unused


def _name(entries: Sequence[Entry]) -> None:
    """Pseudonyms: patients by the hash of their identity, cases of a patient by date, series and part."""
    by_patient: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    for entry in entries:
        by_patient[entry.headers[0].identity].append(entry)
    identities = sorted((identity for identity in by_patient if identity != NOBODY), key=lambda one: sha256("\0".join(one).encode()).digest())
    names = {identity: f"p{number:03d}" for number, identity in enumerate(identities, start=1)} | {NOBODY: "unknown"}
    for identity, own in by_patient.items():
        own.sort(key=lambda entry: _order(entry.headers[0]))  # stable: parts of a series keep their order
        for number, entry in enumerate(own, start=1):
            entry.patient, entry.case = names[identity], f"{names[identity]}_s{number:02d}"


def _order(header: Header) -> tuple[str, int, str, str]:
    return header.study_when, header.series_number, header.series_uid, "" if header.series_uid else str(header.path)


def _notes(entries: Sequence[Entry], strangers: int, passed: int) -> Iterator[str]:
    """How files were understood."""
    stacks = [entry.stack for entry in entries if entry.status == "ok"]
    counts = Counter(entry.status for entry in entries)
    if strangers:
        yield f"{strangers} files are no DICOM and were passed over."
    if copies := sum(entry.stack.copies for entry in entries if entry.stack):
        yield f"{copies} slices are copies of others and were left out."
    if parts := sum(stack.part for stack in stacks):
        yield f"{parts} volumes are parts of series that hold several (echoes, phases, times, orientations ...)."
    if made := sum(entry.status == "ok" and entry.headers[0].synthetic for entry in entries):
        yield f"{made} volumes say that they are synthetic: a cohort with them is not one of patients."
    if tilted := [stack.grid.tilt_degrees for stack in stacks if stack.grid.tilt_degrees]:
        yield f"{len(tilted)} volumes were taken with a gantry tilted by up to {max(tilted):.1f} degrees; they are moved to upright grids."
    if nobodys := sum(entry.status == "ok" and entry.headers[0].identity == NOBODY for entry in entries):
        yield f"{nobodys} volumes do not say whose they are; they count as one patient, since they may be."
    others = sum(one.header.identity != entry.headers[0].identity for entry in entries for one in entry.structures)
    if others:
        yield f"{others} files of structures name another patient than the images that they refer to, or none."
    if aside := [f"{counts[word]} {word}" for word in NO_VOLUME if counts[word]]:
        yield f"{sum(counts[word] for word in NO_VOLUME)} series or files are no volumes ({', '.join(aside)})."
    if passed:
        yield f"{passed} files of structures draw on series that are not used, or on a contrast after one that has a label map already."
    if sum(len({name for one in entry.structures for _, name in one.names}) > 1 for entry in entries):
        yield "Where structures of a label map overlap, the one with the larger label value is kept."
