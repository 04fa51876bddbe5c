"""Measurements from files: k-space and sinograms as npz, thick slices and other images as NIfTI; brought to the scale of images in [-1, 1]."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from medldm.diffusion.reconstruction import Measurement
from medldm.errors import UserError
from medldm.operators.acquisitions import AcceleratedMRI, Acquisition, LargeVoxels, MissingBlock, SparseCT, ThickSlices, of_diagonal
from medldm.operators.anatomy import Anatomy, stretched
from medldm.operators.base import LinearOperator, inner
from medldm.operators.ct import ParallelCT
from medldm.operators.mri import CartesianMRI, Phase, coil_maps, smooth_phase
from medldm.operators.voxelwise import Inpainting
from medldm.types import Shape3
from medldm.volume import read_volume

RAYLEIGH_MEDIAN = 1.1774  # of |e|, e complex with standard deviation 1 of real and imaginary part
OUTER = 0.85  # share of the highest frequency beyond which k-space is taken for noise
ROUNDS = 3


@dataclass(frozen=True)
class Found:
    """One file of measurements.

    Args:
        of: the measurement, scaled so that the image lies in about [-1, 1].
        shape: voxels I, J, K of the image.
        affine: voxel to millimetres [4 4].
        scale: c; the image in the unit of the file is c (x + 1).
    """

    of: Measurement
    shape: Shape3
    affine: np.ndarray
    scale: float


def files(folder: Path) -> list[Path]:
    """Files of measurements in a folder, sorted.

    Raises:
        UserError: there is none.
    """
    found = sorted(path for path in Path(folder).iterdir() if path.name.endswith((".npz", ".nii", ".nii.gz"))) if Path(folder).is_dir() else []
    if not found:
        raise UserError(f"{folder} holds no measurements.", "Give a folder of .npz or .nii.gz files.")
    return found


def read(path: Path, acquisition: Acquisition, noise: float | None, anatomy: Anatomy, spacing: tuple[float, float, float]) -> Found:
    """One measurement.

    Args:
        path: an npz with `kspace` [coils I J K] or [I J K] complex, frequency 0 at n // 2, and perhaps `mask` [I J K] and `coils`
            [coils I J K]; one with `sinogram` [views bins K] of line integrals and `angles` in radians, `shape` [3]; or an image.
        acquisition: what kind of measurement it is, for images and for noise.
        noise: standard deviation in the unit of the file; None to estimate it (k-space) or to take the acquisition's, in the unit of [-1, 1].
        anatomy: what the images look like, for the scale.
        spacing: millimetres per voxel, where the file does not say.

    Raises:
        UserError: the file does not hold what was expected.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as held:
                arrays = {key: held[key] for key in held.files}
            affine = arrays.get("affine", np.diag([*spacing, 1.0]))
            operator, y, shape, measured = _kspace(path, arrays) if "kspace" in arrays else _sinogram(path, arrays, spacing)
        else:
            operator, y, shape, affine = _image(path, acquisition)
            measured = None
    except (OSError, ValueError, BadZipFile) as error:
        raise UserError(f"{path} cannot be read ({error}).") from error
    if not y.isfinite().all():
        raise UserError(f"{path} holds {int((~y.isfinite()).sum())} numbers that are not finite.")
    return _scaled(Measurement(operator, y, -1.0, measured), shape, affine, noise, acquisition.noise, anatomy, path)


def _kspace(path: Path, arrays: Mapping[str, np.ndarray]) -> tuple[LinearOperator, Tensor, Shape3, Tensor]:
    k = torch.from_numpy(np.asarray(arrays["kspace"]))
    k = k[None] if k.ndim == 3 else k
    if k.ndim != 4 or not k.is_complex():
        raise UserError(f"{path}: kspace is {tuple(k.shape)} {k.dtype}; complex [coils I J K] was expected.")
    k = k.to(torch.complex64)[None]
    mask = torch.from_numpy(np.asarray(arrays["mask"])).bool() if "mask" in arrays else (k[0] != 0).any(0)
    if mask.shape != k.shape[2:]:
        raise UserError(f"{path}: the mask {tuple(mask.shape)} does not fit k-space {tuple(k.shape[2:])}.")
    if not mask.any():
        raise UserError(f"{path}: the mask measures nothing.")
    k = k * mask
    maps = torch.from_numpy(np.asarray(arrays["coils"])).to(torch.complex64) if "coils" in arrays else None
    if maps is None and k.shape[1] > 1:
        maps = coil_maps(k, calibration(mask))
    coils = CartesianMRI(mask, maps)
    if not coils.normalised:
        raise UserError(f"{path}: the squares of the coil maps do not sum to 1.", "Divide the maps by the root of their sum of squares.")
    i, j, _ = mask.shape
    return coils @ Phase(smooth_phase(k, coils, min(i, j) / 8)), k, (int(mask.shape[0]), int(mask.shape[1]), int(mask.shape[2])), mask


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
            block = tuple(slice(n // 2 - size // 2, n // 2 - size // 2 + size) for n, size in zip(mask.shape, tried, strict=True))
            growing[axis] = tried[axis] <= mask.shape[axis] and bool(mask[block].all())
            sizes = tried if growing[axis] else sizes
    if any(size < min(4, n) for size, n in zip(sizes, mask.shape, strict=True)):
        raise UserError(f"Only {sizes} points at the centre of k-space are measured wholly, too few for coil maps.", "Give `coils` in the file.")
    return sizes[0], sizes[1], sizes[2]


def _sinogram(path: Path, arrays: Mapping[str, np.ndarray], spacing: tuple[float, float, float]) -> tuple[LinearOperator, Tensor, Shape3, None]:
    if missing := [key for key in ("sinogram", "angles", "shape") if key not in arrays]:
        raise UserError(f"{path} holds neither kspace nor {' and '.join(missing)}.", "Give kspace, or sinogram, angles and shape.")
    y = torch.from_numpy(np.asarray(arrays["sinogram"], dtype=np.float32))[None, None]
    i, j, k = (int(n) for n in arrays["shape"])
    if y.ndim != 5 or y.shape[4] != k or y.shape[2] != len(arrays["angles"]):
        raise UserError(f"{path}: sinogram {tuple(y.shape[2:])} was expected as [{len(arrays['angles'])} views, bins, {k} slices].")
    if float(y.mean()) < 0:
        raise UserError(f"{path}: line integrals of attenuation are not negative.", "Convert from HU, and take minus the logarithm of counts.")
    angles = torch.from_numpy(np.asarray(arrays["angles"], dtype=np.float64))
    operator = ParallelCT((i, j, k), angles, of_diagonal((i, j, k), spacing), bins=y.shape[3])
    return operator, y, (i, j, k), None


def _image(path: Path, acquisition: Acquisition) -> tuple[LinearOperator, Tensor, Shape3, np.ndarray]:
    volume = read_volume(path)
    y, spacing = volume.data[None].float(), np.array(volume.spacing)
    if isinstance(acquisition, AcceleratedMRI | SparseCT):
        raise UserError(f"{path} is an image; {type(acquisition).__name__} measures none.", "Give the npz, or another --acquisition.")
    if isinstance(acquisition, MissingBlock):
        known = y[0, 0].isfinite()
        return Inpainting(known), y.nan_to_num(0.0), volume.shape, volume.affine
    factors = np.ones(3)
    if isinstance(acquisition, ThickSlices):
        factors[acquisition.axis] = acquisition.distance
    if isinstance(acquisition, LargeVoxels):
        factors = np.array(acquisition.factors)
    i, j, k = (round(n * f) for n, f in zip(volume.shape, factors, strict=True))
    affine = volume.affine.copy()
    affine[:3, :3] = affine[:3, :3] / factors
    affine[:3, 3] = (volume.affine @ np.array([*(-0.5 * (1 - 1 / factors)), 1.0]))[:3]
    return acquisition.operator((i, j, k), tuple(spacing / factors), path.name), y, (i, j, k), affine


def _scaled(raw: Measurement, shape: Shape3, affine: np.ndarray, noise: float | None, usual: float, anatomy: Anatomy, path: Path) -> Found:
    """The measurement of x where y = c A (x + 1): c is estimated jointly with the best linear estimate of x, begun at the mean image."""
    operator, y = raw.operator, raw.y
    x = stretched(anatomy.mean, shape)[None]
    one = operator(torch.ones_like(x))
    if noise is None and y.is_complex():
        noise = kspace_noise(y[0], raw.measured)
    scale, relative = 1.0, usual
    for _ in range(ROUNDS):
        expected = operator(x) + one
        scale = float(inner(y, expected) / inner(expected, expected))
        if not scale > 0:
            raise UserError(f"{path} does not look like a measurement of such images: its sign is opposite.", "Is 0 no signal in it?")
        relative = usual if noise is None else noise / scale
        x = anatomy.prior(shape, relative)(operator, y / scale - one)
    return Found(replace(raw, y=y / scale - one, noise=relative), shape, affine, scale)


def kspace_noise(y: Tensor, mask: Tensor | None) -> float:
    """Standard deviation of noise, of real and imaginary part each, from the outermost measured points of k-space [coils I J K]."""
    axes = [(torch.arange(n) - n // 2).abs() / max(n // 2, 1) for n in y.shape[1:]]
    outer = torch.maximum(torch.maximum(axes[0][:, None, None], axes[1][None, :, None]), axes[2][None, None, :]) > OUTER
    chosen = y[:, outer if mask is None else outer & mask]
    return float((chosen if chosen.numel() else y[y != 0]).abs().median()) / RAYLEIGH_MEDIAN
