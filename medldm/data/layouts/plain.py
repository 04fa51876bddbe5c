"""Image files without a written convention. Where names do not decide what belongs together, nothing is guessed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from medldm.data.layouts.beside import contrast_folders, images_and_labels, side_by_side
from medldm.data.layouts.nested import nested
from medldm.data.layouts.parts import assemble, one_folder
from medldm.data.sources import Source

Tree = Mapping[tuple[str, ...], Mapping[str, Path]]


def find_plain(source: Path, files: Tree, labels: dict[int, str], contrasts: Sequence[str] | None = None) -> Source:
    """The cases of a folder of image files: images/ and labels/, one folder, a folder for each contrast, or one for each patient.

    Args:
        source: the folder.
        files: what `names.tree` found in it.
        labels: label value -> structure name.
        contrasts: as in `names.choose`.

    Raises:
        UserError: there is no image file where one was expected, or names do not tell what belongs together.
    """
    if (source / "images").is_dir():
        found = images_and_labels(source)
    elif list(files) == [()]:
        found = one_folder(source, files[()], contrasts)
    elif folders := side_by_side(files, contrasts):
        found = contrast_folders(source, files, *folders)
    else:
        found = nested(source, files)
    return assemble(source, found, labels, contrasts)
