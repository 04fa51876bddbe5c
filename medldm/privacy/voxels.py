"""Faces in the voxels of NIfTI files: where one is sought, and the stored values that take its place."""

import itertools
from typing import Any

import numpy as np
import torch

from medldm.data.sources import BadCase
from medldm.privacy.deface import air, region
from medldm.privacy.faces import SMALL, Finding, look, may_show_face
from medldm.volume import Volume

MM = {"meter": 1000.0, "micron": 0.001}
AIR_HU = -500.0  # no other intensities than those of CT are as low


def search(data: bytes) -> Finding:
    """Look for a face in the first volume of a file that is not the same everywhere.

    Args:
        data: a NIfTI file, not compressed.

    Raises:
        BadCase: its voxels are colours, or it does not say how large they are.
    """
    image, affine = _image(data)
    shape, dtype = _shape(image), image.header.get_data_dtype()
    extent = np.array(shape[:3]) * np.linalg.norm(affine[:3, :3], axis=0)
    if not may_show_face(shape[:3], (1e3, 1e3, 1e3)):
        return Finding(SMALL)
    if dtype.kind not in "iufc" or not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
        raise BadCase("", "unsupported", "has colours as voxels, or no voxel size, so that it cannot be searched for a face.")
    if not may_show_face(shape[:3], extent):
        return Finding(SMALL)
    for index in itertools.product(*map(range, shape[3:])):
        values = _sound(np.asanyarray(image.dataobj[(..., *index)]).reshape(shape[:3]))
        if np.ptp(values) > 0:
            return look(Volume(torch.from_numpy(values)[None], affine, _unit(values)))
    return Finding("not a head")


def without_face(data: bytes, finding: Finding) -> bytes:
    """A file with air in place of the face, in each of its volumes; all other bytes are the same.

    Args:
        data: a NIfTI file, not compressed.
        finding: what `search` found in it.
    """
    image, affine = _image(data)
    shape, dtype = _shape(image), image.header.get_data_dtype()
    begin = image.dataobj.offset
    end = begin + int(np.prod(shape)) * dtype.itemsize
    stored = np.frombuffer(bytearray(data[begin:end]), dtype).reshape((*shape[:3], -1), order="F")
    mask = region(shape[:3], affine, np.array(finding.matrix))
    for n in range(stored.shape[3]):
        values = _sound(stored[..., n] * image.dataobj.slope + image.dataobj.inter)
        fill = (float(air(torch.from_numpy(values), _unit(values)).median()) - image.dataobj.inter) / image.dataobj.slope
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
    scale = MM.get(image.header.get_xyzt_units()[0], 1.0)
    return image, np.diag([scale, scale, scale, 1.0]) @ image.affine


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


def _unit(values: np.ndarray) -> str:
    return "HU" if values.min() <= AIR_HU else "a.u."
