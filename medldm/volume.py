"""A volume: voxels with a position in space. Strict NIfTI reading, atomic writing.

Axes C I J K; affines are RAS+ millimetres; labels are integers stored as float32 so that one tensor type serves all.
"""

import gzip
import zlib
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medldm.errors import UserError
from medldm.files import atomic

#: Voxels of a file may not take more memory than this ...
LIMIT_BYTES = 4 << 30
#: ... nor more than this multiple of the file (gzip packs at most about 1030:1).
LIMIT_RATIO = 1100


@dataclass(frozen=True)
class Volume:
    """Voxels and their place in space.

    Args:
        data: voxels [C I J K].
        affine: voxel index -> RAS+ millimetres [4 4], float64.
        unit: "HU", "a.u." (arbitrary intensity) or "label".
    """

    data: Tensor
    affine: np.ndarray
    unit: str = "a.u."

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along I, J, K."""
        return tuple(self.data.shape[1:])

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxel centres along I, J, K."""
        return tuple(float(s) for s in np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def origin(self) -> tuple[float, float, float]:
        """Position of voxel (0, 0, 0) in RAS+ millimetres."""
        return tuple(float(o) for o in self.affine[:3, 3])

    @property
    def orientation(self) -> str:
        """Axis codes such as "RAS"."""
        import nibabel

        return "".join(nibabel.aff2axcodes(self.affine))

    def with_data(self, data: Tensor) -> "Volume":
        """The same place in space with other voxels."""
        return replace(self, data=data)


def read_volume(path: Path, unit: str = "a.u.") -> Volume:
    """Read a NIfTI file whole and distrustfully.

    Limits are checked before memory is taken, a gzip stream is read to its checksum, and every voxel must be finite.

    Args:
        path: a .nii or .nii.gz file with 3 axes, or 4 where the last counts channels.
        unit: "HU", "a.u." or "label"; labels must be whole numbers.

    Raises:
        UserError: the file is missing, truncated, corrupt, not NIfTI, too large, has no place in space, or has voxels
            that are not finite (or, for labels, not whole).
    """
    import nibabel

    path = Path(path)
    raw = _decompressed(path)
    kind = nibabel.Nifti2Image if raw[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") else nibabel.Nifti1Image
    try:
        image = kind.from_bytes(raw)
        voxels = np.asarray(image.dataobj, dtype=np.float32)
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as NIfTI ({error}).", "Convert it again from its source, or take it out.") from error
    if int(image.header["sform_code"]) == 0 and int(image.header["qform_code"]) == 0:
        raise UserError(f"{path} does not say where it lies in space (sform and qform codes are 0).", "Convert it again with its orientation.")
    if not np.isfinite(voxels).all():
        raise UserError(f"{path} has {int((~np.isfinite(voxels)).sum())} voxels that are NaN or infinite.", "Repair or take it out.")
    if unit == "label" and not np.array_equal(voxels, np.rint(voxels)):
        raise UserError(f"{path} is a label map with values that are not whole numbers.", "Is it an image? Give a label map.")
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise UserError(f"{path} has a degenerate affine (an axis of length 0).", "Convert it again with its voxel size.")
    voxels = voxels[None] if voxels.ndim == 3 else np.moveaxis(voxels, 3, 0)
    return Volume(torch.from_numpy(np.ascontiguousarray(voxels)), affine, unit)


def write_volume(path: Path, volume: Volume) -> None:
    """Write a .nii.gz atomically: float32 voxels (uint8 or int16 for labels), a header without free text, same bytes for same voxels."""
    import nibabel

    voxels = volume.data.detach().cpu().numpy()
    if volume.unit == "label":
        voxels = np.rint(voxels).astype(np.uint8 if voxels.max(initial=0) < 256 and voxels.min(initial=0) >= 0 else np.int16)
    else:
        voxels = voxels.astype(np.float32)
    voxels = voxels[0] if len(voxels) == 1 else np.moveaxis(voxels, 0, 3)
    image = nibabel.Nifti1Image(voxels, volume.affine)
    image.set_sform(volume.affine, code=1)
    image.set_qform(volume.affine, code=1, strip_shears=True)
    image.header.set_xyzt_units("mm")
    with atomic(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))


def _decompressed(path: Path) -> bytes:
    """The bytes of a NIfTI file after checking that its header asks for no more than the file can hold."""
    import nibabel

    nibabel.imageglobals.logger.setLevel("CRITICAL")  # what it has to say of a bad header, the error says
    advice = "Copy or convert it again from its source, or take it out."
    try:
        size = path.stat().st_size
        opened = gzip.open(path) if path.name.endswith(".gz") else open(path, "rb")
        with opened as stream:
            head = stream.read(540)
            header_class = nibabel.Nifti2Header if head[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") else nibabel.Nifti1Header
            header = header_class.from_fileobj(BytesIO(head))
            shape = header.get_data_shape()
            wanted = float(header["vox_offset"]) + np.prod([float(n) for n in shape]) * header.get_data_dtype().itemsize
            if len(shape) not in (3, 4) or min(shape) < 1:
                raise UserError(f"{path} has shape {shape}; 3 axes were expected, or 4 with channels last.", "Give one volume per file.")
            if wanted > min(LIMIT_BYTES, size * LIMIT_RATIO):
                raise UserError(f"{path} claims {wanted / 2**20:.0f} MiB of voxels in a file of {size / 2**20:.2f} MiB.", advice)
            rest = stream.read(int(wanted) - len(head) + (1 << 20))
            if stream.read(1):
                raise UserError(f"{path} holds more data than its header says.", advice)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except (EOFError, zlib.error, gzip.BadGzipFile, nibabel.wrapstruct.WrapStructError, nibabel.spatialimages.HeaderDataError) as error:
        raise UserError(f"{path} is not a whole NIfTI file ({error}).", advice) from error
    if len(head) + len(rest) < wanted:
        raise UserError(f"{path} is truncated: {len(head) + len(rest)} of {wanted:.0f} bytes.", advice)
    return head + rest
