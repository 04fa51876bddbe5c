"""Measurements from files: k-space and sinograms as npz, raw data of ISMRMRD, slices and other images as NIfTI; in the scale of images in [-1, 1]."""

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import nibabel
import numpy as np
import torch

from medldm.commands.measured_ismrmrd import read_ismrmrd
from medldm.commands.measured_kspace import Raw, check_upright, checked_affine, checked_shape, of_kspace
from medldm.diffusion.reconstruction import Measurement
from medldm.errors import UserError
from medldm.operators.acquisitions import AcceleratedMRI, Acquisition, LargeVoxels, MissingBlock, SparseCT, ThickSlices, of_diagonal
from medldm.operators.anatomy import Anatomy, stretched
from medldm.operators.base import inner
from medldm.operators.ct import FanCT, ParallelCT, diagonal, outside
from medldm.operators.scanners import FanBeamCT, RadialMRI
from medldm.operators.voxelwise import Inpainting
from medldm.types import Shape3
from medldm.volume import read_volume

ENDINGS = (".npz", ".h5", ".nii", ".nii.gz")
ROUNDS = 3
ALIKE = 1.2  # ratio of voxel sizes within which a prior serves
BESIDE = 0.2  # of the largest line integral: noise is less
BELOW_AIR = -0.05  # of the largest value: noise is seldom lower, HU are


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
    found = sorted(path for path in Path(folder).iterdir() if path.name.endswith(ENDINGS)) if Path(folder).is_dir() else []
    if not found:
        raise UserError(f"{folder} holds no measurements.", f"Give a folder of {', '.join(ENDINGS)} files.")
    return found


def read(path: Path, acquisition: Acquisition, noise: float | None, anatomy: Anatomy, spacing: tuple[float, float, float]) -> Found:
    """One measurement.

    Args:
        path: an npz with `kspace` [coils I J K] or [I J K] complex, frequency 0 at n // 2, and perhaps `mask` [I J K], `coils`
            [coils I J K] and `affine` [4 4]; or with `kspace` [coils samples], `trajectory` [3 samples] in cycles per voxel and `shape` [3];
            or with `sinogram` [views bins K] of line integrals, `angles` in radians and `shape` [3], for a fan also `source` and `detector`
            (see `FanCT`), and `bin_width`, in millimetres; an .h5 of ISMRMRD; or an image.
        acquisition: what kind of measurement it is, for images and for noise.
        noise: standard deviation in the unit of the file; None to estimate it (k-space) or to take the acquisition's, in the unit of [-1, 1].
        anatomy: what the images look like, for the scale.
        spacing: millimetres per voxel of the models' images, and of the file's where it does not say.

    Raises:
        UserError: the file does not hold what was expected.
    """
    if noise is not None and not noise > 0:
        raise UserError(f"noise={noise} must be positive.", "Leave it away to have it estimated.")
    try:
        if path.suffix == ".h5":
            raw = of_kspace(path, read_ismrmrd(path), spacing)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as held:
                arrays = {key: held[key] for key in held.files}
            raw = of_kspace(path, arrays, spacing) if "kspace" in arrays else _sinogram(path, arrays, spacing)
        else:
            raw = _image(path, acquisition)
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path}: {error}") from error
    except (OSError, ValueError, TypeError, EOFError, BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}).") from error
    if raw.kinds and type(acquisition) not in raw.kinds:
        wanted = " or ".join(kind.__name__ for kind in raw.kinds)
        raise UserError(f"{path} is no measurement of {type(acquisition).__name__}, which would calibrate it.", f"Give --acquisition {wanted}.")
    if not raw.y.isfinite().all():
        raise UserError(f"{path} holds {int((~raw.y.isfinite()).sum())} numbers that are not finite.")
    ratios = np.linalg.norm(raw.affine[:3, :3], axis=0) / np.array(spacing)
    if not (ratios.max() < ALIKE and ratios.min() > 1 / ALIKE):
        told = " x ".join(f"{size:.3g}" for size in ratios * spacing)
        raise UserError(f"{path}: its image would have voxels of {told} mm; the models know {' x '.join(f'{s:.3g}' for s in spacing)} mm.")
    return _scaled(raw, noise, acquisition.noise, anatomy, path)


def _sinogram(path: Path, arrays: Mapping[str, np.ndarray], spacing: tuple[float, float, float]) -> Raw:
    if missing := [key for key in ("sinogram", "angles", "shape") if key not in arrays]:
        raise UserError(f"{path} holds neither kspace nor {' and '.join(missing)}.", "Give kspace, or sinogram, angles and shape.")
    if np.iscomplexobj(arrays["sinogram"]):
        raise UserError(f"{path}: the sinogram is complex; line integrals are real.")
    y = torch.from_numpy(np.asarray(arrays["sinogram"], dtype=np.float32))[None, None]
    i, j, k = checked_shape(path, arrays)
    if not y.any():
        raise UserError(f"{path}: the sinogram holds nothing but zeros.")
    if y.ndim != 5 or y.shape[4] != k or y.shape[2] != len(arrays["angles"]):
        raise UserError(f"{path}: sinogram {tuple(y.shape[2:])} was expected as [{len(arrays['angles'])} views, bins, {k} slices].")
    if float(y.mean()) < 0:
        raise UserError(f"{path}: line integrals of attenuation are not negative.", "Convert from HU, and take minus the logarithm of counts.")
    affine = checked_affine(path, arrays, spacing)
    check_upright(path, affine)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    angles, unit = torch.from_numpy(np.asarray(arrays["angles"], dtype=np.float64)), diagonal((i, j), (sizes[0], sizes[1]))
    across, width = of_diagonal((i, j, k), (sizes[0], sizes[1], sizes[2])), float(arrays["bin_width"]) / unit if "bin_width" in arrays else None
    if "source" not in arrays:
        parallel = ParallelCT((i, j, k), angles, across, y.shape[3], width)
        return _beside(path, Raw(parallel, y, (i, j, k), affine, unit=unit, kinds=(SparseCT,)))
    if "detector" not in arrays:
        raise UserError(f"{path} names the source and not the detector.", "Give `detector`, millimetres from the source.")
    outside(unit / 2, float(arrays["source"]), float(arrays["detector"]))
    source, detector = (float(arrays[name]) / unit for name in ("source", "detector"))
    fan = FanCT((i, j, k), angles, source, detector, across, y.shape[3], width)
    return _beside(path, Raw(fan, y, (i, j, k), affine, unit=unit, kinds=(FanBeamCT,)))


def _beside(path: Path, raw: Raw) -> Raw:
    """A sinogram whose rays beside the image met nothing.

    Raises:
        UserError: they have a value, as counts have.
    """
    missing = raw.operator(torch.ones(1, 1, *raw.shape)) == 0
    if missing.any() and float(raw.y[missing].abs().mean()) > BESIDE * float(raw.y.abs().max()):
        raise UserError(f"{path}: rays beside the image are not 0.", "Give line integrals: minus the logarithm of counts over those in air.")
    return raw


def _image(path: Path, acquisition: Acquisition) -> Raw:
    """Of an image, turned so that its axes run to the right, the front and up; NaN where a block is missing."""
    if isinstance(acquisition, AcceleratedMRI | RadialMRI | SparseCT):
        raise UserError(f"{path} is an image; {type(acquisition).__name__} measures none.", "Give the npz, or another --acquisition.")
    volume = read_volume(path, missing=isinstance(acquisition, MissingBlock))
    if len(volume.data) > 1:
        raise UserError(f"{path} has {len(volume.data)} channels; one was expected.", "Save each to a file of its own.")
    turn = nibabel.io_orientation(volume.affine)
    affine = volume.affine @ nibabel.orientations.inv_ornt_aff(turn, volume.shape)
    y = torch.from_numpy(np.ascontiguousarray(nibabel.apply_orientation(volume.data[0].numpy(), turn)))[None, None].float()
    known = y.isfinite()
    if not known.any() or float(y[known].min()) < BELOW_AIR * float(y[known].max()):
        lowest = float(y[known].min()) if known.any() else float("nan")
        raise UserError(f"{path}: its lowest value is {lowest:g}.", "0 was expected where there is no signal; add 1000 to HU.")
    if not y[known].any():
        raise UserError(f"{path} holds nothing but zeros.")
    factors = np.ones(3)
    if isinstance(acquisition, MissingBlock):
        if known.all():
            raise UserError(f"{path}: no voxel of it is missing.", "Write NaN where the image is to be filled in.")
        return Raw(Inpainting(known[0, 0]), y.nan_to_num(0.0), tuple(y.shape[2:]), affine)
    if isinstance(acquisition, ThickSlices):
        factors[acquisition.axis] = acquisition.distance
    if isinstance(acquisition, LargeVoxels):
        factors = np.array(acquisition.factors)
    i, j, k = (math.ceil(n * f - 1e-6) for n, f in zip(y.shape[2:], factors, strict=True))
    fine = affine.copy()
    fine[:3, :3] = affine[:3, :3] / factors
    fine[:3, 3] = (affine @ np.array([*(-0.5 * (1 - 1 / factors)), 1.0]))[:3]
    sizes = np.linalg.norm(fine[:3, :3], axis=0)
    operator = acquisition.operator((i, j, k), (sizes[0], sizes[1], sizes[2]), "file")
    if (measured := operator(torch.zeros(1, 1, i, j, k)).shape) != y.shape:
        raise UserError(f"{path} has {tuple(y.shape[2:])} voxels; {acquisition} would measure {tuple(measured[2:])} of {(i, j, k)}.")
    return Raw(operator, y, (i, j, k), fine)


def _scaled(raw: Raw, noise: float | None, usual: float, anatomy: Anatomy, path: Path) -> Found:
    """The measurement of x where y = c A (x + 1): c is estimated jointly with the best linear estimate of x, begun at the mean image."""
    operator, y = raw.operator, raw.y
    x = stretched(anatomy.mean, raw.shape)[None]
    one = operator(torch.ones_like(x))
    noise = raw.noise if noise is None else noise
    scale, relative = 1.0, usual
    for _ in range(ROUNDS):
        expected = operator(x) + one
        scale = float(inner(y, expected) / inner(expected, expected))
        if not scale > 0:
            raise UserError(f"{path} does not look like a measurement of such images: its sign is opposite.", "Is 0 no signal in it?")
        relative = usual if noise is None else noise / scale
        x = anatomy.prior(raw.shape, relative)(operator, y / scale - one)
    return Found(Measurement(operator, y / scale - one, relative, raw.measured), raw.shape, raw.affine, scale / raw.unit)
