"""What restores images in voxels: a restorer with the mean and spectrum of the anatomy it was trained on. The content of a restorer run."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from medldm.machine import cpu_has_bf16
from medldm.models.restorer import Restorer
from medldm.operators.anatomy import Anatomy
from medldm.operators.base import LinearOperator
from medldm.operators.spectra import BINS
from medldm.types import Shape3


class Restoration(nn.Module):
    """A restorer, and what it is guided by.

    Args:
        restorer: E[x | x + s n, guide].
        grid: voxels I, J, K of the mean image.
        spacing: millimetres per voxel along I, J, K of the training cohort.
    """

    def __init__(self, restorer: Restorer, grid: Shape3, spacing: tuple[float, float, float]):
        super().__init__()
        self.restorer, self.grid, self.spacing = restorer, tuple(grid), tuple(spacing)
        self.register_buffer("mean", torch.zeros(restorer.image_channels, *grid))
        self.register_buffer("spectrum", torch.ones(restorer.image_channels, BINS**3, dtype=torch.float64))

    @property
    def anatomy(self) -> Anatomy:
        """Mean and spectrum of the training cohort."""
        return Anatomy(self.mean, self.spectrum)

    def learn(self, anatomy: Anatomy) -> None:
        """Keep mean and spectrum of a cohort."""
        self.mean.copy_(anatomy.mean)
        self.spectrum.copy_(anatomy.spectrum)

    def guide(self, operator: LinearOperator, y: Tensor, noise: float, shape: Shape3) -> Tensor:
        """The best linear estimate of images [B C I J K] from measurements [B ...], which the restorer has learnt to be guided by."""
        return self.anatomy.prior(shape, noise)(operator, y).float()

    def bind(self, guide: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """(noisy images [B C I J K], noise levels [B]) -> clean ones, in bfloat16 arithmetic where the machine is faster with it."""

        @torch.inference_mode()
        def restore(x: Tensor, level: Tensor) -> Tensor:
            with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=x.is_cuda or cpu_has_bf16()):
                return self.restorer(x.float(), level.float(), guide).float()

        return restore
