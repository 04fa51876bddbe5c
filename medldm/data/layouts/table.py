"""A CSV file that names the images: columns `case` (or the first), `image` or one `image_<contrast>` a channel, `label`, `patient`, `split`.

All other columns are covariates. Paths are relative to one folder and never leave it.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from medldm.cohort import covariate
from medldm.data.covariates import ENDINGS, case_name
from medldm.data.layouts.names import NO_FILES, channels, choose, modality_of
from medldm.data.sources import Source, SourceCase
from medldm.data.tables import covariate_names, read_lines, refuse_mixed, split_name
from medldm.errors import UserError


def find_table(source: Path, labels: dict[int, str], contrasts: Sequence[str] | None, root: Path | None) -> Source:
    """The cases that a CSV or TSV file lists.

    Args:
        source: the file.
        labels: label value -> structure name.
        contrasts: those of the columns `image_<contrast>` that become channels, in this order.
        root: folder that paths are relative to and may not leave; by default that of the file.

    Raises:
        UserError: a column is missing, a case is named twice or cannot be a file name, or a path leaves the folder.
    """
    lines, titles = read_lines(source, "--source")
    root = Path(root) if root else source.parent
    if not root.is_dir():
        raise UserError(f"{root} is not a folder.", "Give the folder of the images as --root.")
    key = "case" if "case" in titles else next(iter(titles))
    images = {name: title[len("image_") :] if name != "image" else "" for name, title in titles.items() if re.match(r"image(_|$)", name)}
    if not images or key in (*images, "label", "patient", "split") or ("image" in images and len(images) > 1):
        found = ", ".join(map(repr, titles.values()))
        raise UserError(
            f"{source} has the columns {found}; a case and 'image', or 'image_<contrast>' for each contrast, were expected.", "Correct the first row."
        )
    chosen = _contrasts(source, lines, images, contrasts)
    names = covariate_names(source, titles, (key, *images, "label", "patient", "split"))
    cases: dict[str, SourceCase] = {}
    for number, line in enumerate(lines, start=2):
        where = f"{source}, row {number}"
        case = _case_of(where, line[key], cases)
        files = {contrast: _path(where, line[column], root) for column, contrast in images.items() if contrast in chosen and line[column]}
        label = _path(where, line["label"], root) if line.get("label") else None
        known = channels(chosen, files) if chosen != ("",) or files else {"images": (), "status": "no_image", "reason": "has no image."}
        values = {name: covariate(line[name]) for name in names}
        split = split_name(where, line.get("split", ""))
        cases[case] = SourceCase(
            case, line.get("patient") or case, label=label, split=split, covariates=values, modality=modality_of(chosen), **known
        )
    if not cases:
        raise UserError(f"{source} has no rows.", "Add a row for each case.")
    for name in names:
        refuse_mixed(source, name, {f"case {case!r}": entry.covariates[name] for case, entry in cases.items()})
    return Source(source, "table", tuple(cases[case] for case in sorted(cases)), labels, tuple(name for name in chosen if name))


def _contrasts(source: Path, lines: Sequence[Mapping[str, str]], images: Mapping[str, str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The contrasts to read: all columns in order, or those that were asked for."""
    if wanted is None:
        return tuple(images.values())
    counts = Counter({contrast: sum(bool(line[column]) for line in lines) for column, contrast in images.items() if contrast})
    return choose(counts, wanted, source)


def _case_of(where: str, text: str, before: Mapping[str, SourceCase]) -> str:
    """A case's name, which becomes a file name."""
    case = case_name(text)
    if not re.fullmatch(r"[\w+\-][\w+\-. ]{0,199}", case):
        raise UserError(f"{where}: the case {case!r} cannot be the name of a file.", "Use letters, digits, '_', '-' and '.'.")
    if case in before:
        raise UserError(f"{where}: case {case!r} has a row already.", "Keep one row a case.")
    return case


def _path(where: str, text: str, root: Path) -> Path:
    """A file below the root, also after symbolic links are followed."""
    if "\0" in text or not text.lower().endswith(ENDINGS):
        raise UserError(f"{where}: {text!r} is {NO_FILES}.", "Name an image file, or leave the cell empty.")
    path = root / text
    if path.exists() and not path.is_file():
        raise UserError(f"{where}: {text!r} is no file.", "Name an image file, or leave the cell empty.")
    if not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{where}: the path {text!r} leaves {root}.", "Give the folder that holds all images as --root.")
    return path
