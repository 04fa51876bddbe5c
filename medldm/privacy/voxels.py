"""Faces in the voxels of NIfTI files: where one is sought, and the stored values that take its place."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from medldm.data.sources import BadCase
from medldm.privacy.deface import air, region
from medldm.privacy.faces import SMALL, UNSCALED, Finding, look, may_show_face
from medldm.volume import Volume, affine_in_mm

AIR_HU = -500.0  # other intensities than those of CT are seldom as low
HUGE_MM = 1000.0  # along two axes no scanner sees as much
OTHER_UNITS, MANY = (10.0, 1000.0, 0.1, 0.001), 48  # of lengths that are told as mm; and voxels along an axis of a volume that shows a head so
BRIGHT, SAME = 0.1, 0.9  # of the range of a volume; and share that two volumes' bright voxels have in common


def search(data: bytes) -> tuple[Finding, ...]:
    """Look for faces in every volume of a file.

    Args:
        data: a NIfTI file, not compressed.

    Returns:
        All faces and doubts, which may lie in different places of different volumes; where there are none, one finding that says so.

    Raises:
        BadCase: its voxels are colours, it does not say how large they are, or its axes of space are not the first three.
    """
    image, affine = _image(data)
    shape, dtype = _shape(image), image.header.get_data_dtype()
    extent = np.array(shape[:3]) * np.linalg.norm(affine[:3, :3], axis=0)
    if not may_show_face(shape[:3], (1e3, 1e3, 1e3)):
        if may_show_face(sorted(shape)[-3:], (1e3, 1e3, 1e3)):
            raise BadCase("", "unsupported", "has its three long axes in other places than the first three.")
        return (Finding(SMALL),)
    if dtype.kind not in "iufc" or not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
        raise BadCase("", "unsupported", "has colours as voxels, or no voxel size, so that it cannot be searched for a face.")
    if _is_of_people(shape[:3], extent):
        found = [_look(values, affine) for values in _distinct(image, shape)]
        return tuple(finding for finding in found if finding.face or finding.doubt) or tuple(found[:1]) or (Finding("not a head"),)
    scales = [s for s in OTHER_UNITS if min(shape[:3]) >= MANY and _is_of_people(shape[:3], s * extent)]
    for values, scale in itertools.product(_distinct(image, shape), scales):
        if _look(values, np.diag([scale, scale, scale, 1.0]) @ affine).face:
            return (Finding(UNSCALED),)
    return (Finding(SMALL if sorted(extent)[1] < HUGE_MM else "not a head"),)


def _is_of_people(shape: tuple[int, ...], extent: np.ndarray) -> bool:
    """Whether a volume is large enough to show a face, and no larger than a scanner sees."""
    return may_show_face(shape, extent) and sorted(extent)[1] < HUGE_MM


def _look(values: np.ndarray, affine: np.ndarray) -> Finding:
    """Look for a face in a volume [I J K]; intensities that would be those of CT and show no head so may be others with an offset."""
    image = torch.from_numpy(values)[None]
    if values.min() > AIR_HU:
        return look(Volume(image, affine))
    found = look(Volume(image, affine, "HU"))
    other = found if found.status not in ("not a head", "poor registration") else look(Volume(image, affine))
    return other if other.face else found


def _distinct(image: Any, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The volumes [I J K] of a file, but for those that are the same everywhere, or as bright in the same places as one before: time series."""
    seen: list[np.ndarray] = []
    for index in itertools.product(*map(range, shape[3:])):
        values = _sound(np.asanyarray(image.dataobj[(..., *index)]).reshape(shape[:3]))
        smooth = ndimage.uniform_filter(values, 3)[::2, ::2, ::2]  # noise shall not part them
        low, high = np.percentile(smooth, (1, 99))
        bright = smooth > low + BRIGHT * (high - low)
        if np.ptp(values) > 0 and not any((bright & other).sum() > SAME * (bright | other).sum() for other in seen):
            seen.append(bright)
            yield values


def without_face(data: bytes, finding: Finding) -> bytes:
    """A file with air in place of a face, in each of its volumes; all other bytes are the same.

    Args:
        data: a NIfTI file, not compressed.
        finding: one that `search` gave.
    """
    image, affine = _image(data)
    shape, dtype = _shape(image), image.header.get_data_dtype()
    begin = image.dataobj.offset
    end = begin + int(np.prod(shape)) * dtype.itemsize
    stored = np.frombuffer(bytearray(data[begin:end]), dtype).reshape((*shape[:3], -1), order="F")
    mask = region(shape[:3], affine, np.array(finding.matrix))
    for n in range(stored.shape[3]):
        values = _sound(stored[..., n] * image.dataobj.slope + image.dataobj.inter)
        fill = (float(air(torch.from_numpy(values), finding.unit).median()) - image.dataobj.inter) / image.dataobj.slope
        if dtype.kind in "iu":
            fill = int(np.clip(np.rint(fill), np.iinfo(dtype).min, np.iinfo(dtype).max))
        stored[..., n][mask] = fill
    return data[:begin] + stored.tobytes(order="F") + data[end:]


def _image(data: bytes) -> tuple[Any, np.ndarray]:
    """The file as nibabel sees it, and its affine in mm."""
    import nibabel

    nibabel.imageglobals.logger.setLevel("CRITICAL")  # it quotes headers
    second = int.from_bytes(data[:4], "little") == 540 or int.from_bytes(data[:4], "big") == 540
    image = (nibabel.Nifti2Image if second else nibabel.Nifti1Image).from_bytes(data)
    return image, affine_in_mm(image)


def _shape(image: Any) -> tuple[int, ...]:
    """Voxels along three axes, and further ones."""
    shape = tuple(int(n) for n in image.shape)
    return shape + (1,) * (3 - len(shape))


def _sound(values: np.ndarray) -> np.ndarray:
    """Finite float32 intensities: magnitudes of complex numbers, and the lowest value where there is none."""
    with np.errstate(over="ignore"):  # what becomes infinite counts as none
        result = np.array(np.abs(values) if np.iscomplexobj(values) else values, np.float32)
    finite = np.isfinite(result)
    result[~finite] = result[finite].min() if finite.any() else 0.0
    return result
