"""The field of view: cut to what matters, or brought to a size that a network takes. Voxels are copied, never interpolated."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from medldm.data.steps.base import Step
from medldm.data.steps.grid import Grid, Regridded
from medldm.errors import UserError
from medldm.types import Shape3
from medldm.volume import Volume

LARGEST = 2048  # voxels along an axis


@dataclass(frozen=True)
class CropToForeground(Step):
    """Cut to the box around the foreground. The grid never grows.

    Args:
        margin_mm: what is kept around it on each side.
        threshold: foreground is what lies above it in any channel, in the unit of the image as it is at this step; by default
            above the mean of the channel.
        of: the foreground of the "image", or of its "label" map: every value but 0.
    """

    margin_mm: float = 10.0
    threshold: float | None = None
    of: Literal["image", "label"] = "image"

    def __post_init__(self):
        if not (np.isfinite(self.margin_mm) and self.margin_mm >= 0):
            raise UserError(f"margin_mm {self.margin_mm} is not a length of at least 0 mm.")
        if self.of not in ("image", "label"):
            raise UserError(f"of={self.of!r} is neither 'image' nor 'label'.")
        if self.of == "label" and self.threshold is not None:
            raise UserError("A threshold has no meaning for label maps.", "Leave it out, or crop to the foreground of the image.")

    def plan(self, image: Volume, label: Volume | None = None) -> Regridded:
        """The box of this case.

        Raises:
            UserError: there is no foreground, or no label map to find it in.
        """
        inside = self._foreground(image, label)
        start, shape = [], []
        for axis in range(3):
            places = np.flatnonzero(inside.any(tuple(a for a in range(3) if a != axis)))
            if not len(places):
                raise UserError(f"The {self.of} has no foreground to crop to.", "Lower the threshold, or take the case out.")
            margin = int(np.ceil(self.margin_mm / image.spacing[axis] - 1e-6))
            start.append(max(0, int(places[0]) - margin))
            shape.append(min(image.shape[axis], int(places[-1]) + 1 + margin) - start[-1])
        grid = Grid.of(image)
        return Regridded(grid, grid.window(tuple(start), tuple(shape)))

    def _foreground(self, image: Volume, label: Volume | None) -> np.ndarray:
        if self.of == "image":
            limit = image.data.double().mean((1, 2, 3), keepdim=True) if self.threshold is None else self.threshold
            return (image.data > limit).any(0).numpy()
        if label is None:
            raise UserError("The foreground of a label map is asked for, and the case has none.", "Crop to the foreground of the image.")
        return (label.data != 0).any(0).numpy()


@dataclass(frozen=True)
class PadToMultiple(Step):
    """Add as many voxels as bring each axis to a multiple, half of them on each side.

    Args:
        multiple: such as twice the factor of an autoencoder.
    """

    multiple: int

    def __post_init__(self):
        if not 1 <= self.multiple <= LARGEST:
            raise UserError(f"multiple {self.multiple} is not a whole number from 1 to {LARGEST}.")

    def plan(self, image: Volume, label: Volume | None = None) -> Regridded:
        """The larger grid, or the same."""
        return _centred(image, tuple(-(-n // self.multiple) * self.multiple for n in image.shape))


@dataclass(frozen=True)
class FitShape(Step):
    """Cut off or add voxels, half of them on each side, until every case has the same shape.

    Args:
        shape: voxels along I, J, K.
    """

    shape: Shape3

    def __post_init__(self):
        if len(self.shape) != 3 or min(self.shape) < 1 or max(self.shape) > LARGEST:
            raise UserError(f"shape {self.shape} is not three whole numbers from 1 to {LARGEST}.")

    def plan(self, image: Volume, label: Volume | None = None) -> Regridded:
        """The grid of this shape about the centre of the image."""
        return _centred(image, self.shape)


def _centred(image: Volume, shape: Shape3) -> Regridded:
    """A grid of the shape about the centre; an odd voxel is cut off, or added, at the far end."""
    start = tuple((n - m) // 2 if n >= m else -((m - n) // 2) for n, m in zip(image.shape, shape, strict=True))
    grid = Grid.of(image)
    return Regridded(grid, grid.window(start, shape))
