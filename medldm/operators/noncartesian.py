"""Magnetic resonance imaging along any trajectory through k-space, by torchkbnufft (Muckley et al. 2020)."""

import math

import torch
from torch import Tensor, nn

from medldm.errors import UserError
from medldm.operators.base import check_fits
from medldm.operators.mri import checked_coils, like
from medldm.operators.opaque import Opaque
from medldm.optional import require
from medldm.types import Shape3

LEAST = 3  # voxels along an axis
TABLE = 2**14  # places between two points at which the kernel is kept: errors of 1e-4 of the largest number; with the 2^10 of the package 1.6e-3
GOLDEN = math.pi * (math.sqrt(5) - 1) / 2  # radians between successive spokes (Winkelmann et al. 2007)


class NonCartesianMRI(Opaque):
    """y_n(k) = sum_v S_n(v) x(v) exp(-2 pi i <k, v>) / sqrt(I J K), v counted from n // 2, by Kaiser-Bessel interpolation (Fessler & Sutton 2003).

    Images [B 1 I J K], complex; measurements [B coils samples], complex. On a Cartesian trajectory it is `CartesianMRI` to about 1e-5.
    Needs the extra "nufft".

    Args:
        shape: voxels I, J, K.
        trajectory: k of each sample in cycles per voxel, in [-1/2, 1/2] [3 samples].
        coils: sensitivities, complex [coils I J K]; one coil that sees everything by default.

    Raises:
        UserError: shapes, types or ranges do not fit, or torchkbnufft is not installed.
    """

    def __init__(self, shape: Shape3, trajectory: Tensor, coils: Tensor | None = None):
        super().__init__()
        self.package = require("torchkbnufft", "nufft")
        if trajectory.ndim != 2 or trajectory.shape[0] != 3 or not trajectory.shape[1] or trajectory.is_complex():
            raise UserError(f"The trajectory {tuple(trajectory.shape)} {trajectory.dtype} was expected as real numbers [3 samples].")
        if not trajectory.isfinite().all() or float(trajectory.abs().max()) > 0.5:
            raise UserError(f"The trajectory reaches {float(trajectory.abs().max()):g} cycles per voxel; at most 0.5 was expected.")
        self.shape, self.axes = tuple(shape), [axis for axis, n in enumerate(shape) if n > 1]
        if any(shape[axis] < LEAST for axis in self.axes):
            raise UserError(f"Interpolation needs at least {LEAST} voxels along each axis, or one; {tuple(shape)} were given.")
        self.register_buffer("trajectory", trajectory.double())
        self.register_buffer("coils", checked_coils(self.shape, coils))
        self.steps: dict[torch.dtype, tuple[nn.Module, nn.Module]] = {}

    def there(self, x: Tensor) -> Tensor:
        """See `Opaque`."""
        check_fits(x, (1, *self.shape), "images")
        transform, _ = self._transforms(x)
        return transform(self._flat(like(self.coils, x) * x), self._turns(x), norm="ortho") * self._unit

    def back(self, y: Tensor) -> Tensor:
        """See `Opaque`."""
        check_fits(y, (len(self.coils), self.trajectory.shape[1]), "measurements")
        _, transform = self._transforms(y)
        found = transform(y, self._turns(y), norm="ortho").reshape(*y.shape[:2], *self.shape)
        return (like(self.coils, y).conj() * found).sum(1, keepdim=True) * self._unit

    @property
    def _unit(self) -> float:
        """torchkbnufft divides by the root of the padded grid's points."""
        return 2 ** (len(self.axes) / 2)

    def _flat(self, x: Tensor) -> Tensor:
        """Without axes of one voxel, whose frequency says nothing."""
        return x.reshape(*x.shape[:2], *(self.shape[axis] for axis in self.axes))

    def _turns(self, x: Tensor) -> Tensor:
        return (2 * math.pi * self.trajectory[self.axes]).to(x.real.dtype)

    def _transforms(self, x: Tensor) -> tuple[nn.Module, nn.Module]:
        """The transform and its adjoint in the precision of x, on its device."""
        if x.dtype not in self.steps:
            kinds = (self.package.KbNufft, self.package.KbNufftAdjoint)
            sizes = tuple(self.shape[axis] for axis in self.axes)
            self.steps[x.dtype] = tuple(kind(sizes, table_oversamp=TABLE, dtype=x.real.dtype) for kind in kinds)
        return tuple(step.to(x.device) for step in self.steps[x.dtype])


def stack_of_stars(shape: Shape3, spokes: int, samples: int | None = None) -> Tensor:
    """Radial lines in the plane of I and J, each turned by the golden angle, at every frequency along K (Block et al. 2014) [3 samples].

    Args:
        shape: voxels I, J, K.
        spokes: in each plane.
        samples: along each spoke; twice the longer side by default.

    Raises:
        UserError: there is no spoke.
    """
    count = samples or 2 * max(shape[:2])
    if spokes < 1 or count < 2:
        raise UserError(f"spokes={spokes}, samples={count}: at least one spoke of two samples was expected.")
    angles = GOLDEN * torch.arange(spokes, dtype=torch.float64)
    along = (torch.arange(count, dtype=torch.float64) - count // 2) / count
    planes = (torch.arange(shape[2], dtype=torch.float64) - shape[2] // 2) / shape[2]
    i, j = angles.cos()[:, None] * along, angles.sin()[:, None] * along
    lines = torch.stack([i, j]).flatten(1)
    return torch.cat([lines.repeat_interleave(len(planes), 1), planes.repeat(lines.shape[1])[None]])
