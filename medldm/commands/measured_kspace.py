"""K-space of a file as a measurement: which points were measured, coil maps, phase, noise, and which way the body lies."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import torch
from torch import Tensor

from medldm.errors import UserError
from medldm.operators.acquisitions import AcceleratedMRI, Acquisition
from medldm.operators.base import LinearOperator
from medldm.operators.mri import CartesianMRI, Phase, coil_maps, image_space, kspace, normalised, smooth_phase
from medldm.operators.noncartesian import NonCartesianMRI
from medldm.operators.scanners import RadialMRI
from medldm.types import Shape3

RAYLEIGH_MEDIAN = 1.1774  # of |e|, e complex with standard deviation 1 of real and imaginary part
MOST_VOXELS = 1 << 30
OUTER = 0.85  # share of the highest frequency beyond which k-space is taken for noise
LEAST_BLOCK, MOST_BLOCK = 4, 24  # points along each axis that coil maps are estimated from
EMPTY = 0.01  # share of measured points that may be exactly 0
NARROWEST = 4.0  # points on either side of frequency 0 that tell the phase


@dataclass(frozen=True)
class Raw:
    """What a file holds, in its own unit.

    Args:
        operator: A.
        y: measurements [1 ...].
        shape: voxels I, J, K of the image.
        affine: voxel to RAS+ millimetres [4 4].
        measured: frequencies that were measured [I J K], or None where that is no question of frequencies.
        noise: standard deviation of y's noise, where the file tells.
        unit: by which the operator's lengths are larger than the file's.
        kinds: acquisitions that measure like this; any where none is named.
    """

    operator: LinearOperator
    y: Tensor
    shape: Shape3
    affine: np.ndarray
    measured: Tensor | None = None
    noise: float | None = None
    unit: float = 1.0
    kinds: tuple[type[Acquisition], ...] = ()


def of_kspace(path: Path, arrays: Mapping[str, np.ndarray], spacing: tuple[float, float, float]) -> Raw:
    """Of Cartesian k-space, or of samples along a trajectory.

    Args:
        path: for messages.
        arrays: see `measured_files.read`.
        spacing: millimetres per voxel, where there is no `affine`.

    Raises:
        UserError: arrays are missing or do not fit.
    """
    k = torch.from_numpy(np.asarray(arrays["kspace"]))
    if not k.is_complex() or not k.numel():
        raise UserError(f"{path}: kspace is {tuple(k.shape)} {k.dtype}; complex numbers were expected.", "One phase per point is needed.")
    if not k.isfinite().all():
        raise UserError(f"{path} holds {int((~k.isfinite()).sum())} numbers that are not finite.")
    if not k.abs().any():
        raise UserError(f"{path}: k-space holds nothing but zeros.")
    affine = checked_affine(path, arrays, spacing)
    maps = torch.from_numpy(np.asarray(arrays["coils"])).to(torch.complex64) if "coils" in arrays else None
    if maps is not None and maps.ndim != 4:
        raise UserError(f"{path}: coils is {tuple(maps.shape)}; [coils I J K] was expected.")
    if "trajectory" in arrays:
        check_upright(path, affine)
        return _samples(path, arrays, k.to(torch.complex64), maps, affine)
    k = (k[None] if k.ndim == 3 else k).to(torch.complex64)
    if k.ndim != 4:
        raise UserError(f"{path}: kspace is {tuple(k.shape)} {k.dtype}; complex [coils I J K] was expected.")
    if maps is not None and maps.shape != k.shape:
        raise UserError(f"{path}: coils is {tuple(maps.shape)} and kspace {tuple(k.shape)}; a map for each coil was expected.")
    mask = _mask(path, arrays, k)
    k, mask, maps, affine = upright(k * mask, mask, maps, affine)
    if maps is None and len(k) > 1:
        maps = coil_maps(k[None], calibration(mask))
    coils = CartesianMRI(mask, maps)
    _check_normalised(path, coils.coils)
    i, j, n = mask.shape
    phase = smooth_phase(k[None], coils, [max(size / 8, NARROWEST) for size in (i, j, n)])
    return Raw(coils @ Phase(phase), k[None], (i, j, n), affine, mask, kspace_noise(k, mask), kinds=(AcceleratedMRI,))


def _mask(path: Path, arrays: Mapping[str, np.ndarray], k: Tensor) -> Tensor:
    """The points [I J K] that were measured of k-space [coils I J K], as the file says or as its zeros do."""
    there = (k != 0).any(0)
    if "mask" not in arrays:
        return there
    values = torch.from_numpy(np.asarray(arrays["mask"]))
    if values.shape != k.shape[1:] or not bool(((values == 0) | (values == 1)).all()):
        raise UserError(f"{path}: the mask {tuple(values.shape)} was expected as 0 or 1 for each point of k-space {tuple(k.shape[1:])}.")
    mask = values.bool()
    if not mask.any():
        raise UserError(f"{path}: the mask measures nothing.")
    if (empty := int((mask & ~there).sum())) > EMPTY * int(mask.sum()):
        raise UserError(f"{path}: {empty} of {int(mask.sum())} points of the mask are 0 in all coils.", "Give the mask of what was measured.")
    return mask


def _samples(path: Path, arrays: Mapping[str, np.ndarray], k: Tensor, maps: Tensor | None, affine: np.ndarray) -> Raw:
    """Of samples [coils samples] along a trajectory [3 samples]."""
    k = k[None] if k.ndim == 1 else k
    trajectory = torch.from_numpy(np.asarray(arrays["trajectory"], dtype=np.float64))
    if "shape" not in arrays or k.ndim != 2 or trajectory.shape != (3, k.shape[1]):
        raise UserError(
            f"{path}: kspace {tuple(k.shape)} with a trajectory {tuple(trajectory.shape)} needs [coils samples], [3 samples] and shape [3]."
        )
    if maps is None and len(k) > 1:
        raise UserError(f"{path}: samples of {len(k)} coils need coil maps.", "Give `coils` [coils I J K] in the file.")
    i, j, n = checked_shape(path, arrays)
    if maps is not None and maps.shape != (len(k), i, j, n):
        raise UserError(f"{path}: coils is {tuple(maps.shape)}; {(len(k), i, j, n)} was expected.")
    operator = NonCartesianMRI((i, j, n), trajectory, maps)
    _check_normalised(path, operator.coils)
    radius = trajectory.abs().amax(0)
    window = (0.5 + 0.5 * torch.cos(torch.pi * (8 * radius).clamp(max=1))).to(k)  # as wide as that of `smooth_phase`
    phase = operator.adjoint((k * window)[None])[0, 0].angle()
    outer = k[:, radius > OUTER / 2]
    noise = _spread(outer if outer.numel() else k)
    return Raw(operator @ Phase(phase), k[None], (i, j, n), affine, None, noise, kinds=(RadialMRI,))


def checked_shape(path: Path, arrays: Mapping[str, np.ndarray]) -> Shape3:
    """Voxels I, J, K of the image, as a file says.

    Raises:
        UserError: it says something else, or more than `MOST_VOXELS`.
    """
    shape = np.asarray(arrays["shape"])
    if shape.shape != (3,) or shape.dtype.kind not in "iu" or shape.min() < 1 or math.prod(shape.tolist()) > MOST_VOXELS:
        told = shape.tolist() if shape.size < 10 else shape.shape
        raise UserError(f"{path}: shape {told} was expected as three whole numbers, voxels I, J, K, {MOST_VOXELS} together at most.")
    i, j, k = shape.tolist()
    return i, j, k


def checked_affine(path: Path, arrays: Mapping[str, np.ndarray], spacing: tuple[float, float, float]) -> np.ndarray:
    """The affine of a file, or one of voxels of a size.

    Raises:
        UserError: it is none.
    """
    affine = np.asarray(arrays.get("affine", np.diag([*spacing, 1.0])), dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise UserError(f"{path}: affine {affine.shape} is no map from voxels to millimetres [4 4].")
    return affine


def check_upright(path: Path, affine: np.ndarray) -> None:
    """Refuse what would have to be turned and cannot be.

    Raises:
        UserError: I, J, K run elsewhere than to the right, the front and up.
    """
    if (codes := "".join(nibabel.aff2axcodes(affine))) != "RAS":
        raise UserError(f"{path}: its axes run to {codes}; the models know RAS.", "Reverse or exchange axes of angles, trajectory and image.")


def _check_normalised(path: Path, coils: Tensor) -> None:
    if not normalised(coils):
        raise UserError(f"{path}: the squares of the coil maps do not sum to 1.", "Divide the maps by the root of their sum of squares.")


def upright(k: Tensor, mask: Tensor, maps: Tensor | None, affine: np.ndarray) -> tuple[Tensor, Tensor, Tensor | None, np.ndarray]:
    """K-space [coils I J K], mask [I J K], coil maps and affine with axes turned so that I, J, K run to the right, the front and up.

    The models have seen no other orientation. An axis is reversed in the image; in k-space that is a reflection and a phase for each point.
    """
    turn = nibabel.io_orientation(affine)
    order = [int(np.flatnonzero(turn[:, 0] == axis)[0]) for axis in range(3)]
    reverse = [axis for axis, source in enumerate(order) if turn[source, 1] < 0]
    k, mask = k.permute(0, *(1 + source for source in order)), mask.permute(order)
    maps = None if maps is None else maps.permute(0, *(1 + source for source in order))
    affine = affine @ nibabel.orientations.inv_ornt_aff(turn, [mask.shape[order.index(axis)] for axis in range(3)])
    if reverse:
        k = kspace(image_space(k).flip([1 + axis for axis in reverse]))
        maps = None if maps is None else maps.flip([1 + axis for axis in reverse])
        # frequency f lies at n // 2 + f, and -f is not on the grid for the lowest f of an even one: it is its own reflection
        mask = mask.flip(reverse).roll([1 - mask.shape[axis] % 2 for axis in reverse], reverse)
    return (k * mask).contiguous(), mask.contiguous(), maps, affine


def calibration(mask: Tensor) -> tuple[int, int, int]:
    """Points along I, J, K of the largest block at the centre of k-space, grown evenly, that is measured wholly.

    Raises:
        UserError: not even 4 points along each axis.
    """
    sizes, growing = [1, 1, 1], [True, True, True]
    while any(growing):
        for axis in range(3):
            if not growing[axis]:
                continue
            tried = [size + (number == axis) for number, size in enumerate(sizes)]
            most = max(LEAST_BLOCK, min(MOST_BLOCK, mask.shape[axis] // 2))  # maps are smooth, and what is beyond is mostly noise
            block = tuple(slice(n // 2 - size // 2, n // 2 - size // 2 + size) for n, size in zip(mask.shape, tried, strict=True))
            growing[axis] = tried[axis] <= min(most, mask.shape[axis]) and bool(mask[block].all())
            sizes = tried if growing[axis] else sizes
    if any(size < min(LEAST_BLOCK, n) for size, n in zip(sizes, mask.shape, strict=True)):
        raise UserError(f"Only {sizes} points at the centre of k-space are measured wholly, too few for coil maps.", "Give `coils` in the file.")
    return sizes[0], sizes[1], sizes[2]


def kspace_noise(y: Tensor, mask: Tensor | None) -> float:
    """Standard deviation of noise, of real and imaginary part each, from the outermost measured points of k-space [coils I J K]."""
    axes = [(torch.arange(n) - n // 2).abs() / max(n // 2, 1) for n in y.shape[1:]]
    outer = torch.maximum(torch.maximum(axes[0][:, None, None], axes[1][None, :, None]), axes[2][None, None, :]) > OUTER
    chosen = y[:, outer if mask is None else outer & mask]
    return _spread(chosen if chosen.numel() else y[y != 0])


def _spread(y: Tensor) -> float:
    return float(y.abs().median()) / RAYLEIGH_MEDIAN
