"""The Medical Segmentation Decathlon and nnU-Net v2: `dataset.json`, `imagesTr/`, `labelsTr/`, and `imagesTs/` where it has labels.

Contrasts are files `<case>_0000`, `<case>_0001` ... in nnU-Net, and channels of one file in the Decathlon. `splits_final.json` is not
read: it knows cases, not patients.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from medldm.data.covariates import ENDINGS, case_name
from medldm.data.itk import read_image
from medldm.data.layouts.labels import label_names
from medldm.data.layouts.names import KNOWN, NO_FILES, channels, choose, image_files, modality_of, pair
from medldm.data.sources import BadCase, Source, SourceCase, Stored
from medldm.errors import UserError
from medldm.volume import BadVolume, Volume

#: Channel names of nnU-Net that say how to normalise, not what it is.
NORMALISATIONS = ("nonorm", "zscore", "rescale_to_0_1", "rgb_to_0_1", "image")

Files = dict[str, tuple[tuple[Path, ...], Path | None]]


@dataclass(frozen=True)
class Channels(Stored):
    """Some channels of one file.

    Args:
        path: the file.
        indices: which of them, in order, from 0.
    """

    path: Path
    indices: tuple[int, ...]

    @property
    def short(self) -> str:
        """The file, as folder and name."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    def read(self) -> Volume:
        """Voxels [C I J K] of these channels."""
        try:
            volume = read_image(self.path)
        except BadVolume as error:
            raise BadCase(self.short, error.status, error.reason) from error
        if max(self.indices) >= len(volume.data):
            raise BadCase(self.short, "channels", f"has {len(volume.data)} channels; dataset.json names more.")
        return volume.with_data(volume.data[list(self.indices)])


def find_challenge(source: Path, about: Mapping[str, Any], labels: Mapping[str, int] | None, contrasts: Sequence[str] | None) -> Source:
    """The cases of a folder with `imagesTr/`.

    Args:
        source: the folder.
        about: content of its `dataset.json`; empty where there is none.
        labels: structure name -> label value; else those of `dataset.json`.
        contrasts: as in `names.choose`.

    Raises:
        UserError: files are not as the layout has them, or `dataset.json` names files outside of the folder.
    """
    ending = about.get("file_ending", ".nii.gz")
    if ending not in ENDINGS:
        raise UserError(f"{source}/dataset.json: file_ending {ending!r} is not read.", "Convert the files to .nii.gz.")
    kind = "nnunet" if {"file_ending", "channel_names"} & set(about) else "msd"
    names = label_names(source, about.get("labels") if labels is None else labels)
    read = _numbered if kind == "nnunet" else image_files
    train, notes = _listed(source, about) if kind == "msd" and about.get("training") else (_paired(source, "Tr", read), [])
    if not train:
        raise UserError(f"{source / 'imagesTr'} holds {NO_FILES}.", KNOWN)
    test = _paired(source, "Ts", read)
    if any(label for _, label in train.values()):
        without = [case for case, (_, label) in test.items() if label is None]
        test = {case: files for case, files in test.items() if files[1]}
        notes += [f"{len(without)} images of imagesTs/ have no label maps and are left out."] if without else []
    if "ignore" in names.values():
        notes.append("The label 'ignore' is kept like a structure.")
    titles = _titles(about)
    chosen = _contrasts(source, titles, contrasts, len({*train, *test}))
    cases = [_case(case, *files, split, titles, chosen, kind) for split, group in (("", train), ("test", test)) for case, files in group.items()]
    if twice := sorted(train.keys() & test.keys()):
        raise UserError(f"{source}: case {twice[0]!r} is in imagesTr and in imagesTs.", "Keep one of them.")
    return Source(source, kind, tuple(sorted(cases, key=lambda case: case.case)), names, tuple(chosen), notes=tuple(notes))


def _listed(source: Path, about: Mapping[str, Any]) -> tuple[Files, list[str]]:
    """The cases that `dataset.json` lists as training, and how many files it does not list."""
    entries = about["training"]
    found: Files = {}
    for entry in entries if isinstance(entries, list) else [None]:
        entry = {"image": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str) or not isinstance(entry.get("label", ""), str):
            raise UserError(f"{source}/dataset.json: 'training' is no list of images with labels.", "Correct it, or take the key out.")
        image, label = (_inside(source, entry[key]) if entry.get(key) else None for key in ("image", "label"))
        case = case_name(PurePosixPath(entry["image"]).name)
        if case in found:
            raise UserError(f"{source}/dataset.json lists case {case!r} twice.", "Keep one of them.")
        found[case] = ((image,), label) if image else ((), label)
    extra = len(image_files(source / "imagesTr").keys() - found.keys())
    return found, [f"{extra} files of imagesTr/ are not listed in dataset.json and are left out."] if extra else []


def _inside(source: Path, relative: str) -> Path:
    path = source / relative
    if not path.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{source}/dataset.json: the path {relative!r} leaves the folder.", "Paths must be relative to it.")
    return path


def _paired(source: Path, part: str, read: Any) -> Files:
    """Case -> images and label map of `imagesTr` and `labelsTr`, or of `imagesTs` and `labelsTs`."""
    images = {case: files if isinstance(files, tuple) else (files,) for case, files in read(source / f"images{part}").items()}
    maps = image_files(source / f"labels{part}")
    paired, unclear = pair(maps, list(images), source / f"labels{part}")
    found: Files = {case: (files, paired.get(case)) for case, files in images.items()}
    return found | {name: ((), maps[name]) for name in unclear}


def _numbered(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Case -> its image files; `_0000`, `_0001` ... count the contrasts."""
    found: dict[str, list[Path]] = defaultdict(list)
    for name, path in image_files(folder).items():
        match = re.fullmatch(r"(.+)_(\d{4})", name)
        if not match or int(match[2]) != len(found[match[1]]):
            raise UserError(f"{path}: the contrasts of a case must be named <case>_0000, <case>_0001 ... without a gap.", "Rename or add the file.")
        found[match[1]].append(path)
    return {case: tuple(paths) for case, paths in found.items()}


def _titles(about: Mapping[str, Any]) -> list[str]:
    """Names of the contrasts in order: `contrasts` as `medldm export` writes it, else `channel_names` or `modality`."""
    given = about.get("contrasts") or about.get("channel_names") or about.get("modality") or {}
    values = list(given.values()) if isinstance(given, Mapping) else list(given) if isinstance(given, list) else []
    if isinstance(given, Mapping) and all(str(key).isdigit() for key in given):
        values = [given[key] for key in sorted(given, key=int)]
    return [str(value) for value in values]


def _contrasts(source: Path, titles: list[str], wanted: Sequence[str] | None, count: int) -> tuple[str, ...]:
    """The contrasts to read: all of them, in order, or those that were asked for."""
    if wanted is None:
        return () if {title.lower() for title in titles} <= set(NORMALISATIONS) else tuple(titles)
    if len({title.lower() for title in titles}) < len(titles):
        raise UserError(f"{source}/dataset.json names contrasts twice: {', '.join(titles)}.", "Give each its own name, or leave --contrasts away.")
    return choose(Counter(dict.fromkeys(titles, count)), wanted, source)


def _case(case: str, images: tuple[Path, ...], label: Path | None, split: str, titles: Sequence[str], chosen: Sequence[str], kind: str) -> SourceCase:
    """A case with the chosen contrasts; the files stay as they are where all are wanted in their order."""
    known: dict[str, Any] = {"images": images}
    wanted = [] if list(chosen) == list(titles) else [titles.index(name) for name in chosen]
    if not images:
        known = {"images": (), "status": "no_image", "reason": "is a label map without an image."}
    elif wanted and kind == "msd":
        known = {"images": (Channels(images[0], tuple(wanted)),)}
    elif wanted:
        known = channels(chosen, dict(zip(titles, images, strict=False)))
    return SourceCase(case, case, label=label, split=split, modality=modality_of(chosen), **known)
