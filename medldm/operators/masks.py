"""Which points of k-space are measured: random, of variable density, Poisson discs, equispaced, each with a calibration block."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from medldm.errors import UserError
from medldm.types import Shape3

ATTEMPTS = 40
HALVINGS = 14
CLOSE = 0.02  # of the number of points asked for


@dataclass(frozen=True)
class Mask(ABC):
    """A choice of points in the plane, or on the line, of phase encoding; the other axes are read out whole.

    Args:
        acceleration: R, voxels of the plane per measured point, calibration included; at least 1.
        calibration: points along each axis of a block at the centre of k-space that is always measured.
        axes: phase-encoded axes, 0, 1 or 2 for I, J, K.
        hermitian: measure with each point the one opposite to it. An image of known phase tells one from the other, so with a real image any
            other mask measures nearly twice what its acceleration says.

    Raises:
        UserError: a number is out of its range.
    """

    acceleration: float = 4.0
    calibration: int = 6
    axes: tuple[int, ...] = (1, 2)
    hermitian: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.acceleration < math.inf or self.calibration < 0:
            raise UserError(f"acceleration={self.acceleration} must be at least 1, calibration={self.calibration} at least 0.")
        if not self.axes or len(set(self.axes)) < len(self.axes) or not set(self.axes) <= {0, 1, 2} or len(self.axes) > 2:
            raise UserError(f"axes={self.axes}: one or two of 0, 1 and 2 were expected.")

    def __call__(self, shape: Shape3, generator: torch.Generator) -> Tensor:
        """The measured points [I J K], True or False, the frequency 0 at n // 2 of each axis.

        Raises:
            UserError: the calibration block alone has more points than the acceleration leaves.
        """
        plane = tuple(shape[axis] for axis in sorted(self.axes))
        block = _block(plane, self.calibration)
        count = round(math.prod(plane) / self.acceleration)
        if int(block.sum()) > count:
            found = f"calibration={self.calibration} needs {int(block.sum())} points; acceleration={self.acceleration} of {plane} leaves {count}"
            raise UserError(f"{found}.", "Lower one of the two.")
        chosen = self.closed(block | self.points(plane, block, count, generator))
        view = [shape[axis] if axis in self.axes else 1 for axis in range(3)]
        return chosen.reshape(view).expand(shape).clone()

    def closed(self, chosen: Tensor) -> Tensor:
        """The points with their opposites, where these are measured, too."""
        return chosen | _opposite(chosen) if self.hermitian else chosen

    @abstractmethod
    def points(self, plane: tuple[int, ...], block: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Measured points of the plane, about `count` of them with the calibration block."""


@dataclass(frozen=True)
class VariableDensity(Mask):
    """Points drawn with a probability that falls as (1 - r)^power, r the distance from the centre relative to the farthest corner.

    Source: Lustig, Donoho & Pauly 2007. A power of 0 is uniform.

    Args:
        power: how fast the density falls, at least 0.
    """

    power: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.power < math.inf:
            raise UserError(f"power={self.power} must be at least 0.")

    def points(self, plane: tuple[int, ...], block: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """See `Mask`; without replacement, by the largest of log-uniform keys (Efraimidis & Spirakis 2006)."""
        weight = (1 - _radius(plane)).clamp(min=1e-3) ** self.power
        keys = torch.rand(plane, generator=generator, dtype=torch.float64).log() / weight
        keys[block] = 0.0
        if self.hermitian:  # both of a pair or none
            keys = torch.maximum(keys, _opposite(keys))
        chosen = torch.zeros(math.prod(plane), dtype=torch.bool)
        chosen[keys.flatten().topk(count).indices] = True
        return chosen.reshape(plane)


@dataclass(frozen=True)
class Uniform(VariableDensity):
    """Points drawn with one probability everywhere."""

    power: float = 0.0


@dataclass(frozen=True)
class Equispaced(Mask):
    """Every n-th line of the first phase-encoded axis, from a random one on, beside the calibration block."""

    def points(self, plane: tuple[int, ...], block: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """See `Mask`; the step is the one that comes nearest to the number of points."""
        first = int(torch.randint(plane[0], (1,), generator=generator))
        masks = []
        for step in range(1, plane[0] + 1):
            mask = torch.zeros(plane, dtype=torch.bool)
            mask[first % step :: step] = True
            masks.append(mask)
        return min(masks, key=lambda mask: abs(int(self.closed(mask | block).sum()) - count))


@dataclass(frozen=True)
class PoissonDisc(Mask):
    """Points that keep a distance from each other which grows with the distance from the centre.

    Source: Vasanawala et al. 2011, by dart throwing (Bridson 2007) with a radius found by bisection.

    Args:
        slope: how many times larger the distance is at the corner than at the centre.
    """

    slope: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.slope < math.inf:
            raise UserError(f"slope={self.slope} must be at least 1.")

    def points(self, plane: tuple[int, ...], block: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """See `Mask`."""
        order = torch.randperm(math.prod(plane), generator=generator).tolist()
        scale = 1 + (self.slope - 1) * _radius(plane)
        low, high, found = 0.0, float(max(plane)), block
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            found = _darts(plane, order, scale * middle)
            number = int(self.closed(found | block).sum())
            if abs(number - count) <= CLOSE * count:
                break
            low, high = (middle, high) if number > count else (low, middle)
        return found


def _darts(plane: tuple[int, ...], order: list[int], distance: Tensor) -> Tensor:
    """Points taken in a given order wherever no earlier one is nearer than their distance."""
    sizes = (*plane, 1)[:2]
    free = torch.ones(sizes, dtype=torch.bool)
    chosen = torch.zeros(sizes, dtype=torch.bool)
    reach = distance.reshape(sizes).tolist()
    grid = [torch.arange(n, dtype=torch.float64) for n in sizes]
    for place in order:
        i, j = divmod(place, sizes[1])
        if not free[i, j]:
            continue
        chosen[i, j] = True
        r = reach[i][j]
        rows, columns = (slice(max(0, math.ceil(c - r)), min(n, math.floor(c + r) + 1)) for c, n in zip((i, j), sizes, strict=True))
        near = (grid[0][rows, None] - i) ** 2 + (grid[1][None, columns] - j) ** 2 < r * r
        free[rows, columns] &= ~near
    return chosen.reshape(plane)


def _radius(plane: tuple[int, ...]) -> Tensor:
    """Distance from the centre of k-space, 1 at the farthest corner, each axis in units of its length."""
    axes = [(torch.arange(n, dtype=torch.float64) - n // 2) / max(n // 2, 1) for n in plane]
    squares = [axis.square().reshape([-1 if a == i else 1 for a in range(len(plane))]) for i, axis in enumerate(axes)]
    distance = sum(squares[1:], squares[0]).sqrt()
    return distance / distance.max().clamp(min=1e-12)


def _block(plane: tuple[int, ...], size: int) -> Tensor:
    """The calibration block."""
    mask = torch.zeros(plane, dtype=torch.bool)
    mask[tuple(slice(max(0, n // 2 - size // 2), n // 2 - size // 2 + size) for n in plane)] = size > 0
    return mask


def _opposite(plane: Tensor) -> Tensor:
    """Values at the opposite frequencies, in centred order."""
    flipped = torch.fft.ifftshift(plane).flip(tuple(range(plane.ndim))).roll([1] * plane.ndim, tuple(range(plane.ndim)))
    return torch.fft.fftshift(flipped)
