"""Files that a new cohort has in common with the one it is made from."""

import os
import shutil
from pathlib import Path

from medldm.files import atomic


def carry_records(source: Path, target: Path) -> None:
    """Copy what `restore` needs from the folder of a cohort to that of another one, where there is something."""
    if (source / "records").is_dir():
        shutil.copytree(source / "records", target / "records", dirs_exist_ok=True)


def link(source: Path, target: Path) -> None:
    """The same file in another folder, as a link where the disk can, else as a copy."""
    if target.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        with atomic(target) as temporary:
            shutil.copyfile(source, temporary)
