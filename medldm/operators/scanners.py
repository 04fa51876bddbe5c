"""Acquisitions with other geometries and other noise: stars in k-space, fans and cones of rays, few photons."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from medldm.errors import UserError
from medldm.operators.acquisitions import Acquisition, SparseCT, even_angles, of_diagonal, sensitivities
from medldm.operators.base import LinearOperator
from medldm.operators.cone import ConeCT
from medldm.operators.ct import FanCT
from medldm.operators.mri import Phase
from medldm.operators.noncartesian import NonCartesianMRI, stack_of_stars
from medldm.operators.voxelwise import Weight
from medldm.randomness import keyed
from medldm.types import Shape3

LEAST_COUNTS = 0.5  # of a ray that no photon came through


@dataclass(frozen=True)
class RadialMRI(Acquisition):
    """Golden-angle spokes in the plane of I and J, Cartesian along K (see `stack_of_stars`), of an image whose phase is 0.

    Args:
        spokes: in each plane; pi / 2 times the longer side measure it fully.
        coils, maps: see `AcceleratedMRI`.
    """

    noise: float = 0.015
    spokes: int = 16
    coils: int = 1
    maps: str = ""

    def operator(self, shape: Shape3, spacing: tuple[float, float, float], *key: int | str) -> LinearOperator:
        """See `Acquisition`."""
        return NonCartesianMRI(shape, stack_of_stars(shape, self.spokes), sensitivities(shape, self.coils, self.maps)) @ Phase()


@dataclass(frozen=True)
class FanBeamCT(SparseCT):
    """Few views of a fan of rays.

    Args:
        source: from the source to the axis, in diagonals of a slice.
        detector: from the source to the detector, likewise.
    """

    degrees: float = 360.0
    source: float = 2.0
    detector: float = 3.0

    @property
    def filtered(self) -> bool:
        """See `SparseCT`."""
        return False

    def operator(self, shape: Shape3, spacing: tuple[float, float, float], *key: int | str) -> LinearOperator:
        """See `Acquisition`."""
        return _fan(tuple(shape), self.views, self.degrees, self.source, self.detector, of_diagonal(shape, spacing))


@lru_cache(maxsize=4)
def _fan(shape: Shape3, views: int, degrees: float, source: float, detector: float, spacing: tuple[float, float]) -> FanCT:
    return FanCT(shape, even_angles(views, degrees), source, detector, spacing)


@dataclass(frozen=True)
class ConeBeamCT(FanBeamCT):
    """Few views of a cone of rays, on a detector that sees the whole image; see `ConeCT`."""

    def operator(self, shape: Shape3, spacing: tuple[float, float, float], *key: int | str) -> LinearOperator:
        """See `Acquisition`."""
        i, j = of_diagonal(shape, spacing)
        across = min(i, j)
        along = spacing[2] * i / spacing[0]
        pixel = (across * self.detector / self.source, along * self.detector / self.source)
        nearest = self.detector / (self.source - 0.5)  # what lies nearest to the source is enlarged most
        bins, rows = (2 * math.ceil(half * nearest / size) + 1 for half, size in zip((0.5, along * shape[2] / 2), pixel, strict=True))
        return ConeCT(shape, self.angles, self.source, self.detector, (i, j, along), bins, rows, pixel)


@dataclass(frozen=True)
class LowDoseCT(SparseCT):
    """Few photons: counts are Poisson, so that rays through much tissue are noisier; each is weighted by its certainty (Sauer & Bouman 1993).

    n ~ Poisson(N exp(-p)), p^ = -log(n / N), whose variance is about 1 / n. p is `absorption` for a ray through a whole diagonal of the
    densest voxels. Measurements are line integrals times a weight, with which every ray has the standard deviation `noise`.

    Args:
        photons: N, of a ray through air.
        absorption: as above.
    """

    photons: float = 1e4
    absorption: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.noise > 0 and 1 < self.photons < math.inf and 0 < self.absorption < math.inf):
            raise UserError(f"noise={self.noise}, photons={self.photons}, absorption={self.absorption} must be positive, photons more than 1.")

    @property
    def filtered(self) -> bool:
        """See `SparseCT`."""
        return False

    def measure(self, x: Tensor, spacing: tuple[float, float, float], *key: int | str) -> tuple[LinearOperator, Tensor]:
        """See `Acquisition`."""
        operator = self.operator(tuple(x.shape[2:]), spacing, *key).to(x.device)
        air = operator(torch.ones_like(x))
        half = self.absorption / 2  # per unit of x + 1
        rate = self.photons * (-half * (operator(x) + air)).exp()
        counts = torch.poisson(rate.double().cpu(), keyed(*key, "photons")).clamp(min=LEAST_COUNTS).to(x)
        line = -(counts / self.photons).log() / half - air
        weight = Weight(self.noise * half * counts.sqrt()[0])
        return weight @ operator, weight(line)
