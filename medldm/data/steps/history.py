"""What was done to a case, and the way back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from medldm.data.steps.base import Change, Step
from medldm.data.steps.grid import Grid, copied
from medldm.errors import UserError
from medldm.run import build, describe
from medldm.volume import Volume

PLACE = "medldm.data.steps."


@dataclass(frozen=True)
class History:
    """Where the image of a case came from, and every change since.

    Args:
        grid: the source's grid.
        unit: the source's unit, "HU" or "a.u.".
        changes: in the order in which they were applied.
    """

    grid: Grid
    unit: str
    changes: tuple[Change, ...]

    @classmethod
    def of(cls, source: Volume, changes: Sequence[Change]) -> "History":
        """The history of an image that was read as `source`."""
        return cls(Grid.of(source), source.unit, tuple(changes))

    def to_plain(self) -> dict[str, Any]:
        """Numbers, text and lists, as a JSON document holds them."""
        return {
            "shape": list(self.grid.shape),
            "affine": [list(row) for row in self.grid.affine],
            "unit": self.unit,
            "changes": [describe(change) for change in self.changes],
        }

    @classmethod
    def from_plain(cls, content: Any) -> "History":
        """The inverse of `to_plain`. Only changes of this package are built, whatever a document names.

        Raises:
            UserError: the document is no history.
        """
        try:
            grid, unit, changes = Grid(_tuples(content["shape"]), _tuples(content["affine"])), str(content["unit"]), list(content["changes"])
            strange = [spec["class_path"] for spec in changes if not str(spec["class_path"]).startswith(PLACE)]
        except (KeyError, TypeError) as error:
            raise UserError(f"The record of a case's steps is not as it was written ({error!r}).", "Restore it from a copy.") from error
        if strange:
            raise UserError(f"The record of a case's steps names {strange[0]!r}, which is no change of {PLACE[:-1]}.", "Restore it from a copy.")
        built = tuple(build(_tuples(spec), "the record of a case's steps") for spec in changes)
        if not all(isinstance(change, Change) for change in built):
            raise UserError("The record of a case's steps names something that is no change.", "Restore it from a copy.")
        return cls(grid, unit, built)


def apply_steps(steps: Sequence[Step], image: Volume, label: Volume | None = None) -> tuple[Volume, Volume | None, tuple[Change, ...]]:
    """Plan and apply the steps one after the other.

    Args:
        steps: in their order; each sees the image as the steps before it left it.
        image: voxels [C I J K].
        label: label map [1 I J K] on the same grid, if there is one.

    Returns:
        The image, the label map, and the changes.
    """
    changes = []
    for step in steps:
        change = step.plan(image, label)
        image, label = change(image), change(label) if label is not None else None
        changes.append(change)
    return image, label, tuple(changes)


def restore(volume: Volume, history: History) -> Volume:
    """A volume on the prepared grid, or on a part of it, on the grid and with the intensities of the source.

    Voxels of the source that the volume does not cover get the lowest value of those that it does, or label 0. What a change cannot give back (blur,
    clipped intensities, what a mask removed), its `undo` documents.

    Args:
        volume: an image with the channels of the prepared image, or a label map with its values.
        history: of the case that the volume belongs to.

    Raises:
        UserError: the volume lies elsewhere, or has other channels or labels.
    """
    for change in reversed(history.changes):
        volume = change.undo(volume)
    volume = copied(volume, history.grid.window(history.grid.find(volume), volume.shape), history.grid)
    return volume if volume.unit == "label" else replace(volume, unit=history.unit)


def _tuples(content: Any) -> Any:
    """Lists as tuples, so that what is built equals what was described."""
    if isinstance(content, dict):
        return {key: _tuples(value) for key, value in content.items()}
    return tuple(_tuples(value) for value in content) if isinstance(content, list | tuple) else content
