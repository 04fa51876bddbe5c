"""What a cohort looks like on average: all that a prior can know without a network."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medldm.errors import UserError
from medldm.operators.classical import GaussianPrior
from medldm.operators.spectra import BINS, bins, lowest, power
from medldm.types import Shape3

ITERATIONS = 30
LOW = 2  # bins of frequencies along each axis in which shape, contrast and place show
LEAST_NOISE = 1e-3  # of images in [-1, 1]; conjugate gradients need a floor


@dataclass(frozen=True)
class Anatomy:
    """Mean image and power spectrum of the images of a cohort, for grids of any size: the mean is stretched to the grid.

    Args:
        mean: m [C I J K].
        spectrum: mean power of x - m in each bin of frequencies (see `spectra.bins`) [C BINS^3].
    """

    mean: Tensor
    spectrum: Tensor

    @classmethod
    def of(cls, images: Sequence[Tensor], shape: Shape3) -> "Anatomy":
        """Of images [C I J K].

        Args:
            images: such as those of the split "train".
            shape: of the mean.

        Raises:
            UserError: there is none.
        """
        if not images:
            raise UserError("The mean image needs at least one image.")
        mean = torch.stack([stretched(image, shape) for image in images]).double().mean(0).float()
        spectrum = torch.stack([power(image - stretched(mean, image.shape[1:])) for image in images])
        return cls(mean, _filled(spectrum.nanmean(0)))

    def prior(self, shape: Shape3, noise: float) -> GaussianPrior:
        """The Gaussian prior for images of a size and measurements of a noise level."""
        return GaussianPrior(stretched(self.mean, shape), self.spectrum[:, bins(shape)].float(), max(noise, LEAST_NOISE), ITERATIONS)

    def distance(self, image: Tensor) -> float:
        """How far an image [C I J K] is from the mean at low frequencies, relative to the cohort: mean of |F (x - m)|^2 / spectrum, 1 on average.

        Shape, contrast and place show there (Mahalanobis 1936, for a stationary covariance); noise and detail do not.
        """
        ratio = power(image - stretched(self.mean.cpu(), image.shape[1:])) / self.spectrum.cpu()
        return float(ratio[:, lowest(LOW)].nanmean())


def stretched(image: Tensor, shape: Shape3) -> Tensor:
    """An image [C I J K] on a grid of another size, corner to corner, by trilinear interpolation."""
    return image if tuple(image.shape[1:]) == tuple(shape) else F.interpolate(image[None].float(), size=tuple(shape), mode="trilinear")[0]


def _filled(spectrum: Tensor) -> Tensor:
    """A spectrum [C BINS^3] with bins that no image reached taken from the nearest lower ones along each axis in turn."""
    grid = spectrum.reshape(-1, BINS, BINS, BINS).clone()
    for axis in (1, 2, 3):
        for place in range(1, BINS):
            here, below = grid.select(axis, place), grid.select(axis, place - 1)
            here.copy_(torch.where(here.isnan(), below, here))
    return grid.flatten(1)
