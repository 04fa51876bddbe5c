"""Folders side by side: images/ and labels/, or one folder for each contrast and one for the label maps."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from medldm.data.layouts.names import BY_TABLE, CONTRASTS, KNOWN, NO_FILES, image_files, is_label, pair, words
from medldm.data.layouts.parts import Found, Parts, no_image
from medldm.errors import UserError

Tree = Mapping[tuple[str, ...], Mapping[str, Path]]


def images_and_labels(source: Path) -> Found:
    """The cases of `images/`, with label maps of `labels/` or of the one other folder that is called like label maps.

    Raises:
        UserError: images/ is empty, several folders are called like label maps, or an image has two label maps.
    """
    images = image_files(source / "images")
    if not images:
        raise UserError(f"{source / 'images'} holds {NO_FILES}.", KNOWN)
    others = [path.name for path in sorted(source.iterdir()) if path.is_dir() and is_label(path.name)]
    folder = source / ("labels" if "labels" in others else _only(others, source))
    parts = {name: Parts(images={"": path}) for name, path in images.items()}
    _add_labels(parts, image_files(folder) if others else {}, folder)
    return Found(parts, f"images: images/, label maps: {folder.name}/." if others else "images: images/, no label maps.")


def side_by_side(files: Tree, contrasts: Sequence[str] | None) -> tuple[list[str], list[str]] | None:
    """The folders of images and those of label maps, where names say that folders stand for contrasts and not for patients.

    Args:
        files: what `names.tree` found.
        contrasts: those that were asked for; folders of these names are contrasts.
    """
    if len(files) < 2 or any(len(folder) != 1 for folder in files):
        return None
    names = [folder[0] for folder in files]
    images = [name for name in names if not is_label(name)]
    asked = bool(contrasts) and {name.lower() for name in contrasts or ()} <= {name.lower() for name in images}
    known = all(any(word.lower() in CONTRASTS for word in words(name)) for name in images)
    if not images or not (asked or known or len(images) < len(names)):
        return None
    return images, [name for name in names if name not in images]


def contrast_folders(source: Path, files: Tree, images: Sequence[str], maps: Sequence[str]) -> Found:
    """The cases of folders that each hold one contrast, or the label maps.

    Args:
        source: the folder.
        files: what `names.tree` found in it.
        images: folders of images; their names become those of the contrasts.
        maps: folders of label maps, at most one.

    Raises:
        UserError: there are several folders of label maps, names have nothing in common, or a case has two label maps.
    """
    folder = _only(maps, source)
    stems = _stems({name: files[name,] for name in images})
    parts: dict[str, Parts] = {}
    for name in images:
        for case, path in stems[name].items():
            parts.setdefault(case, Parts()).images[name] = path
    if len(images) > 1 and max(len(part.images) for part in parts.values()) < 2:
        raise UserError(f"{source}: no name in {', '.join(f'{name}/' for name in images)} belongs to one in another of these folders.", BY_TABLE)
    _add_labels(parts, files[folder,] if maps else {}, source / folder)
    listed = ", ".join(f"{name}/" for name in images)
    return Found(parts, f"images: {listed}, label maps: {folder}/." if maps else f"images: {listed}, no label maps.")


def _only(folders: Sequence[str], source: Path) -> str:
    if len(folders) > 1:
        raise UserError(f"{source} has several folders of label maps: {', '.join(folders)}.", f"Keep one, or: {BY_TABLE}")
    return folders[0] if folders else ""


def _add_labels(parts: dict[str, Parts], maps: Mapping[str, Path], where: Path) -> None:
    """Give each label map to its case, by name; where no name fits, by what is left of names without what all have in common."""
    paired, unclear = pair(maps, list(parts), where)
    cores = {core: case for case, core in _cores(parts).items()}
    by_core = {cores[core]: maps[name] for name, core in _cores(maps).items() if core in cores}
    if not paired and len(by_core) == len(maps):
        paired, unclear = by_core, {}
    for case, path in paired.items():
        parts[case].label = path
    for name, candidates in unclear.items():
        parts[name] = Parts(label=maps[name], reason=no_image(candidates))


def _stems(folders: Mapping[str, Mapping[str, Path]]) -> dict[str, dict[str, Path]]:
    """Folder -> case -> file. Names are those of cases where folders share some; else what ends, or surrounds, all names of a folder goes."""
    if len(folders) == 1 or _overlap(folders.values()):
        return {folder: dict(files) for folder, files in folders.items()}
    for shorten in (_without_ending, _cores):
        stems = {folder: {stem: files[name] for name, stem in shorten(files, folder).items()} for folder, files in folders.items()}
        if _overlap(stems.values()) and all(len(stems[folder]) == len(files) for folder, files in folders.items()):
            return stems
    return {folder: dict(files) for folder, files in folders.items()}


def _overlap(groups: Iterable[Iterable[str]]) -> bool:
    names = [name for group in groups for name in group]
    return len(set(names)) < len(names)


def _without_ending(names: Iterable[str], folder: str = "") -> dict[str, str]:
    """Name -> the name without the folder's at its end, or without the last words that all have in common."""
    names = list(names)
    if all(words(name)[-1].lower() == folder.lower() and len(words(name)) > 1 for name in names):
        return {name: name[: -len(folder) - 1] for name in names}
    count = _common([words(name)[:0:-1] for name in names])
    return {name: _cut(name, 0, count) for name in names}


def _cores(names: Iterable[str], folder: str = "") -> dict[str, str]:
    """Name -> the name without the first and last words that all have in common; unchanged for a single name."""
    names = list(names)
    parts = [words(name) for name in names]
    first = _common([part[:-1] for part in parts])
    last = _common([part[first + 1 :][::-1] for part in parts])
    return {name: _cut(name, first, last) for name in names}


def _cut(name: str, first: int, last: int) -> str:
    """A name without so many of its first and last words, with the separators between the others."""
    spans = [match.span() for match in re.finditer(r"[^_.\- ]+", name)]
    return name[spans[first][0] : spans[len(spans) - 1 - last][1]]


def _common(lists: Sequence[Sequence[str]]) -> int:
    """How many first entries all lists have in common; none where there is but one list."""
    columns = list(zip(*lists, strict=False)) if len(lists) > 1 else []
    return next((n for n, column in enumerate(columns) if len(set(column)) > 1), len(columns))
