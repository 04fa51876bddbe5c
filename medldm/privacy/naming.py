"""New names of NIfTI files: pseudonyms, and the words of the old names that say what an image is, not whose."""

import re
from collections.abc import Callable
from pathlib import PurePosixPath

from medldm.privacy.nifti import suffix_of
from medldm.privacy.vocabulary import WORDS

FOLDERS = {"anat", "func", "dwi", "fmap", "perf", "pet", "images", "labels", "imagestr", "imagests", "labelstr", "labelsts", "derivatives"}
SUFFIXES = {
    "t1w", "t2w", "t2starw", "flair", "pd", "pdw", "bold", "dwi", "epi", "phasediff", "magnitude", "magnitude1", "magnitude2", "fieldmap", "asl",
    "m0scan", "inplanet1", "inplanet2", "unit1", "angio", "t1map", "t2map", "sbref", "dseg", "probseg", "mask", "label", "labels", "seg",
}  # fmt: skip
ENTITIES = {"run", "echo", "inv", "mt", "part", "dir", "flip"}  # of BIDS, with values that are numbers or one of the next
VALUES = {"on", "off", "mag", "phase", "real", "imag", "ap", "pa", "lr", "rl", "is", "si"}


def patient_of(relative: PurePosixPath) -> str:
    """What tells patients apart among names: the label after "sub-", else the name without what says which image it is, else the folder."""
    for part in relative.parts:
        if match := re.match(r"sub-([A-Za-z0-9]+)", part):
            return match[1]
    words = _stem(relative.name).split("_")
    while words and (words[-1].casefold() in SUFFIXES | WORDS or re.fullmatch(r"0\d{3}", words[-1])):
        words.pop()
    folders = [part for part in relative.parts[:-1] if part.casefold() not in FOLDERS]
    return "_".join(words) or "/".join(folders) or _stem(relative.name)


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
    stem = _stem(relative.name).split("_")
    words = [f"sub-{patient}" if is_bids else patient, *([f"ses-{study(session)}"] if session else [])]
    for word in stem:
        entity, _, value = word.partition("-")
        if (entity in ENTITIES and (value.casefold() in VALUES or (value.isdigit() and len(value) <= 2))) or word.casefold() in SUFFIXES | WORDS:
            words.append(word)
    if re.fullmatch(r"0\d{3}", stem[-1]) and len(stem) > 1:
        words.append(stem[-1])  # channel of nnU-Net
    return "/".join([*folders, "_".join(words)])


def _stem(name: str) -> str:
    return name[: len(name) - len(suffix_of(name))]
