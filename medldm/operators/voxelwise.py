"""Measurements voxel by voxel: everything, or some of it."""

import torch
from torch import Tensor

from medldm.errors import UserError
from medldm.operators.base import LinearOperator, check_fits


class Identity(LinearOperator):
    """y = x: noise is all that was added."""

    def forward(self, x: Tensor) -> Tensor:
        """See `ForwardOperator`."""
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """See `LinearOperator`."""
        return y


class Inpainting(LinearOperator):
    """y = m x: voxels outside of the mask are missing, and 0 in y.

    Args:
        mask: True where the image is known [I J K].

    Raises:
        UserError: nothing is known, or the mask does not say yes or no.
    """

    def __init__(self, mask: Tensor):
        super().__init__()
        if mask.ndim != 3 or mask.dtype != torch.bool or not mask.any():
            raise UserError(f"The mask {tuple(mask.shape)} {mask.dtype} must be True at known voxels [I J K], and at one at least.")
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        """See `ForwardOperator`."""
        check_fits(x, (x.shape[1], *self.mask.shape), "images")
        return x * self.mask

    def adjoint(self, y: Tensor) -> Tensor:
        """See `LinearOperator`."""
        check_fits(y, (y.shape[1], *self.mask.shape), "measurements")
        return y * self.mask

    def count(self, y: Tensor) -> int:
        """See `LinearOperator`."""
        return y.shape[1] * int(self.mask.sum())


class Scale(LinearOperator):
    """y = s x, such as from the images of a network in [-1, 1] to attenuation per millimetre.

    Args:
        factor: s.
    """

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """See `ForwardOperator`."""
        return self.factor * x

    def adjoint(self, y: Tensor) -> Tensor:
        """See `LinearOperator`."""
        return self.factor * y


class Weight(LinearOperator):
    """y = w x, such as what each measured number is trusted.

    Args:
        weight: w, of the shape of one image or measurement, or one that fits it.
    """

    def __init__(self, weight: Tensor):
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        """See `ForwardOperator`."""
        return self.weight.to(x.real.dtype) * x

    def adjoint(self, y: Tensor) -> Tensor:
        """See `LinearOperator`."""
        return self.weight.to(y.real.dtype) * y
