"""One effective resolution for images of different voxel sizes."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from medldm.data.plausible import SPACING_MM
from medldm.data.steps.base import Change, Step
from medldm.errors import UserError
from medldm.volume import Volume

TOLERANCE = 0.01  # share of the target by which a voxel may be larger


@dataclass(frozen=True)
class HarmoniseResolution(Step):
    """Blur to one point spread, so that a network cannot tell scanners by their sharpness; the grid stays.

    A voxel of size s is taken as a Gaussian point spread of that full width at half maximum. A Gaussian of variance
    (fwhm^2 - s^2) / (8 ln 2) along each axis adds what lacks (Cardoso et al. 2015). A case whose voxels are coarser than the target
    is refused, because nothing brings back what it lacks and a silent exception would defeat the purpose.

    Args:
        fwhm: full width at half maximum in mm along I, J, K; that of the coarsest case.
    """

    fwhm: tuple[float, float, float]

    def __post_init__(self):
        if len(self.fwhm) != 3 or not all(0 < f <= SPACING_MM[1] for f in self.fwhm):
            raise UserError(f"fwhm {self.fwhm} is not three lengths of at most {SPACING_MM[1]:g} mm.")

    def plan(self, image: Volume, label: Volume | None = None) -> "Blurred":
        """The Gaussian of this case.

        Raises:
            UserError: its voxels are coarser than the target, by more than 1 %.
        """
        own, target = np.array(image.spacing), np.array(self.fwhm)
        if (own > target * (1 + TOLERANCE)).any():
            sizes = " x ".join(f"{s:.4g}" for s in own)
            raise UserError(
                f"Voxels of {sizes} mm are coarser than the resolution of {self.fwhm} mm that all cases are brought to.",
                "Name the voxel size of the coarsest case, or leave the case out.",
            )
        variance = np.maximum(target**2 - own**2, 0) / (8 * np.log(2))
        return Blurred(tuple(float(v) for v in np.sqrt(variance) / own))


@dataclass(frozen=True)
class Blurred(Change):
    """Images smoothed by a Gaussian; label maps stay as they are.

    Args:
        sigma: standard deviation in voxels along I, J, K.
    """

    sigma: tuple[float, float, float]

    def __call__(self, volume: Volume) -> Volume:
        """Smooth voxels [C I J K]; beyond the border the last voxel repeats."""
        if volume.unit == "label" or not any(self.sigma):
            return volume
        return volume.with_data(torch.from_numpy(ndimage.gaussian_filter(volume.data.numpy(), (0, *self.sigma), mode="nearest")))

    def undo(self, volume: Volume) -> Volume:
        """The volume as it is: the grid did not change, and what the blur took away cannot be brought back."""
        return volume
