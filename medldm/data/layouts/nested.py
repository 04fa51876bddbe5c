"""A folder for each patient or scan: `p01/t1.nii.gz`, `p01/ses-2/seg.nii.gz`, `BraTS-0001/BraTS-0001_t1.nii.gz`."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from medldm.data.layouts.names import BY_TABLE, CONTRASTS, is_label
from medldm.data.layouts.parts import Found, Parts, one_folder
from medldm.errors import UserError

Tree = Mapping[tuple[str, ...], Mapping[str, Path]]

#: A folder below a patient's that stands for one of several visits.
VISIT = re.compile(
    r"(ses|session|visit|tp|time|timepoint|scan|study|exam|baseline|bl|followup|fu|pre|post|month|week|year|day|[vmywd])[-_ ]?\d*|[\d\-]{8,10}"
)
#: Folders with more scans than this on average are collections, not patients.
SCANS_PER_PATIENT = 4


def nested(source: Path, files: Tree) -> Found:
    """The cases of a tree of folders.

    A folder is one case where all its files are called after it, after a contrast or a label map, or as files of other folders are;
    their names are then contrasts. In other folders each image is a case. Cases are called by their path.

    Args:
        source: the folder.
        files: what `names.tree` found in it.

    Raises:
        UserError: a folder is called like label maps, two cases get one name, or a case has two label maps.
    """
    if strange := sorted({name for folder in files for name in folder if is_label(name)}):
        listed = ", ".join(sorted("/".join(folder) or "." for folder in files)[:6])
        raise UserError(f"{source}: which images the label maps in {strange[0]}/ belong to cannot be told; the folders are {listed}.", BY_TABLE)
    shared = Counter(kind for folder, names in files.items() for kind in {_kind(folder, name) for name in names})
    parts: dict[str, Parts] = {}
    collections = _are_collections(files)
    whole = 0
    for folder, names in files.items():
        one_case = bool(folder) and all(_tells(folder, name, shared) for name in names)
        whole += one_case
        patient = "" if not folder or (collections and not one_case) else _patient(folder)
        for case, part in _cases(source, folder, names, one_case).items():
            if case in parts:
                raise UserError(f"{source}: two cases would be called {case!r}.", "Rename a folder.")
            parts[case] = part
            part.patient = patient
    what = "Each folder is a case" if whole == len(files) else "Each image is a case" if not whole else f"{whole} folders are cases"
    patients = {part.patient or case for case, part in parts.items() if part.images}
    told = f"by their folders they are of {len(patients)} patients."
    untold = "no folder tells the patient, so that each counts as a patient of its own unless a table says more."
    return Found(parts, f"{what}; {told if any(part.patient for part in parts.values()) else untold}")


def _cases(source: Path, folder: tuple[str, ...], names: Mapping[str, Path], one_case: bool) -> dict[str, Parts]:
    """Case -> its files, for one folder."""
    if not one_case:
        return {"_".join([*folder, name]): part for name, part in one_folder(source.joinpath(*folder), names).parts.items()}
    part = Parts()
    for name, path in names.items():
        kind = _kind(folder, name)
        if not is_label(kind):
            part.images[kind or "image"] = path
        elif part.label:
            raise UserError(f"{'/'.join(folder)} holds several label maps: {part.label.name} and {path.name}.", f"Keep one of them. {BY_TABLE}")
        else:
            part.label = path
    return {"_".join(folder): part}


def _kind(folder: tuple[str, ...], name: str) -> str:
    """What a file's name says beside the names of its folders: `t1` for `p01/p01_t1`."""
    for head in ("_".join(folder), *reversed(folder)):
        if head and name.lower() == head.lower():
            return ""
        if head and re.match(rf"{re.escape(head)}[_.\- ]", name, re.IGNORECASE):
            return name[len(head) + 1 :]
    return name


def _tells(folder: tuple[str, ...], name: str, shared: Mapping[str, int]) -> bool:
    """True where a file's name says what it is of its folder's case."""
    kind = _kind(folder, name)
    return kind != name or kind.lower() in CONTRASTS or is_label(kind) or shared[kind] > 1


def _patient(folder: tuple[str, ...]) -> str:
    """The folder's path without the visits at its end."""
    count = len(folder)
    while count > 1 and VISIT.fullmatch(folder[count - 1].lower()):
        count -= 1
    return "_".join(folder[:count])


def _are_collections(files: Tree) -> bool:
    """True where folders hold so many scans that they cannot be those of one patient."""
    patients = {_patient(folder) for folder in files if folder}
    return len(patients) < 2 or sum(len(names) for names in files.values()) > SCANS_PER_PATIENT * len(patients)
