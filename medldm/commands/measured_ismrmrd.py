"""Raw MRI data in the format of ISMRM (Inati et al. 2017), sorted into Cartesian k-space."""

from pathlib import Path

import numpy as np

from medldm.errors import UserError
from medldm.optional import require

GROUP = "dataset"
#: Counters of an acquisition that say that it belongs to another image.
OTHERS = ("contrast", "phase", "repetition", "set")
#: Patient coordinates of the format run to the left and back, ours to the right and front.
TO_RAS = np.array([-1.0, -1.0, 1.0])


def read_ismrmrd(path: Path) -> dict[str, np.ndarray]:
    """`kspace` [coils I J K], `mask` [I J K] and `affine` [4 4]; I is read out, J and K are encoded, or K counts slices.

    Averages are averaged, lines that hold noise or navigators alone are left out, and the read-out is cut to the field of view. Slices
    that were measured one by one are transformed along K, so that they are k-space of a volume, too.

    Args:
        path: an .h5 file.

    Raises:
        UserError: it is no such file, its trajectory is not Cartesian, it holds several images, or lines lie outside of its grid.
    """
    ismrmrd = require("ismrmrd", "ismrmrd")
    try:
        with ismrmrd.File(str(path), "r") as file:
            if GROUP not in file:
                raise UserError(f"{path} has no group {GROUP!r}.", "Is it raw data of ISMRMRD?")
            header, acquisitions = file[GROUP].header, list(file[GROUP].acquisitions)
    except (OSError, KeyError) as error:
        raise UserError(f"{path} cannot be read as raw data of ISMRMRD ({error}).") from error
    encoding = header.encoding[0]
    if encoding.trajectory.value != "cartesian":
        raise UserError(f"{path}: its trajectory is {encoding.trajectory.value}.", "Give kspace, trajectory and shape as npz.")
    lines = [one for one in acquisitions if _of_image(ismrmrd, one)]
    if not lines:
        raise UserError(f"{path} holds no line of an image.")
    for counter in OTHERS:
        if len(found := {getattr(line.idx, counter) for line in lines}) > 1:
            raise UserError(f"{path} holds {len(found)} images (their {counter} differs).", "Save each to a file of its own.")
    kspace, mask = _sorted(path, lines, encoding)
    return _in_view(kspace, mask, lines, encoding)


def _of_image(ismrmrd, line) -> bool:
    """False for lines that serve something else than the image."""
    names = ("IS_NOISE_MEASUREMENT", "IS_NAVIGATION_DATA", "IS_PHASECORR_DATA", "IS_HPFEEDBACK_DATA", "IS_DUMMYSCAN_DATA", "IS_RTFEEDBACK_DATA")
    return not any(line.is_flag_set(getattr(ismrmrd, f"ACQ_{name}")) for name in names)


def _sorted(path: Path, lines: list, encoding) -> tuple[np.ndarray, np.ndarray]:
    """K-space [coils x y z], of which z may count slices, and how often each point was measured [x y z]."""
    size = encoding.encodedSpace.matrixSize
    slices = 1 + max(line.idx.slice for line in lines)
    if slices > 1 and size.z > 1:
        raise UserError(f"{path} holds {slices} slabs.", "Save each to a file of its own.")
    shape = (size.x, size.y, max(size.z, slices))
    limits = encoding.encodingLimits
    middles = [0 if limit is None else limit.center for limit in (limits.kspace_encoding_step_1, limits.kspace_encoding_step_2)]
    kspace, times = np.zeros((lines[0].active_channels, *shape), np.complex64), np.zeros(shape, np.int32)
    for line in lines:
        first, last = line.discard_pre, line.number_of_samples - line.discard_post
        x = size.x // 2 - line.center_sample + first
        y = line.idx.kspace_encode_step_1 - middles[0] + size.y // 2
        z = line.idx.slice if slices > 1 else line.idx.kspace_encode_step_2 - middles[1] + size.z // 2
        if not (0 <= x <= size.x - (last - first) and 0 <= y < shape[1] and 0 <= z < shape[2]):
            raise UserError(f"{path}: a line of {last - first} samples at {y}, {z} lies outside of its grid of {shape}.")
        kspace[:, x : x + last - first, y, z] += line.data[:, first:last]
        times[x : x + last - first, y, z] += 1
    kspace /= np.maximum(times, 1)
    if slices > 1:
        if (times.astype(bool) != times[:, :, :1].astype(bool)).any():
            raise UserError(f"{path}: other lines were measured of some slices than of others.", "Save each slice to a file of its own.")
        kspace = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(kspace, axes=3), axis=3, norm="ortho"), axes=3).astype(np.complex64)
    return kspace, times > 0


def _in_view(kspace: np.ndarray, mask: np.ndarray, lines: list, encoding) -> dict[str, np.ndarray]:
    """With the read-out cut to the field of view wherever lines are whole, and with its place in space."""
    wanted, full = encoding.reconSpace.matrixSize.x, kspace.shape[1]
    view = encoding.encodedSpace.fieldOfView_mm
    whole = bool((mask.all(0) | ~mask.any(0)).all())
    if whole and wanted < full:
        image = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kspace, axes=1), axis=1, norm="ortho"), axes=1)
        first = full // 2 - wanted // 2
        image = image[:, first : first + wanted]
        kspace = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(image, axes=1), axis=1, norm="ortho"), axes=1).astype(np.complex64)
        mask = mask[first : first + wanted]
    slices = kspace.shape[3] if encoding.encodedSpace.matrixSize.z == 1 else 1
    spacing = np.array([view.x / full, view.y / kspace.shape[2], view.z if slices > 1 else view.z / kspace.shape[3]])
    return {"kspace": kspace, "mask": mask, "affine": _affine(lines, spacing, kspace.shape[1:])}


def _affine(lines: list, spacing: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """From the directions and the middles that the lines name; slices are as far apart as these say."""
    axes = np.stack([np.array(getattr(lines[0], name)[:], dtype=np.float64) for name in ("read_dir", "phase_dir", "slice_dir")], axis=1)
    axes = axes if abs(np.linalg.det(axes)) > 0.5 else np.eye(3)  # directions that nobody filled in
    places = {line.idx.slice: np.array(line.position[:], dtype=np.float64) for line in lines}
    if len(places) > 1:
        step = (places[max(places)] - places[min(places)]) / (max(places) - min(places))
        if np.linalg.norm(step) > 0:
            spacing = np.array([*spacing[:2], np.linalg.norm(step)])
            axes[:, 2] = step / spacing[2]
    affine = np.eye(4)
    affine[:3, :3] = TO_RAS[:, None] * axes * spacing
    middle = np.array([n // 2 for n in shape]) if len(places) == 1 else np.array([shape[0] // 2, shape[1] // 2, (shape[2] - 1) / 2])
    affine[:3, 3] = TO_RAS * np.mean(list(places.values()), axis=0) - affine[:3, :3] @ middle
    return affine
