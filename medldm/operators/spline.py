"""Interpolation between slices or large voxels, as viewers do it."""

from dataclasses import dataclass

import torch
from scipy.interpolate import make_interp_spline
from torch import Tensor

from medldm.operators.base import LinearOperator
from medldm.operators.classical import Classical
from medldm.operators.separable import Separable

DEGREE = 3


@dataclass(frozen=True)
class Spline(Classical):
    """The cubic spline through what was measured, each number at the middle of its slice, along each axis in turn (de Boor 1978).

    Beyond the middles of the first and the last slice their values go on. With fewer than 4 slices the degree is lower.
    """

    def __call__(self, operator: LinearOperator, y: Tensor) -> Tensor:
        """See `Classical`; only of `Separable`."""
        if not isinstance(operator, Separable):
            raise TypeError("A spline goes through slices, or through large voxels.")
        return Separable({axis: _between(operator.matrix(axis).cpu()) for axis in operator.axes}).to(y.device)(y)


def _between(weights: Tensor) -> Tensor:
    """From weights of voxels in each slice [slices voxels] to weights of slices in each voxel [voxels slices]."""
    slices, voxels = weights.shape
    places = torch.arange(voxels, dtype=torch.float64)
    middles = weights @ places
    spline = make_interp_spline(middles.numpy(), torch.eye(slices, dtype=torch.float64).numpy(), k=min(DEGREE, slices - 1))
    return torch.from_numpy(spline(places.clamp(middles[0], middles[-1]).numpy()))
