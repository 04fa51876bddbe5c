"""Cartesian magnetic resonance imaging with one or several coils."""

from collections.abc import Sequence

import torch
from torch import Tensor

from medldm.errors import UserError
from medldm.operators.base import LinearOperator, check_fits

SPACE = (-3, -2, -1)


def kspace(x: Tensor) -> Tensor:
    """Orthonormal Fourier transform of the last three axes, frequency 0 and the origin of space at n // 2."""
    return torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(x, dim=SPACE), dim=SPACE, norm="ortho"), dim=SPACE)


def image_space(k: Tensor) -> Tensor:
    """The inverse of `kspace`."""
    return torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(k, dim=SPACE), dim=SPACE, norm="ortho"), dim=SPACE)


class CartesianMRI(LinearOperator):
    """y_n = M F S_n x: coil sensitivities, Fourier transform, measured points (Pruessmann et al. 1999).

    Images [B 1 I J K], complex; measurements [B coils I J K] complex, zero where nothing is measured.

    Args:
        mask: measured points, True or False [I J K], frequency 0 at n // 2.
        coils: sensitivities, complex [coils I J K]; one coil that sees everything by default.

    Raises:
        UserError: nothing is measured, or shapes and types do not fit.
    """

    def __init__(self, mask: Tensor, coils: Tensor | None = None):
        super().__init__()
        if mask.ndim != 3 or mask.dtype != torch.bool:
            raise UserError(f"The mask is {mask.dtype} of shape {tuple(mask.shape)}; True or False for each I J K was expected.")
        if not mask.any():
            raise UserError("The mask measures no point of k-space.", "Lower the acceleration.")
        self.register_buffer("mask", mask)
        self.register_buffer("coils", checked_coils(mask.shape, coils))

    @property
    def normalised(self) -> bool:
        """See `normalised`."""
        return normalised(self.coils)

    def forward(self, x: Tensor) -> Tensor:
        """See `ForwardOperator`."""
        check_fits(x, (1, *self.mask.shape), "images")
        return kspace(like(self.coils, x) * x) * self.mask

    def adjoint(self, y: Tensor) -> Tensor:
        """See `LinearOperator`."""
        check_fits(y, self.coils.shape, "measurements")
        return (like(self.coils, y).conj() * image_space(y * self.mask)).sum(1, keepdim=True)

    def count(self, y: Tensor) -> int:
        """See `LinearOperator`."""
        return 2 * len(self.coils) * int(self.mask.sum())


def checked_coils(shape: Sequence[int], coils: Tensor | None) -> Tensor:
    """Sensitivities [coils I J K]; those of one coil that sees everything for None.

    Raises:
        UserError: they do not fit, or hold nothing that can be used.
    """
    if coils is None:
        return torch.ones(1, *shape, dtype=torch.complex64)
    if coils.ndim != 4 or coils.shape[1:] != torch.Size(shape) or not coils.is_complex():
        raise UserError(f"Coil maps {tuple(coils.shape)} {coils.dtype} do not fit images of {tuple(shape)}: complex [coils I J K] was expected.")
    if not coils.isfinite().all() or not coils.abs().any():
        raise UserError("The coil maps hold nan or infinite values, or nothing but zeros.")
    return coils


def normalised(coils: Tensor) -> bool:
    """True where the squares of coil maps [coils I J K] sum to 1 at each voxel that any coil sees, so that |A x| <= |x|."""
    power = coils.abs().square().sum(0)
    return bool(((power - 1).abs()[power > 1e-6 * power.max()] < 1e-2).all())


class Phase(LinearOperator):
    """A real image with a known phase, e^(i phi) x; its adjoint takes the real part of e^(-i phi) y.

    Args:
        phase: phi in radians [I J K]; 0 by default.
    """

    def __init__(self, phase: Tensor | None = None):
        super().__init__()
        self.register_buffer("turn", torch.ones((), dtype=torch.complex64) if phase is None else torch.polar(torch.ones_like(phase), phase))

    def forward(self, x: Tensor) -> Tensor:
        """Real [B 1 I J K] to complex."""
        return like(self.turn, x) * x

    def adjoint(self, y: Tensor) -> Tensor:
        """Complex to real."""
        return (like(self.turn, y).conj() * y).real


def smooth_phase(y: Tensor, operator: CartesianMRI, widths: Sequence[float] = (8.0, 8.0, 8.0)) -> Tensor:
    """The phase of an image [I J K], from the middle of k-space under a Hann window.

    Args:
        y: measurements [1 coils I J K].
        operator: of which they are.
        widths: of the window along I, J, K, in points on either side of frequency 0; an axis that has no more is taken whole.
    """
    return operator.adjoint(y * _window(y.shape[2:], widths).to(y.device))[0, 0].angle()


def coil_maps(y: Tensor, calibration: Sequence[int]) -> Tensor:
    """Coil sensitivities [coils I J K] from a fully measured block at the centre of k-space, squares summing to 1.

    Each coil's image of low resolution over the root of their sum of squares (Roemer et al. 1990; McKenzie et al. 2002), its phase taken
    relative to the combination of the coils that the first singular vector of the block gives.

    Args:
        y: k-space [1 coils I J K], centred.
        calibration: points along I, J, K of the block; the whole length of an axis that is read out.

    Raises:
        UserError: the block is larger than k-space, or holds nothing.
    """
    sizes = y.shape[2:]
    if any(not 1 <= c <= n for c, n in zip(calibration, sizes, strict=True)):
        raise UserError(f"calibration={tuple(calibration)} does not fit k-space of {tuple(sizes)}.")
    block = y[0] * _window(sizes, [c / 2 for c in calibration]).to(y.device)
    if not block.abs().any():
        raise UserError("The calibration block of k-space is empty.", "Measure its centre, or give coil maps.")
    images = image_space(block)
    vectors = torch.linalg.svd(block.flatten(1), full_matrices=False)[0]
    common = torch.einsum("n,nijk->ijk", vectors[:, 0].conj(), images)
    turn = torch.polar(torch.ones_like(common.real), -common.angle())
    power = images.abs().square().sum(0).sqrt()
    floor = 1e-6 * power.max()
    return torch.where(power > floor, images * turn / power.clamp(min=floor), 0)


def _window(sizes: Sequence[int], halves: Sequence[float]) -> Tensor:
    """The product of one Hann window per axis [I J K]."""
    i, j, k = (_hann(n, half) for n, half in zip(sizes, halves, strict=True))
    return i[:, None, None] * j[None, :, None] * k[None, None, :]


def _hann(n: int, half: float) -> Tensor:
    """1 at n // 2, falling to 0 at `half` points beside it."""
    distance = (torch.arange(n) - n // 2).abs() / max(half, 1e-6)
    return torch.where(distance < 1, 0.5 * (1 + torch.cos(torch.pi * distance)), 0.0) if 2 * half < n else torch.ones(n)


def like(values: Tensor, x: Tensor) -> Tensor:
    """Complex values in the precision of x."""
    double = x.dtype in (torch.float64, torch.complex128)
    return values.to(torch.complex128 if double else torch.complex64)
