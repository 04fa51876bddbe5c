"""Raw MRI data in the format of ISMRM (Inati et al. 2017), sorted into Cartesian k-space."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from medldm.errors import UserError
from medldm.optional import require

GROUP = "dataset"
#: Counters of an acquisition that say that it belongs to another image.
OTHERS = ("contrast", "phase", "repetition", "set")
#: What lines are flagged with that serve something else than the image.
NO_IMAGE = (
    "NOISE_MEASUREMENT",
    "PARALLEL_CALIBRATION",
    "NAVIGATION_DATA",
    "PHASECORR_DATA",
    "HPFEEDBACK_DATA",
    "DUMMYSCAN_DATA",
    "RTFEEDBACK_DATA",
    "SURFACECOILCORRECTIONSCAN_DATA",
)
UNEVEN = 0.05  # of the distance of slices
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
    if not header.encoding:
        raise UserError(f"{path}: its header tells no encoding.", "Is it raw data of ISMRMRD?")
    encoding = header.encoding[0]
    if encoding.trajectory.value != "cartesian":
        raise UserError(f"{path}: its trajectory is {encoding.trajectory.value}.", "Give kspace, trajectory and shape as npz.")
    lines = [one for one in acquisitions if _of_image(ismrmrd, one)]
    if not lines:
        raise UserError(f"{path} holds no line of an image.")
    if any(line.is_flag_set(ismrmrd.ACQ_IS_REVERSE) for line in lines):
        raise UserError(f"{path} holds lines that were read out backwards.", "Give kspace as npz, after its phase correction.")
    for counter in OTHERS:
        if len(found := {getattr(line.idx, counter) for line in lines}) > 1:
            raise UserError(f"{path} holds {len(found)} images (their {counter} differs).", "Save each to a file of its own.")
    places = _in_order(path, lines)
    kspace, mask = _sorted(path, lines, encoding, list(places))
    return _in_view(kspace, mask, lines[0], encoding, np.stack(list(places.values())))


def _in_order(path: Path, lines: list) -> dict[int, np.ndarray]:
    """Counter of each slice -> its middle in millimetres, in the order in which they lie.

    Raises:
        UserError: they are not evenly spaced along one line.
    """
    places = {line.idx.slice: np.array(line.position[:], dtype=np.float64) for line in lines}
    if len(places) == 1:
        return places
    normal = np.array(lines[0].slice_dir[:], dtype=np.float64)
    if not normal.any():
        normal = places[max(places)] - places[min(places)]
    places = dict(sorted(places.items(), key=lambda item: float(item[1] @ normal)))
    steps = np.diff(np.stack(list(places.values())), axis=0)
    if np.linalg.norm(steps - steps.mean(0), axis=1).max() > UNEVEN * np.linalg.norm(steps.mean(0)):
        raise UserError(f"{path}: its {len(places)} slices are not evenly spaced.", "Save each stack to a file of its own.")
    return places


def _of_image(ismrmrd, line) -> bool:
    """False for lines that serve something else than the image."""
    return line.encoding_space_ref == 0 and not any(line.is_flag_set(getattr(ismrmrd, f"ACQ_IS_{name}")) for name in NO_IMAGE)


def _sorted(path: Path, lines: list, encoding, order: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """K-space [coils x y z], of which z may count slices, and how often each point was measured [x y z]."""
    size = encoding.encodedSpace.matrixSize
    slices = len(order)
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
        z = order.index(line.idx.slice) if slices > 1 else line.idx.kspace_encode_step_2 - middles[1] + size.z // 2
        if not (0 <= x <= size.x - (last - first) and 0 <= y < shape[1] and 0 <= z < shape[2]):
            raise UserError(f"{path}: a line of {last - first} samples at {y}, {z} lies outside of its grid of {shape}.")
        if line.active_channels != len(kspace):
            raise UserError(f"{path}: its lines are of {len(kspace)} coils and of {line.active_channels}.", "Save each to a file of its own.")
        kspace[:, x : x + last - first, y, z] += line.data[:, first:last]
        times[x : x + last - first, y, z] += 1
    kspace /= np.maximum(times, 1)
    if slices > 1:
        if (times.astype(bool) != times[:, :, :1].astype(bool)).any():
            raise UserError(f"{path}: other lines were measured of some slices than of others.", "Save each slice to a file of its own.")
        kspace = _centred(np.fft.fft, kspace, 3)
    return kspace, times > 0


def _in_view(kspace: np.ndarray, mask: np.ndarray, line, encoding, places: np.ndarray) -> dict[str, np.ndarray]:
    """With the read-out cut to the field of view wherever lines are whole, and with its place in space."""
    wanted, full = encoding.reconSpace.matrixSize.x, kspace.shape[1]
    view = encoding.encodedSpace.fieldOfView_mm
    whole = bool((mask.all(0) | ~mask.any(0)).all())
    if whole and wanted < full:
        first = full // 2 - wanted // 2
        kspace = _centred(np.fft.fft, _centred(np.fft.ifft, kspace, 1)[:, first : first + wanted], 1)
        mask = mask[first : first + wanted]
    spacing = np.array([view.x / full, view.y / kspace.shape[2], view.z / encoding.encodedSpace.matrixSize.z])
    return {"kspace": kspace, "mask": mask, "affine": _affine(line, spacing, kspace.shape[1:], places)}


def _centred(transform: Callable, a: np.ndarray, axis: int) -> np.ndarray:
    """A transform along one axis, orthonormal, with frequency 0 and the origin of space at n // 2."""
    moved = transform(np.fft.ifftshift(a, axes=axis), axis=axis, norm="ortho")
    return np.fft.fftshift(moved, axes=axis).astype(np.complex64)


def _affine(line, spacing: np.ndarray, shape: tuple[int, ...], places: np.ndarray) -> np.ndarray:
    """From the directions of a line and the middles of slices [slices 3]; slices are as far apart as these say."""
    axes = np.stack([np.array(getattr(line, name)[:], dtype=np.float64) for name in ("read_dir", "phase_dir", "slice_dir")], axis=1)
    axes = axes if abs(np.linalg.det(axes)) > 0.5 else np.eye(3)  # directions that nobody filled in
    middle = np.array([n // 2 for n in shape], dtype=np.float64)
    if len(places) > 1:
        step, middle[2] = (places[-1] - places[0]) / (len(places) - 1), (len(places) - 1) / 2
        spacing = np.array([*spacing[:2], np.linalg.norm(step)])
        axes[:, 2] = step / spacing[2]
    affine = np.eye(4)
    affine[:3, :3] = TO_RAS[:, None] * axes * spacing
    affine[:3, 3] = TO_RAS * places.mean(0) - affine[:3, :3] @ middle
    return affine
