"""New names of NIfTI files: pseudonyms, and the words of the old names that say what an image is, not whose."""

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from medldm.privacy.nifti import suffix_of

FOLDERS = {
    "anat", "func", "dwi", "fmap", "perf", "pet", "images", "labels", "imagestr", "imagests", "labelstr", "labelsts", "derivatives", "image", "label",
    "img", "imgs", "mask", "masks", "seg", "segs", "segmentation", "segmentations", "gt",
}  # fmt: skip
SUFFIXES = {
    "t1w", "t2w", "t2starw", "flair", "pd", "pdw", "bold", "dwi", "epi", "phasediff", "magnitude", "magnitude1", "magnitude2", "fieldmap", "asl",
    "m0scan", "inplanet1", "inplanet2", "unit1", "angio", "t1map", "t2map", "sbref", "dseg", "probseg", "mask", "label", "labels", "seg",
}  # fmt: skip
#: Words of names that say which image of a patient it is; none that is a surname anywhere.
IMAGES = SUFFIXES - {"bold"} | {
    "t1", "t2", "t1n", "t1c", "t1ce", "t1gd", "t2f", "mprage", "mpr", "swi", "adc", "mra", "mri", "ct", "cta", "pet", "image", "images", "img",
    "imaging", "volume", "vol", "brain", "masks", "msk", "segmentation", "segmentations", "gt", "4d",
}  # fmt: skip
ENTITIES = {"run", "echo", "inv", "mt", "part", "dir", "flip"}  # of BIDS, with values that are numbers or one of the next
VALUES = {"on", "off", "mag", "phase", "real", "imag", "ap", "pa", "lr", "rl", "is", "si"}


def patient_of(relative: PurePosixPath, root: Path | None = None) -> str:
    """What tells patients apart among names: the label after "sub-", else the folder and the name without what says which image it is.

    Two folders with files of one name are two patients: to part the files of a patient does less harm than to take two for one.

    Args:
        relative: path within the source.
        root: of the source, whose other files tell channels of nnU-Net from numbers of patients.
    """
    for part in relative.parts[:-1]:
        if part.startswith("sub-"):
            return part.removeprefix("sub-")
    if relative.name.startswith("sub-"):
        words = _stem(relative.name).split("_")
        others = (place for place, word in enumerate(words) if place and ("-" in word or _says_which(word)))
        return "_".join(words[: next(others, len(words))]).removeprefix("sub-")
    whose, _ = _parted(relative, root)
    return "/".join(filter(None, (_folders(relative), whose))) or _stem(relative.name)


def _folders(relative: PurePosixPath) -> str:
    """The folders above a file that may be somebody's: not those that say what lies in them."""
    return "/".join(part for part in relative.parts[:-1] if part.casefold() not in FOLDERS | IMAGES)


def _says_which(word: str) -> bool:
    return word.casefold() in IMAGES or bool(re.fullmatch(r"frame\d+", word.casefold()))


def _parted(relative: PurePosixPath, root: Path | None) -> tuple[str, list[str]]:
    """The part of a name that says whose image it is, and the words before and behind it that say which."""
    parts = re.split(r"([_-])", _stem(relative.name))
    channel = [parts[-1]] if _is_channel(relative, root) else []
    parts = parts[:-2] if channel else parts
    words, between = parts[::2], parts[1::2]
    if glued := re.fullmatch(r"(img|image|label|volume|seg|mask)(\d+)", "".join(parts).casefold()):
        return glued[2], []
    first, last = 0, len(words)
    while last and _says_which(words[last - 1]):
        last -= 1
    while first < last and _says_which(words[first]):
        first += 1
    whose = "".join(text for pair in zip(words[first:last], [*between[first : last - 1], ""], strict=True) for text in pair) if first < last else ""
    return whose, [*words[:first], *words[last:], *channel]


def _is_channel(relative: PurePosixPath, root: Path | None) -> bool:
    """Whether a name ends with a channel of nnU-Net, as CASE_0001 where CASE_0000 lies beside it."""
    match = re.fullmatch(r"(.+)_(000\d)", _stem(relative.name))
    if not match or {"imagestr", "imagests"}.isdisjoint(part.casefold() for part in relative.parts[:-1]):
        return False
    beside = (root / relative.parent / f"{match[1]}_0000{suffix}" for suffix in (".nii.gz", ".nii")) if root else ()
    return match[2] == "0000" or any(path.is_file() for path in beside)


def session_of(relative: PurePosixPath) -> str:
    """The label after "ses-", or ""."""
    return next((match[1] for part in relative.parts if (match := re.search(r"(?:^|_)ses-([A-Za-z0-9]+)", part))), "")


def renamed(relative: PurePosixPath, patient: str, study: Callable[[str], str], root: Path | None = None) -> str:
    """The new path of a file: in BIDS if the old one was, else with the pseudonym as the case.

    Args:
        relative: path within the source.
        patient: pseudonym.
        study: gives the pseudonym of a session.
        root: see `patient_of`.
    """
    is_bids = any(part.startswith("sub-") for part in relative.parts)
    session = session_of(relative)
    folders = [f"sub-{patient}"] if is_bids else []
    folders += [f"ses-{study(session)}"] if is_bids and session else []
    folders += [part for part in relative.parts[:-1] if part.casefold() in FOLDERS]
    words = [f"sub-{patient}" if is_bids else patient, *([f"ses-{study(session)}"] if session else [])]
    if not is_bids:
        return "/".join([*folders, "_".join([*words, *_parted(relative, root)[1]])])
    for word in _stem(relative.name).split("_"):
        entity, _, value = word.partition("-")
        if (entity in ENTITIES and (value.casefold() in VALUES or (value.isdigit() and len(value) <= 2))) or word.casefold() in SUFFIXES | IMAGES:
            words.append(word)
    return "/".join([*folders, "_".join(words)])


def _stem(name: str) -> str:
    return name[: len(name) - len(suffix_of(name))]
