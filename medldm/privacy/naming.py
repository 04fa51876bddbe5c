"""New names of NIfTI files: pseudonyms, and the words of the old names that say what an image is, not whose."""

import re
from collections.abc import Callable
from pathlib import PurePosixPath

from medldm.privacy.nifti import suffix_of
from medldm.privacy.vocabulary import WORDS

FOLDERS = {
    "anat", "func", "dwi", "fmap", "perf", "pet", "images", "labels", "imagestr", "imagests", "labelstr", "labelsts", "derivatives", "image", "img",
    "imgs", "masks", "segs", "segmentation", "segmentations", "scans", "nifti", "data", "raw", "train", "training", "val", "validation", "testing",
}  # fmt: skip
SUFFIXES = {
    "t1w", "t2w", "t2starw", "flair", "pd", "pdw", "bold", "dwi", "epi", "phasediff", "magnitude", "magnitude1", "magnitude2", "fieldmap", "asl",
    "m0scan", "inplanet1", "inplanet2", "unit1", "angio", "t1map", "t2map", "sbref", "dseg", "probseg", "mask", "label", "labels", "seg",
    "t1", "t2", "swi", "adc", "mra", "ct", "pet",
}  # fmt: skip
#: Words of images that are surnames too; in new names they do not stand.
SURNAMES = {
    "bravo", "cow", "cross", "early", "first", "foot", "hand", "haste", "head", "high", "long", "low", "plain", "post", "rapid", "rare", "ray",
    "rest", "short", "smart", "stand", "star", "swan", "true",
}  # fmt: skip
ENTITIES = {"run", "echo", "inv", "mt", "part", "dir", "flip"}  # of BIDS, with values that are numbers or one of the next
VALUES = {"on", "off", "mag", "phase", "real", "imag", "ap", "pa", "lr", "rl", "is", "si"}


def patient_of(relative: PurePosixPath) -> str:
    """What tells patients apart among names: the label after "sub-", else the folder and the name without what says which image it is.

    Two folders with files of one name are two patients: to part the files of a patient does less harm than to take two for one.
    """
    for part in relative.parts:
        if match := re.match(r"sub-([A-Za-z0-9]+)", part):
            return match[1]
    whose, _ = _parted(relative)
    return "/".join(filter(None, (_folders(relative), whose))) or _stem(relative.name)


def _folders(relative: PurePosixPath) -> str:
    """The folders above a file that may be somebody's: not those that say what lies in them."""
    said = FOLDERS | SUFFIXES | WORDS
    return "/".join(part for part in relative.parts[:-1] if not said.issuperset(re.split(r"[\W_]+", part.casefold())))


def _parted(relative: PurePosixPath) -> tuple[str, list[str]]:
    """The part of a name that says whose image it is, and the words behind it that say which; a channel of nnU-Net is among them.

    CASE_0001 is the second channel of CASE in nnU-Net's folders, or where CASE has a number; patient_0001 is another patient than patient_0002.
    """
    *case, last = words = _stem(relative.name).split("_")
    numbered = any(c.isdigit() for c in "".join(case)) or not {"imagestr", "imagests"}.isdisjoint(part.casefold() for part in relative.parts)
    channel = [words.pop()] if re.fullmatch(r"000\d", last) and numbered and not WORDS.issuperset(map(str.casefold, case)) else []
    place = len(words)
    while place and words[place - 1].casefold() in SUFFIXES | WORDS:
        place -= 1
    return "_".join(words[:place]), [*words[place:], *channel]


def session_of(relative: PurePosixPath) -> str:
    """The label after "ses-", or ""."""
    return next((match[1] for part in relative.parts if (match := re.search(r"(?:^|_)ses-([A-Za-z0-9]+)", part))), "")


def renamed(relative: PurePosixPath, patient: str, study: Callable[[str], str]) -> str:
    """The new path of a file: in BIDS if the old one was, else with the pseudonym as the case.

    Args:
        relative: path within the source.
        patient: pseudonym.
        study: gives the pseudonym of a session.
    """
    is_bids = any(part.startswith("sub-") for part in relative.parts)
    session = session_of(relative)
    folders = [f"sub-{patient}"] if is_bids else []
    folders += [f"ses-{study(session)}"] if is_bids and session else []
    folders += [part for part in relative.parts[:-1] if part.casefold() in FOLDERS]
    words = [f"sub-{patient}" if is_bids else patient, *([f"ses-{study(session)}"] if session else [])]
    whose, which = _parted(relative)
    if not (whose or is_bids or _folders(relative)):  # all of the name is words, and it may be somebody's
        which = [word for word in which if word.casefold() in SUFFIXES]
    which = [word for word in which if word.casefold() not in SURNAMES]
    for word in _stem(relative.name).split("_") if is_bids else which:
        entity, _, value = word.partition("-")
        if (entity in ENTITIES and (value.casefold() in VALUES or (value.isdigit() and len(value) <= 2))) or word in which:
            words.append(word)
    return "/".join([*folders, "_".join(words)])


def _stem(name: str) -> str:
    return name[: len(name) - len(suffix_of(name))]
