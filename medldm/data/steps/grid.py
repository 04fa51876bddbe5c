"""Grids of voxels in space: parts of a grid, and copying voxels from one grid to another without interpolation."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from medldm.data.steps.base import Change
from medldm.errors import UserError
from medldm.types import Shape3
from medldm.volume import Volume

TOLERANCE_MM = 1e-3  # a NIfTI header keeps positions in float32: 3e-5 mm at 500 mm


@dataclass(frozen=True)
class Grid:
    """The places of voxels.

    Args:
        shape: voxels along I, J, K.
        affine: voxel index -> RAS+ millimetres, 4 rows of 4 numbers.
    """

    shape: Shape3
    affine: tuple[tuple[float, ...], ...]

    def __post_init__(self):
        matrix = np.array(self.affine, dtype=np.float64) if all(len(row) == 4 for row in self.affine) else np.zeros(0)
        if len(self.shape) != 3 or min(self.shape) < 1 or matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise UserError(f"Shape {self.shape} and affine {self.affine} are no grid of voxels.", "Restore the record of the steps from a copy.")

    @classmethod
    def of(cls, volume: Volume) -> "Grid":
        """The grid of a volume."""
        return cls.at(volume.shape, volume.affine)

    @classmethod
    def at(cls, shape: Shape3, affine: np.ndarray) -> "Grid":
        """A grid from the number of voxels along I, J, K and a matrix [4 4]."""
        return cls(tuple(int(n) for n in shape), tuple(tuple(float(a) for a in row) for row in affine))

    @cached_property
    def matrix(self) -> np.ndarray:
        """The affine [4 4], float64."""
        return np.array(self.affine, dtype=np.float64)

    @cached_property
    def spacing(self) -> np.ndarray:
        """Millimetres between voxel centres along I, J, K [3]."""
        return np.linalg.norm(self.matrix[:3, :3], axis=0)

    def window(self, start: Shape3, shape: Shape3) -> "Grid":
        """The grid of the same voxels that begins at index `start` (also negative) with another number of voxels."""
        affine = self.matrix.copy()
        affine[:3, 3] += affine[:3, :3] @ np.array(start, dtype=np.float64)
        return Grid.at(shape, affine)

    def find(self, volume: Volume) -> Shape3:
        """Index of a volume's first voxel, for a volume on this grid or on a part of it.

        Raises:
            UserError: its voxels are not among those of this grid, by more than 0.001 mm.
        """
        start = np.rint(np.linalg.solve(self.matrix, volume.affine)[:3, 3]).astype(int)
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in volume.shape], indexing="ij")).reshape(3, -1)
        corners = np.vstack([corners, np.ones(corners.shape[1])])
        off = np.abs((self.window(start, volume.shape).matrix - volume.affine) @ corners).max()
        if off > TOLERANCE_MM or (start < 0).any() or (start + volume.shape > self.shape).any():
            raise UserError(
                f"A volume of {_sizes(volume.shape)} voxels of {_sizes(volume.spacing)} mm does not lie on the grid of {_sizes(self.shape)} voxels "
                f"of {_sizes(self.spacing)} mm that is expected, nor on a part of it.",
                "Give a volume with the place in space of the prepared image.",
            )
        return tuple(int(s) for s in start)

    def expect(self, volume: Volume) -> None:
        """Refuse a volume that is not on the whole of this grid.

        Raises:
            UserError: it lies elsewhere, or on a part only.
        """
        if self.find(volume) != (0, 0, 0) or volume.shape != self.shape:
            raise UserError(f"A volume of {_sizes(volume.shape)} voxels is a part of the grid of {_sizes(self.shape)} voxels.", "Give the whole.")


@dataclass(frozen=True)
class Regridded(Change):
    """Voxels copied to a grid whose voxels have the same places: axes transposed or flipped, borders cut off or added.

    What lies outside the volume gets the lowest value of its channel, or label 0.

    Args:
        before: the grid of the case.
        after: the grid that follows.
    """

    before: Grid
    after: Grid

    def __call__(self, volume: Volume) -> Volume:
        """Copy to the grid `after`.

        Raises:
            UserError: the volume is not on the grid `before`.
        """
        self.before.expect(volume)
        return copied(volume, self.before, self.after)

    def undo(self, volume: Volume) -> Volume:
        """Copy back what the volume covers of the grid `before`; the voxels that had been cut off stay missing.

        Raises:
            UserError: the volume is neither on the grid `after` nor on a part of it, or consists of added voxels alone.
        """
        source = self.after.window(self.after.find(volume), volume.shape)
        return copied(volume, source, _covered(source, self.before))


def _covered(source: Grid, target: Grid) -> Grid:
    """The part of a grid on which another one, of voxels with the same places, has voxels."""
    ends = np.array([(0, 0, 0, 1), (*(n - 1 for n in source.shape), 1)]).T
    index = np.rint(np.linalg.solve(target.matrix, source.matrix @ ends)[:3]).astype(int)
    low, high = np.maximum(index.min(1), 0), np.minimum(index.max(1) + 1, target.shape)
    if (high <= low).any():
        raise UserError("A volume covers no voxel of the source.", "Give a volume that shows a part of it.")
    return target.window(tuple(low), tuple(high - low))


def copied(volume: Volume, source: Grid, target: Grid) -> Volume:
    """Voxels on another grid that differs by a signed permutation of the axes and whole shifts.

    Args:
        volume: voxels [C I J K]; its own affine, which may be rounded, is not used.
        source: exact grid of the volume.
        target: grid of the result.

    Raises:
        UserError: the grids differ by more than that.
    """
    index = np.linalg.solve(source.matrix, target.matrix)  # target index -> source index
    turn, shift = np.rint(index[:3, :3]).astype(int), np.rint(index[:3, 3]).astype(int)
    whole = np.allclose(index[:3, :3], turn, rtol=0, atol=1e-6) and np.allclose(index[:3, 3], shift, rtol=0, atol=1e-3)
    if not (whole and (np.abs(turn).sum(0) == 1).all() and (np.abs(turn).sum(1) == 1).all()):
        raise UserError("Two grids are not related by flips, transpositions and whole voxels.", "Restore the record of the steps from a copy.")
    axes = np.abs(turn).argmax(0)  # the source axis along each target axis
    data = volume.data.permute(0, *(int(1 + axis) for axis in axes))
    backwards = [b for b in range(3) if turn[axes[b], b] < 0]
    data = data.flip([1 + b for b in backwards]) if backwards else data
    start = [int(data.shape[1 + b] - 1 - shift[axes[b]] if b in backwards else shift[axes[b]]) for b in range(3)]
    return replace(volume, data=_window(data, start, target.shape, volume.unit), affine=target.matrix.copy())


def lowest(data: Tensor, unit: str) -> Tensor:
    """What fills voxels without content: the lowest value of each channel [C 1 1 1], or label 0."""
    return torch.zeros(len(data), 1, 1, 1) if unit == "label" else data.amin((1, 2, 3), keepdim=True)


def _window(data: Tensor, start: list[int], shape: Shape3, unit: str) -> Tensor:
    """Voxels start ... start + shape, filled where that is outside."""
    if start == [0, 0, 0] and tuple(data.shape[1:]) == tuple(shape):
        return data.contiguous()
    result = lowest(data, unit).to(data.dtype).expand(len(data), *shape).clone()
    to, of = [slice(None)], [slice(None)]
    for first, wanted, have in zip(start, shape, data.shape[1:], strict=True):
        low, high = max(0, -first), min(wanted, have - first)
        to.append(slice(low, max(low, high)))
        of.append(slice(low + first, max(low, high) + first))
    result[tuple(to)] = data[tuple(of)]
    return result


def _sizes(numbers) -> str:
    return " x ".join(f"{n:.4g}" for n in numbers)
