"""What a DICOM archive is made of, as cases: volumes, what should have been one, and what is none."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil, sqrt
from pathlib import Path

from medldm.data.dicom.contrasts import KEY_ADVICE, Candidate, choose
from medldm.data.dicom.grouping import Stack
from medldm.data.dicom.headers import Header
from medldm.data.dicom.planes import TELLING
from medldm.data.dicom.segmentation import Segmentation, Structures
from medldm.data.dicom.series import Series
from medldm.data.sources import SET_ASIDE, SourceCase

KEY_COLUMNS = ("case", "patient", "patient_id", "study_uid", "series_uid", "folder", "files", "status", "description", "part", "contrast")


@dataclass
class Entry:
    """A future case: planes that belong together, or files that form none.

    Args:
        headers: of its files.
        stack: its planes, where it has some.
        status: "ok" or a word of `series.py`.
        reason: why it is not ok.
        structures: objects that draw on it.
        patient: pseudonym.
        case: name.
        contrast: what the user calls it, where it is a contrast of a case.
        further: the other contrasts of its case, or what might be; these have its name.
    """

    headers: list[Header]
    stack: Stack | None
    status: str
    reason: str
    structures: list[Structures] = field(default_factory=list)
    patient: str = ""
    case: str = ""
    contrast: str = ""
    further: list["Entry"] = field(default_factory=list)

    @property
    def drawn(self) -> "Entry | None":
        """The first of its contrasts that structures are drawn on."""
        return next((one for one in (self, *self.further) if one.structures), None)


def source_case(entry: Entry, values: dict[str, int], known: set[str]) -> SourceCase:
    """An entry as a case.

    Args:
        entry: with its further contrasts.
        values: structure name -> label value.
        known: covariates that the archive tells of anyone.
    """
    covariates = {name: value for name, value in entry.headers[0].covariates.items() if name in known}
    parts = (entry, *entry.further)
    modality = entry.headers[0].modality if len({part.headers[0].modality for part in parts}) == 1 else ""
    about = {"covariates": covariates, "modality": modality, "status": entry.status, "reason": entry.reason}
    if entry.status != "ok":
        return SourceCase(entry.case, entry.patient, (), **about)
    label = None
    if (drawn := entry.drawn) is not None:
        objects = tuple((one.header.path, tuple((n, values[name]) for n, name in one.names)) for one in drawn.structures)
        label = Segmentation(f"{entry.case}_label", series_of(drawn.stack, entry.case), objects)
    names = [f"{entry.case}/{part.contrast}" for part in parts] if entry.further else [entry.case]
    return SourceCase(entry.case, entry.patient, tuple(series_of(part.stack, name) for part, name in zip(parts, names, strict=True)), label, **about)


def series_of(stack: Stack, name: str) -> Series:
    """A stack with a grid, under a pseudonym."""
    paths = tuple(dict.fromkeys(plane.header.path for plane in stack.planes))
    number = {path: n for n, path in enumerate(paths)}
    one = stack.planes[0]
    slices = tuple((number[plane.header.path], plane.frame) for plane in stack.planes)
    scales = tuple((plane.slope, plane.intercept) for plane in stack.planes)
    if one.tiles:
        slices, scales = tuple((0, tile) for tile in range(one.tiles)), scales * one.tiles
    return Series(name, paths, slices, scales, stack.grid, one.unit, one.padding, ceil(sqrt(one.tiles)))


def key_rows(entry: Entry, root: Path) -> Iterator[tuple[str, ...]]:
    """Who and what is behind an entry and its structures, as `KEY_COLUMNS`."""
    rows = [(entry.headers, entry.status), *(([one.header], "label") for one in entry.structures)]
    for headers, status in rows:
        one, files = headers[0], len({header.path for header in headers})
        folder = one.path.parent.relative_to(root).as_posix()
        known = one.identity[0], one.study_uid, one.series_uid, folder, str(files), status, one.texts[0]
        yield entry.case, entry.patient, *known, *(("", "") if status == "label" else (_part(entry), entry.contrast))


def _part(entry: Entry) -> str:
    """What tells a volume from the others of its series: its place and the values of `TELLING`."""
    if entry.stack is None or not entry.stack.part:
        return ""
    plane = entry.stack.planes[0]
    told = [f"{name}={value}" for name, value in zip(TELLING, plane.telling, strict=True) if value.strip("[] ")]
    return "; ".join([f"first slice at {' '.join(f'{x:.1f}' for x in plane.position)} mm", *told])


def combine(entries: Sequence[Entry], contrasts: Sequence[str], root: Path) -> tuple[list[Entry], tuple[str, ...]]:
    """Make the contrasts of a study one case, as in `choose`, and set aside the volumes that are none of them.

    Returns:
        The entries that are cases, and notes.
    """
    by_case = {entry.case: entry for entry in entries}
    choices = choose([_candidate(entry) for entry in entries if entry.status not in SET_ASIDE], contrasts, root)
    for case in choices.others:
        by_case[case].status, by_case[case].reason = "other_contrast", "is not among the series that were chosen by --contrasts."
    for choice in choices.cases:
        first, *further = parts = [by_case[case] for case, _ in choice.members]
        first.further = further
        for part, (_, word) in zip(parts, choice.members, strict=True):
            part.case, part.contrast, part.status, part.reason = first.case, word, choice.status, choice.reason
    merged = {id(part) for entry in entries for part in entry.further}
    return [entry for entry in entries if id(entry) not in merged], choices.notes


def several(entries: Sequence[Entry]) -> tuple[str, ...]:
    """A note on patients of whom there are several series of one modality."""
    series: dict[tuple[str, str], set[str]] = defaultdict(set)
    for entry in entries:
        if entry.status == "ok":
            series[entry.patient, entry.headers[0].modality].add(entry.headers[0].series_uid or entry.case)
    if many := {patient for (patient, _), uids in series.items() if len(uids) > 1}:
        words = "words of the descriptions of series"
        return (f"{len(many)} patients have several series of one modality; choose with --contrasts '[word]' ({words}). {KEY_ADVICE}",)
    return ()


def _candidate(entry: Entry) -> Candidate:
    """What there is to choose by; series that no header puts into one study are never combined."""
    one = entry.headers[0]
    exam = one.study_uid or one.study_when
    plane = entry.stack.planes[0] if entry.stack else None
    return Candidate(
        case=entry.case,
        study=(entry.patient, exam) if exam else (entry.case,),
        series=one.series_uid or entry.case,
        texts=one.texts,
        image_type=tuple(plane.telling[TELLING.index("image_type")].split("\\")) if plane else (),
        component=plane.telling[TELLING.index("component")] if plane else "",
        frame=one.frame_of_reference,
        grid=entry.stack.grid if entry.stack and entry.status == "ok" else None,
    )
