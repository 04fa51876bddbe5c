"""What restores images in voxels: a restorer with the mean and spectrum of the anatomy it was trained on. The content of a restorer run."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medldm.diffusion.posteriors.plug_and_play import plug_and_play
from medldm.diffusion.posteriors.refine import residual_ratio
from medldm.machine import cpu_has_bf16
from medldm.models.restorer import Restorer
from medldm.operators.anatomy import Anatomy, stretched
from medldm.operators.base import LinearOperator
from medldm.operators.classical import Classical, largest_eigenvalue
from medldm.operators.spectra import BINS
from medldm.types import Shape3

#: How settings of `Restored` are searched, see `tune`.
FACTORS = {"level": 2.0, "penalty": 4.0}

GROWTH = 3.0  # of the residual, beyond which turns lead away


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

    def bind(self, guide: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """(noisy images [B C I J K], noise levels [B]) -> clean ones, in bfloat16 arithmetic where the machine is faster with it."""

        @torch.inference_mode()
        def restore(x: Tensor, level: Tensor) -> Tensor:
            with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=x.is_cuda or cpu_has_bf16()):
                return self.restorer(x.float(), level.float(), guide).float()

        return restore

    def mean_like(self, images: Tensor) -> Tensor:
        """The mean image on the grid of images [B C I J K]."""
        return stretched(self.mean, images.shape[2:]).expand_as(images)

    def clean(self, image: Tensor, level: float) -> Tensor:
        """Images [B C I J K] without noise of a level, guided by the mean image."""
        return self.bind(self.mean_like(image))(image, torch.full((len(image),), level, device=image.device))


@dataclass(frozen=True)
class Restored(Classical):
    """The image on which restorer and measurements agree (see `plug_and_play`), begun at the best linear estimate.

    Args:
        restoration: a restorer, mean and spectrum.
        noise: standard deviation of the noise in measurements.
        level: noise level that the restorer is asked for; about the error of the linear estimate.
        penalty: for leaving what the restorer says, relative to the largest eigenvalue of A* A.
        turns: of restorer and measurements.
    """

    restoration: Restoration
    noise: float
    level: float = 0.3
    penalty: float = 0.02
    turns: int = 12

    def __call__(self, operator: LinearOperator, y: Tensor) -> Tensor:
        """See `Classical`."""
        return self.traced(operator, y)[0]

    def traced(self, operator: LinearOperator, y: Tensor) -> tuple[Tensor, list[float]]:
        """The image, and the residual over the noise after each turn (see `residual_ratio`; the largest of a batch).

        Where the residual is no number, or 3 times as large as it was and as the noise, the image is that of the turn before.
        """
        back = operator.adjoint(y)
        start = self.restoration.anatomy.prior(back.shape[2:], self.noise)(operator, y)
        penalty = self.penalty * largest_eigenvalue(operator, back)
        restore = self.restoration.bind(self.restoration.mean_like(back))
        found, trace = start, []
        for x in plug_and_play(restore, operator, y, start, self.level, penalty, self.turns):
            trace.append(float(residual_ratio(operator, y, x, self.noise).max()))
            if diverged(trace):
                break
            found = x
        return found, trace


def diverged(trace: list[float]) -> bool:
    """True where the last residual is no number, or much larger than the least and than the noise: the first turns may explain noise, too."""
    return not math.isfinite(trace[-1]) or trace[-1] > GROWTH * max(min(trace), 1.0)
