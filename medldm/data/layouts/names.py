"""What names of files and folders say: image file or not, image or label map, which contrast, and what belongs together."""

import os
import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medldm.data.covariates import ENDINGS, SEPARATORS, case_name
from medldm.data.sources import Stored
from medldm.errors import UserError

KNOWN = "Known layouts: DICOM, BIDS, imagesTr/ + labelsTr/ (MSD, nnU-Net), images/ + labels/, a folder of image files, a CSV that names them."
NO_FILES = f"no image file ({', '.join(ENDINGS)})"
BY_TABLE = "Say what belongs together in a CSV with the columns case, image and label, and give it as --source."

#: A word of a name that marks a label map.
LABEL_WORD = re.compile(r"\w*segs?|segment\w*|label\w*|\w*masks?|lesions?|annot\w*|rois?|gts?|groundtruth|parcellations?", re.IGNORECASE)
#: Names of contrasts in use, and the modality they imply.
CONTRASTS = {
    **dict.fromkeys(("ct", "cta", "cbct", "ctce"), "CT"),
    **dict.fromkeys(("t1", "t1w", "t1c", "t1ce", "t1gd", "t1n", "t1post", "t2", "t2w", "t2f", "t2s", "t2star", "flair", "pd", "pdw"), "MR"),
    **dict.fromkeys(("adc", "dwi", "swi", "mr", "mri", "mra", "tof", "inv1", "inv2", "uni"), "MR"),
    **dict.fromkeys(("pet", "image", "img", "scan", "volume"), ""),
}


def tree(root: Path) -> dict[tuple[str, ...], dict[str, Path]]:
    """The image files below a folder, sorted: folder's path relative to it -> name without ending -> file.

    Hidden files and folders, such as macOS's `._x.nii.gz`, are passed over.

    Raises:
        UserError: a folder holds both x.nii and x.mha.
    """
    found: dict[tuple[str, ...], dict[str, Path]] = {}
    for folder, folders, _ in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if files := image_files(Path(folder)):
            found[Path(folder).relative_to(root).parts] = files
    return dict(sorted(found.items()))


def image_files(folder: Path | None) -> dict[str, Path]:
    """Name without ending -> image file of a folder; nothing where there is no such folder.

    Raises:
        UserError: the folder holds both x.nii and x.mha.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder and folder.is_dir() else []:
        name = case_name(path.name)
        if path.name.startswith(".") or name in (path.name, "") or (path.exists() and not path.is_file()):
            continue  # reading a pipe would wait for ever; a link to nothing is kept, to be reported as missing
        if name in found:
            raise UserError(f"{folder} holds both {found[name].name} and {path.name}.", "Keep one of them.")
        found[name] = path
    return found


def words(name: str) -> list[str]:
    """The parts of a name between separators."""
    return [word for word in re.split(rf"{SEPARATORS}+| +", name) if word]


def is_label(name: str) -> bool:
    """True where a word of the name says that this is a label map, or a folder of them."""
    return any(LABEL_WORD.fullmatch(word) for word in words(name))


def continued(name: str, cases: Container[str]) -> str | None:
    """The case of that name, or the longest that the name continues after a separator (`p1_seg` is of `p1`)."""
    heads = [name[: match.start()] for match in re.finditer(SEPARATORS, name)]
    return next((head for head in [name, *reversed(heads)] if head in cases), None)


def by_first_word(images: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """First word -> image -> its words; all images under "". Finding the owners of ten thousand label maps then takes a second."""
    index: dict[str, dict[str, list[str]]] = {"": {image: words(image) for image in images}}
    for image, parts in index[""].items():
        if parts:
            index.setdefault(parts[0], {})[image] = parts
    return index


def owners(label: str, index: Mapping[str, Mapping[str, list[str]]]) -> list[str]:
    """The images that a label map could be of, judged by its name alone; one where that is certain.

    Either it continues the image's name, or its name without the label word begins that of the image
    (`a_seg_mr` is of `a_mr_2`), or what stands before the label word does.

    Args:
        label: name of the label map.
        index: the images, from `by_first_word`.
    """
    parts = words(label)
    if (owner := continued(label, index.get((parts or [""])[0], {}))) is not None:
        return [owner]
    start = next((n for n, word in enumerate(parts) if LABEL_WORD.fullmatch(word)), len(parts))
    rest = [word for word in parts if not LABEL_WORD.fullmatch(word)]
    for stem in (rest, parts[:start]) if parts[:start] or not rest else (rest,):
        images = index.get((stem or [""])[0], {})
        longer = [image for image, its in images.items() if its[: len(stem)] == stem]
        if longer:
            return [image for image in longer if len(images[image]) == len(stem)] or longer
    return []


def pair(maps: Mapping[str, Path], images: Sequence[str], where: Path) -> tuple[dict[str, Path], dict[str, list[str]]]:
    """Give each label map to its image.

    Returns:
        Image -> label map, and for label maps that belong to no single image the images that they could be of.

    Raises:
        UserError: an image has two label maps.
    """
    found: dict[str, Path] = {}
    unclear: dict[str, list[str]] = {}
    index = by_first_word(images)
    for name, path in maps.items():
        candidates = owners(name, index)
        if len(candidates) != 1:
            unclear[name] = candidates
            continue
        (owner,) = candidates
        if owner in found:
            raise UserError(f"{found[owner].name} and {path.name} in {where} are both label maps of case {owner!r}.", f"Keep one of them. {BY_TABLE}")
        found[owner] = path
    return found, unclear


def choose(counts: Counter[str], wanted: Sequence[str] | None, where: Path) -> tuple[str, ...]:
    """The contrasts that become channels.

    Args:
        counts: contrast -> cases that have it.
        wanted: those that the user asks for, in order; case does not matter.
        where: the source, for messages.

    Raises:
        UserError: none is asked for and there are several, or one that is asked for does not exist.
    """
    listed = ", ".join(f"{name} ({count})" for name, count in counts.most_common(12)) + (", ..." if len(counts) > 12 else "")
    if wanted is None and len(counts) <= 1:
        return tuple(counts)
    example = ", ".join(name for name, _ in counts.most_common(2))
    fix = f"Choose one, or several as channels: --contrasts '[{example}]'"
    if not wanted:
        raise UserError(f"{where} holds several contrasts: {listed}.", fix)
    names = {name.lower(): name for name in counts}
    if strange := [name for name in wanted if name.lower() not in names]:
        raise UserError(f"{where} has no contrast {strange[0]!r}; it holds {listed or 'none'}.", fix if counts else "Leave --contrasts away.")
    if len({name.lower() for name in wanted}) < len(wanted):
        raise UserError(f"--contrasts names one twice: {', '.join(wanted)}.", "Name each once.")
    return tuple(names[name.lower()] for name in wanted)


def channels(contrasts: Sequence[str], images: Mapping[str, Path | Stored]) -> dict[str, Any]:
    """`images`, and where one is lacking `status` and `reason`, of a SourceCase.

    Args:
        contrasts: what becomes its channels.
        images: contrast -> its file.
    """
    found = tuple(images[name] for name in contrasts if name in images)
    if len(found) == len(contrasts):
        return {"images": found}
    lacking = " and no ".join(name for name in contrasts if name not in images)
    return {"images": found, "status": "channels" if found else "no_image", "reason": f"has no {lacking} image."}


def modality_of(contrasts: Iterable[str]) -> str:
    """ "CT" or "MR" where the names of all contrasts imply it, else ""."""
    found = {CONTRASTS.get(name.lower(), "") for name in contrasts}
    return found.pop() if len(found) == 1 else ""
