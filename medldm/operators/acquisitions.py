"""How images are measured: from settings that a user can write down to the operator of an image's own grid."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medldm.errors import UserError
from medldm.operators.base import LinearOperator, white_noise
from medldm.operators.ct import ParallelCT, diagonal
from medldm.operators.masks import Mask, VariableDensity
from medldm.operators.mri import CartesianMRI, Phase
from medldm.operators.separable import blur, larger_voxels, thick_slices
from medldm.operators.voxelwise import Identity, Inpainting
from medldm.randomness import keyed
from medldm.types import Shape3

MOST_SHARE = 0.9
HALF_TURN = 180.0
UNSEEN = 1e-6  # of the largest sensitivity


@dataclass(frozen=True)
class Acquisition(ABC):
    """A kind of measurement of images in [-1, 1].

    Args:
        noise: standard deviation of the measured numbers, of real and imaginary part each; 0 for none.

    Raises:
        UserError: a setting is out of its range.
    """

    noise: float = 0.02

    def __post_init__(self) -> None:
        if not 0 <= self.noise < math.inf:
            raise UserError(f"noise={self.noise} must be at least 0, in units of the image, which spans [-1, 1].")

    @abstractmethod
    def operator(self, shape: Shape3, spacing: tuple[float, float, float], *key: int | str) -> LinearOperator:
        """The operator of one image.

        Args:
            shape: voxels I, J, K.
            spacing: millimetres along I, J, K.
            key: decides what is random, such as a mask.
        """

    def measure(self, x: Tensor, spacing: tuple[float, float, float], *key: int | str) -> tuple[LinearOperator, Tensor]:
        """The operator of an image [1 C I J K] and its noisy measurements."""
        operator = self.operator(tuple(x.shape[2:]), spacing, *key).to(x.device)
        return operator, self.simulate(operator, x, *key)

    def simulate(self, operator: LinearOperator, x: Tensor, *key: int | str) -> Tensor:
        """Noisy measurements of images [B C I J K]."""
        y = operator(x)
        return (y + self.noise * white_noise(y, keyed(*key, "noise"))) * self.where(operator, y)

    def where(self, operator: LinearOperator, y: Tensor) -> Tensor:
        """1 where y was measured, 0 where its entries only fill a grid."""
        return torch.ones_like(y.real)

    def measured(self, operator: LinearOperator) -> Tensor | None:
        """Frequencies that were measured [I J K], centred; None where that is no question of frequencies."""
        return None


@dataclass(frozen=True)
class AcceleratedMRI(Acquisition):
    """Undersampled Cartesian k-space of an image whose phase is known to be 0 (see `Phase` for others).

    Args:
        mask: which points are measured.
        coils: simulated coils around the body; 1 for one that sees everything alike.
        maps: a file .npy of measured coil maps instead, complex [coils I J K] on any grid, which are stretched to the image's.
    """

    noise: float = 0.015
    mask: Mask = field(default_factory=lambda: VariableDensity(hermitian=True))
    coils: int = 1
    maps: str = ""

    def operator(self, shape: Shape3, spacing: tuple[float, float, float], *key: int | str) -> LinearOperator:
        """See `Acquisition`."""
        return CartesianMRI(self.mask(shape, keyed(*key, "mask")), sensitivities(shape, self.coils, self.maps)) @ Phase()

    def where(self, operator: LinearOperator, y: Tensor) -> Tensor:
        """See `Acquisition`."""
        return operator.outer.mask.expand_as(y)

    def measured(self, operator: LinearOperator) -> Tensor | None:
        """See `Acquisition`; with several coils each point holds neighbouring frequencies, too."""
        return operator.outer.mask


@dataclass(frozen=True)
class SparseCT(Acquisition):
    """Few parallel views. Line integrals are of x, -1 in air and 1 in the densest voxel (see `AboveAir` for methods that expect 0 in air).

    Args:
        views: evenly spread.
        degrees: of the arc.
    """

    noise: float = 0.01
    views: int = 30
    degrees: float = 180.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.views < 1 or not 0 < self.degrees <= 360:
            raise UserError(f"views={self.views}, degrees={self.degrees}: at least one view and an arc of at most 360 degrees were expected.")

    @property
    def angles(self) -> Tensor:
        """Of the views, in radians."""
        return even_angles(self.views, self.degrees)

    @property
    def filtered(self) -> bool:
        """True where filtered back-projection inverts it."""
        return self.degrees == HALF_TURN

    def operator(self, shape: Shape3, spacing: tuple[float, float, float], *key: int | str) -> LinearOperator:
        """See `Acquisition`; line integrals are in units of the diagonal of a slice, so that noise means the same for every size."""
        return _parallel(tuple(shape), self.views, self.degrees, of_diagonal(shape, spacing))


@dataclass(frozen=True)
class ThickSlices(Acquisition):
    """Slices that are thicker or farther apart than the voxels wanted.

    Args:
        axis: across which they are, 0, 1 or 2.
        distance: between their middles, in voxels.
        thickness: in voxels; the distance by default.
        profile: "box" or "gauss".
    """

    noise: float = 0.01
    axis: int = 2
    distance: float = 4.0
    thickness: float | None = None
    profile: str = "box"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.axis not in (0, 1, 2) or not 1 <= self.distance < math.inf:
            raise UserError(f"axis={self.axis}, distance={self.distance}: axis 0, 1 or 2 and a distance of at least 1 voxel were expected.")

    def operator(self, shape: Shape3, spacing: tuple[float, float, float], *key: int | str) -> LinearOperator:
        """See `Acquisition`."""
        return thick_slices(shape, self.axis, self.distance, self.thickness, self.profile)


@dataclass(frozen=True)
class LargeVoxels(Acquisition):
    """Voxels larger than wanted by a factor along each axis."""

    noise: float = 0.01
    factors: tuple[float, float, float] = (2.0, 2.0, 2.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(1 <= factor < math.inf for factor in self.factors):
            raise UserError(f"factors={self.factors}: three numbers of at least 1 were expected.")

    def operator(self, shape: Shape3, spacing: tuple[float, float, float], *key: int | str) -> LinearOperator:
        """See `Acquisition`."""
        return larger_voxels(shape, self.factors)


@dataclass(frozen=True)
class Blurred(Acquisition):
    """A Gaussian point spread of standard deviations in millimetres along each axis."""

    noise: float = 0.01
    sigma: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def operator(self, shape: Shape3, spacing: tuple[float, float, float], *key: int | str) -> LinearOperator:
        """See `Acquisition`."""
        return blur(shape, tuple(s / d for s, d in zip(self.sigma, spacing, strict=True)))


@dataclass(frozen=True)
class MissingBlock(Acquisition):
    """A box in the middle is missing.

    Args:
        share: of the voxels, in (0, .9].
    """

    noise: float = 0.01
    share: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= MOST_SHARE:
            raise UserError(f"share={self.share} must lie in (0, {MOST_SHARE}].")

    def operator(self, shape: Shape3, spacing: tuple[float, float, float], *key: int | str) -> LinearOperator:
        """See `Acquisition`."""
        known = torch.ones(shape, dtype=torch.bool)
        sizes = [max(1, round(n * self.share ** (1 / 3))) for n in shape]
        known[tuple(slice((n - size) // 2, (n - size) // 2 + size) for n, size in zip(shape, sizes, strict=True))] = False
        return Inpainting(known)

    def where(self, operator: LinearOperator, y: Tensor) -> Tensor:
        """See `Acquisition`."""
        return operator.mask.expand_as(y)


@dataclass(frozen=True)
class Noisy(Acquisition):
    """Everything is measured, with noise."""

    noise: float = 0.2

    def operator(self, shape: Shape3, spacing: tuple[float, float, float], *key: int | str) -> LinearOperator:
        """See `Acquisition`."""
        return Identity()


def even_angles(views: int, degrees: float) -> Tensor:
    """Angles of views that are spread evenly over an arc, in radians [views]."""
    return torch.arange(views, dtype=torch.float64) * math.radians(degrees) / views


@lru_cache(maxsize=4)
def _parallel(shape: Shape3, views: int, degrees: float, spacing: tuple[float, float]) -> ParallelCT:
    """One matrix for all images of a size: it is the largest thing there is."""
    return ParallelCT(shape, even_angles(views, degrees), spacing)


def of_diagonal(shape: Shape3, spacing: tuple[float, float, float]) -> tuple[float, float]:
    """Spacing along I and J in units of the diagonal of a slice."""
    across = diagonal(shape, spacing)
    return spacing[0] / across, spacing[1] / across


def sensitivities(shape: Shape3, coils: int, path: str = "") -> Tensor | None:
    """Coil maps [coils I J K]: of a file, of a ring, or None for one coil that sees everything alike.

    Raises:
        UserError: the file holds no coil maps.
    """
    if not path:
        return None if coils == 1 else ring_of_coils(shape, coils)
    try:
        held = torch.from_numpy(np.load(path, allow_pickle=False))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}).", "Give an .npy of coil maps.") from error
    if held.ndim != 4 or not held.is_complex() or not held.isfinite().all():
        raise UserError(f"{path} holds {tuple(held.shape)} {held.dtype}; finite complex coil maps [coils I J K] were expected.")
    parts = torch.view_as_real(held.to(torch.complex64)).movedim(-1, 0)
    maps = torch.complex(*F.interpolate(parts, size=tuple(shape), mode="trilinear", align_corners=True))
    power = maps.abs().square().sum(0).sqrt()
    if not power.any():
        raise UserError(f"{path}: no coil sees any voxel.")
    return torch.where(power > UNSEEN * power.max(), maps / power.clamp(min=1e-30), 0)


def ring_of_coils(shape: Shape3, coils: int) -> Tensor:
    """Smooth complex sensitivities of loops on a ring around the axis K [coils I J K], squares summing to 1.

    The magnitude falls with the distance from each loop, the phase turns across the body; a stand-in where no measured maps are at hand.
    """
    if coils < 1:
        raise UserError(f"coils={coils}: at least one is needed.")
    grid = torch.stack(
        torch.meshgrid(*[torch.linspace(-1, 1, n, dtype=torch.float64) if n > 1 else torch.zeros(1).double() for n in shape], indexing="ij")
    )
    maps = []
    for number in range(coils):
        angle = 2 * math.pi * number / coils
        place = torch.tensor([1.2 * math.cos(angle), 1.2 * math.sin(angle), 0.4 * (-1) ** number], dtype=torch.float64)
        distance = (grid - place[:, None, None, None]).square().sum(0)
        phase = angle + 0.8 * (grid[0] * math.sin(angle) - grid[1] * math.cos(angle))
        maps.append(torch.polar(1 / (0.3 + distance), phase))
    found = torch.stack(maps)
    return (found / found.abs().square().sum(0).sqrt()).to(torch.complex64)
