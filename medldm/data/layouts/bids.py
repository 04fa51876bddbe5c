"""The Brain Imaging Data Structure (Gorgolewski et al. 2016, Sci Data 3:160044), as far as volumes of anatomy go.

    sub-01/ses-1/anat/sub-01_ses-1[_acq-x][_run-1]_T1w.nii.gz                    an image; the suffix is its contrast
    derivatives/x/sub-01/ses-1/anat/sub-01_ses-1_label-lesion_mask.nii.gz        a label map: dseg, seg or mask
    derivatives/x/sub-01/ses-1/anat/sub-01_ses-1_T1w_dseg.nii.gz                 one that names its image, as raters do
    participants.tsv, sub-01/sub-01_sessions.tsv                                 covariates of patients and of their sessions

A case is a session, or a run where there are several. Entities that change what an image shows (`ce-`, `echo-`, `inv-`, `part-` ...)
belong to the contrast: `ce-gadolinium_T1w` is not `T1w`. Series over time (func, dwi, perf ...) are no volumes and passed over.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medldm.cohort import Covariate, covariate
from medldm.data.layouts.bids_labels import belongs, choose_maps, structure_names
from medldm.data.layouts.bids_names import LABEL_SUFFIXES, SHOWN, Name, files, strange_maps
from medldm.data.layouts.names import channels, choose
from medldm.data.sources import Source, SourceCase
from medldm.data.tables import covariate_names, read_lines
from medldm.errors import UserError


@dataclass(frozen=True)
class Group:
    """The images of one case.

    Args:
        case: its name.
        images: contrast -> image.
    """

    case: str
    images: dict[str, Name]


def is_bids(source: Path) -> bool:
    """True for a folder with subjects' folders and images that are named as in BIDS."""
    return any(not name.is_label for name in files(source))


def find_bids(source: Path, labels: dict[int, str], contrasts: Sequence[str] | None) -> Source:
    """The cases of a BIDS folder.

    Args:
        source: the folder that holds the subjects' folders.
        labels: label value -> structure name, where the user gives them.
        contrasts: suffixes such as `T1w`, with entities where needed (`acq-mprage_T1w`), which become channels in this order. A
            label map's, such as `desc-aseg_dseg`, chooses among several kinds of label maps.

    Raises:
        UserError: there are several contrasts or kinds of label maps and none was chosen, or a table is wrong.
    """
    found = files(source)
    derived = [name for folder in sorted(source.glob("derivatives/*")) for name in files(folder, folder.name)]
    images = [name for name in found if not name.is_label]
    kinds = [asked for asked in contrasts or () if asked.split("_")[-1].lower() in LABEL_SUFFIXES]
    wanted = _contrasts(images, [asked for asked in contrasts or () if asked not in kinds] or None, source)
    sessions: dict[str, list[Name]] = defaultdict(list)
    for name in images:
        sessions[name.session].append(name)
    groups = [group for names in sessions.values() for group in _groups(names, wanted)]
    groups += _without(groups, source)
    maps = choose_maps(_maps(groups, [name for name in (*found, *derived) if name.is_label]), kinds, source)
    visits = _visits(source)
    cases = [_case(group, wanted, maps.get(group.case), visits) for group in sorted(groups, key=lambda group: group.case)]
    names = labels or structure_names(list(maps.values()), source)
    note = f"images: {', '.join(wanted)}; label maps: {', '.join(sorted({name.kind for name in maps.values()})) or 'none'}."
    unused = sum(name.is_label for name in (*found, *derived)) - len({name.path for name in maps.values()}) + strange_maps(source)
    more = (f"{unused} files that are called as label maps are not used.",) if unused else ()
    return Source(source, "bids", tuple(cases), names, wanted, notes=(note, *more))


def _contrasts(images: Sequence[Name], contrasts: Sequence[str] | None, source: Path) -> tuple[str, ...]:
    """The contrasts to use; those with entities of their own (`acq-x_T1w`) are taken where some image fits."""
    counts = Counter(name.contrast for name in images)
    known = {name.lower() for name in counts}
    special = Counter({asked: sum(name.fits(asked) for name in images) for asked in contrasts or () if asked.lower() not in known})
    return choose(counts + special, contrasts, source)


def _groups(images: Sequence[Name], wanted: Sequence[str]) -> list[Group]:
    """The cases of a session: one; or one a run; or, where that does not part the images, one for each set of further entities."""
    fitting = [(contrast, name) for contrast in wanted for name in images if name.fits(contrast)]
    for keys in ((), ("run",), ("acq", "run"), tuple({key: None for _, name in fitting for key in name.entities})):
        shared = [key for key in keys if key not in ("sub", "ses", *SHOWN)]
        found: dict[str, dict[str, Name]] = defaultdict(dict)
        for contrast, name in fitting:
            found[name.written(tuple(shared))][contrast] = name
        if sum(map(len, found.values())) == len(fitting):
            return [Group(_case_name(key, group), group) for key, group in found.items()]
    raise UserError(f"{fitting[0][1].session} has files of one name in several folders or endings.", "Keep one of them.")


def _case_name(key: str, group: dict[str, Name]) -> str:
    """The session, with the run that all images of the case are of, and what else parts it from others."""
    first = next(iter(group.values()))
    runs = {name.written(("run",)) for name in group.values()}
    run = runs.pop() if len(runs) == 1 else ""
    return "_".join(filter(None, (first.session, key or run)))


def _without(groups: Sequence[Group], source: Path) -> list[Group]:
    """Subjects without any image of the chosen contrasts, which are reported."""
    subjects = {f"sub-{name.entities['sub']}" for group in groups for name in group.images.values()}
    return [Group(folder.name, {}) for folder in sorted(source.glob("sub-*")) if folder.is_dir() and folder.name not in subjects]


def _maps(groups: Sequence[Group], maps: Sequence[Name]) -> dict[str, list[Name]]:
    """Case -> the label maps that could be its own."""
    by_session: dict[str, list[Name]] = defaultdict(list)
    for name in maps:
        by_session[name.session].append(name)
    return {
        group.case: [name for name in by_session[next(iter(group.images.values())).session] if any(belongs(name, i) for i in group.images.values())]
        for group in groups
        if group.images
    }


def _visits(source: Path) -> dict[str, dict[str, Covariate]]:
    """`sub-01_ses-1` -> covariates of that session; dates are left out."""
    found: dict[str, dict[str, Covariate]] = {}
    for table in sorted(source.glob("sub-*/sub-*_sessions.tsv")):
        lines, titles = read_lines(table)
        if "session_id" not in titles:
            raise UserError(f"{table} has no column session_id.", "Add it, or take the file out.")
        names = covariate_names(table, titles, ("session_id", "acq_time"))
        for line in lines:
            session = f"ses-{line['session_id'].removeprefix('ses-')}"
            found[f"{table.parent.name}_{session}"] = {name: covariate(line[name]) for name in names}
    return found


def _case(group: Group, wanted: Sequence[str], label: Name | None, visits: dict[str, dict[str, Covariate]]) -> SourceCase:
    """One case; what lies in anat/ is MR, unless it is called ct."""
    images = list(group.images.values())
    kinds = {"CT" if name.suffix.lower() == "ct" else "MR" if name.path.parent.name == "anat" else "" for name in images}
    return SourceCase(
        group.case,
        group.case.split("_")[0],
        label=label.path if label else None,
        covariates=visits.get(images[0].session, {}) if images else {},
        modality=kinds.pop() if len(kinds) == 1 else "",
        **channels(wanted, {contrast: name.path for contrast, name in group.images.items()}),
    )
