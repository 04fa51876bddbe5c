"""Measurements that are a matrix along each axis: thick slices, larger voxels, blur."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from medldm.errors import UserError
from medldm.operators.base import LinearOperator
from medldm.types import Shape3

REACH = 4.0  # standard deviations of a Gaussian that count


class Separable(LinearOperator):
    """y = (W_I x W_J x W_K) x: one matrix per axis, the identity where none is given.

    Args:
        matrices: axis 0, 1 or 2 -> real matrix [measured, voxels].
    """

    def __init__(self, matrices: Mapping[int, Tensor]):
        super().__init__()
        self.axes = sorted(matrices)
        for axis in self.axes:
            self.register_buffer(f"matrix_{axis}", matrices[axis].double())

    def forward(self, x: Tensor) -> Tensor:
        """See `ForwardOperator`."""
        return self._along(x, transposed=False)

    def adjoint(self, y: Tensor) -> Tensor:
        """See `LinearOperator`."""
        return self._along(y, transposed=True)

    def matrix(self, axis: int) -> Tensor:
        """The matrix of one axis [measured, voxels], float64."""
        return getattr(self, f"matrix_{axis}")

    def _along(self, x: Tensor, transposed: bool) -> Tensor:
        for axis in self.axes:
            matrix = self.matrix(axis).to(x.dtype)
            matrix = matrix.T if transposed else matrix
            if x.shape[2 + axis] != matrix.shape[1]:
                raise UserError(f"Axis {axis} has {x.shape[2 + axis]} voxels; this measurement takes {matrix.shape[1]}.")
            x = torch.movedim(torch.movedim(x, 2 + axis, -1) @ matrix.T, -1, 2 + axis)
        return x


def thick_slices(shape: Shape3, axis: int, distance: float, thickness: float | None = None, profile: str = "box") -> Separable:
    """Slices thicker or farther apart than the voxels: each is a mean over a slice profile.

    Args:
        shape: voxels I, J, K of the image.
        axis: across which slices are taken, 0, 1 or 2.
        distance: between the middles of slices, in voxels; a last slice that does not fit whole is not taken.
        thickness: in voxels, of a box or at half height of a Gaussian; the distance by default.
        profile: "box" or "gauss".

    Raises:
        UserError: a setting is out of its range.
    """
    if axis not in (0, 1, 2):
        raise UserError(f"axis={axis}: 0, 1 or 2 was expected.")
    return Separable({axis: slice_matrix(shape[axis], distance, distance if thickness is None else thickness, profile)})


def larger_voxels(shape: Shape3, factors: tuple[float, float, float]) -> Separable:
    """Voxels that are larger by a factor along each axis: means over boxes."""
    return Separable({axis: slice_matrix(shape[axis], f, f, "box") for axis, f in enumerate(factors) if f != 1})


def blur(shape: Shape3, sigma: tuple[float, float, float]) -> Separable:
    """A Gaussian point spread of standard deviations `sigma` in voxels along each axis; weights are renormalised at the border.

    Raises:
        UserError: one is negative or no number.
    """
    if not all(0 <= s < math.inf for s in sigma):
        raise UserError(f"sigma={tuple(sigma)}: three numbers of at least 0 were expected.")
    return Separable({axis: _rows(shape[axis], torch.arange(shape[axis]) + 0.5, s, "sigma") for axis, s in enumerate(sigma) if s > 0})


def slice_matrix(voxels: int, distance: float, thickness: float, profile: str) -> Tensor:
    """Weights of voxels in each slice [slices, voxels], rows sum to 1.

    Args:
        voxels: along the axis.
        distance: between slices, in voxels, at least 1.
        thickness: in voxels, positive.
        profile: "box" or "gauss".

    Raises:
        UserError: a number is out of range, no slice fits, or the profile is unknown.
    """
    if profile not in ("box", "gauss"):
        raise UserError(f"profile={profile!r}: box or gauss were expected.")
    if not 1 <= distance < math.inf or not 0 < thickness < math.inf:
        raise UserError(f"distance={distance} must be at least 1 voxel, thickness={thickness} positive.")
    slices = int((voxels - max(thickness if profile == "box" else 0, 1)) / distance + 1e-9) + 1
    if voxels < distance or slices < 1:
        raise UserError(f"Slices of {thickness:g} voxels every {distance:g} do not fit into {voxels} voxels.")
    first = max(distance, thickness if profile == "box" else 0) / 2
    return _rows(voxels, first + distance * torch.arange(slices), thickness, profile)


def _rows(voxels: int, middles: Tensor, width: float, profile: str) -> Tensor:
    """Rows of weights around given places, in voxels from the edge of the image."""
    left = torch.arange(voxels, dtype=torch.float64)
    middles = middles.double()[:, None]
    if profile == "box":
        overlap = torch.minimum(left + 1, middles + width / 2) - torch.maximum(left, middles - width / 2)
        weights = overlap.clamp(min=0)
    else:
        sigma = width if profile == "sigma" else width / (2 * math.sqrt(2 * math.log(2)))
        root = sigma * math.sqrt(2)
        weights = torch.erf((left + 1 - middles) / root) - torch.erf((left - middles) / root)
        weights = torch.where((left + 0.5 - middles).abs() <= REACH * sigma + 0.5, weights, 0.0)
    return weights / weights.sum(1, keepdim=True)
