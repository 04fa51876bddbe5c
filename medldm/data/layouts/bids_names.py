"""File names of BIDS: `sub-01_ses-1_run-2_T1w` is entities and a suffix."""

import re
from dataclasses import dataclass
from pathlib import Path

from medldm.data.covariates import case_name
from medldm.data.layouts.names import is_label

#: Entities that change what an image shows.
SHOWN = ("ce", "trc", "rec", "echo", "flip", "inv", "mt", "part", "hemi", "space", "res", "den", "desc")
#: Folders of series over time and of what is no image.
NO_VOLUMES = ("func", "dwi", "fmap", "perf", "pet", "meg", "eeg", "ieeg", "nirs", "motion", "mrs", "beh", "figures", "xfm")
#: Entities that say what a label map shows, rather than of which image it is.
MAPPED = ("label", "desc", "atlas", "seg", "res", "den", "hemi")
LABEL_SUFFIXES = ("dseg", "seg", "mask")
OTHER = re.compile("_(probseg|defacemask|warp|xfm)[.]")
OTHER_SUFFIXES = ("bold", "sbref", "dwi", "epi", "asl", "probseg", "defacemask", "warp", "xfm")


@dataclass(frozen=True)
class Name:
    """A file and what its name says.

    Args:
        path: the file.
        entities: key -> value, in the name's order.
        suffix: the last word, such as "T1w".
        pipeline: the folder of `derivatives/` that it lies in, or "".
        of: the suffix of the image that a label map names, as in `sub-01_T1w_dseg`, or "".
    """

    path: Path
    entities: dict[str, str]
    suffix: str
    pipeline: str = ""
    of: str = ""

    @property
    def session(self) -> str:
        """`sub-01_ses-1`, or `sub-01` where there are no sessions."""
        return "_".join(f"{key}-{self.entities[key]}" for key in ("sub", "ses") if key in self.entities)

    @property
    def contrast(self) -> str:
        """The suffix with the entities that change what the image shows, such as `ce-gadolinium_T1w`."""
        return self.written(SHOWN, self.suffix)

    @property
    def kind(self) -> str:
        """What a label map shows and who made it, such as `fmriprep/desc-aseg_dseg`."""
        return "/".join(part for part in (self.pipeline, self.written(MAPPED, self.suffix)) if part)

    @property
    def is_label(self) -> bool:
        """True for a label map."""
        return self.suffix in LABEL_SUFFIXES

    def written(self, keys: tuple[str, ...], *more: str) -> str:
        """Those of its entities, as in the name, and further words."""
        return "_".join([*(f"{key}-{value}" for key, value in self.entities.items() if key in keys), *more])

    def fits(self, contrast: str) -> bool:
        """True for the contrast `T1w`, and for `acq-x_T1w` if that is in the name."""
        *asked, suffix = contrast.lower().split("_")
        own = {f"{key}-{value}".lower() for key, value in self.entities.items()}
        shown = {f"{key}-{value}".lower() for key, value in self.entities.items() if key in SHOWN}
        return suffix == self.suffix.lower() and shown <= set(asked) <= own


def parse(path: Path, pipeline: str = "") -> Name | None:
    """What a file's name says, or None where it is not named as in BIDS or holds no volume."""
    *parts, suffix = case_name(path.name).split("_")
    of = ""
    if manual := re.fullmatch(r"([a-zA-Z]+)-manual", suffix):  # as raters of lesions and of the spinal cord write
        suffix = "seg" if manual[1] == "seg" else "mask"
        parts += [f"label-{manual[1]}"] if suffix == "mask" else []
    if suffix in LABEL_SUFFIXES and len(bare := [part for part in parts if "-" not in part]) == 1:
        (of,) = bare
        parts.remove(of)
    pairs = [re.fullmatch(r"([a-zA-Z]+)-([a-zA-Z0-9+]+)", part) for part in parts]
    if not pairs or not all(pairs) or pairs[0][1] != "sub" or "-" in suffix:
        return None
    if path.parent.name in NO_VOLUMES or suffix in OTHER_SUFFIXES:
        return None
    return Name(path, {pair[1]: pair[2] for pair in pairs if pair}, suffix, pipeline, of)


def strange_maps(root: Path) -> int:
    """Files below the subjects' folders that are called like label maps and not as BIDS calls them."""
    paths = (path for subject in (*root.glob("sub-*"), *root.glob("derivatives/*/sub-*")) for path in subject.rglob("*.nii*"))
    odd = [path for path in paths if path.parent.name not in NO_VOLUMES and not OTHER.search(path.name) and parse(path) is None]
    return sum(is_label(case_name(path.name)) for path in odd)


def files(root: Path, pipeline: str = "") -> list[Name]:
    """The volumes of the subjects' folders below a folder, sorted."""
    paths = [path for subject in sorted(root.glob("sub-*")) if subject.is_dir() for path in sorted(subject.rglob("*.nii*"))]
    seen = [parse(path, pipeline) for path in paths if path.name.lower().endswith((".nii", ".nii.gz")) and not path.name.startswith(".")]
    return [name for name in seen if name]
