"""Label values without gaps."""

from dataclasses import dataclass

import numpy as np
import torch

from medldm.data.steps.base import Change, Step
from medldm.errors import UserError
from medldm.volume import Volume


@dataclass(frozen=True)
class Relabel(Step):
    """Number the values of a label map 1, 2 ... K in a given order, so that a one-hot code has no empty channels; 0 stays 0.

    Args:
        values: K different whole numbers above 0; the first becomes 1.
    """

    values: tuple[int, ...]

    def __post_init__(self):
        if not self.values or len(set(self.values)) != len(self.values) or not all(0 < v < 1 << 24 and v == int(v) for v in self.values):
            raise UserError(f"The label values {self.values} are not different whole numbers above 0 (and below 2^24).")

    def plan(self, image: Volume, label: Volume | None = None) -> "Relabelled":
        """The same change for every case."""
        return Relabelled(tuple(int(v) for v in self.values))


@dataclass(frozen=True)
class Relabelled(Change):
    """Label values by a table; images stay as they are.

    Args:
        values: the values that became 1, 2 ... K.
    """

    values: tuple[int, ...]

    def __call__(self, volume: Volume) -> Volume:
        """Number the label values.

        Raises:
            UserError: the label map has a value that is not among them.
        """
        table = np.full(max(self.values) + 1, -1, np.int32)
        table[[0, *self.values]] = np.arange(len(self.values) + 1)
        return _looked_up(volume, table)

    def undo(self, volume: Volume) -> Volume:
        """The label values from before.

        Raises:
            UserError: the label map has a value above K.
        """
        return _looked_up(volume, np.array([0, *self.values], np.int32))


def _looked_up(volume: Volume, table: np.ndarray) -> Volume:
    if volume.unit != "label":
        return volume
    codes = volume.data.numpy().astype(np.int64)
    known = (codes >= 0) & (codes < len(table))
    known[known] = table[codes[known]] >= 0
    if not known.all():
        unknown = ", ".join(str(v) for v in np.unique(codes[~known])[:5])
        raise UserError(f"A label map has the values {unknown}, which are not among those that are known.", "Name all its structures.")
    return volume.with_data(torch.from_numpy(table[codes].astype(np.float32)))
