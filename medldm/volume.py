"""A volume: voxels with a position in space. Strict NIfTI reading, atomic writing.

Axes C I J K; affines are RAS+ millimetres; labels are integers stored as float32 so that one tensor type serves all.
"""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medldm.errors import UserError
from medldm.files import atomic

LIMIT_BYTES = 4 << 30  # voxels of a file may not take more memory than this ...
LIMIT_RATIO = 1100  # ... nor more than this multiple of the file (gzip packs at most about 1030:1)
#: From here on a file has to be packed no better than real ones are: images reach 8:1, maps of few lesions 880:1.
SUSPECT_BYTES, IMAGE_RATIO, LABEL_VOXELS = 64 << 20, 200, 1 << 28
LIMIT_OFFSET = 64 << 20  # the voxels begin behind the header and its extensions, which are never this long

NOTE = 6  # the code of header extensions that hold a text (nifti1_io.h, NIFTI_ECODE_COMMENT)
OURS = b'{"manifest"'  # how signed notes begin, whatever code stands before them
MILLIMETRES = {1: 1000.0, 3: 0.001}  # of the codes of metres and micrometres (nifti1.h, XYZT_TO_SPACE); any other counts as mm
CONVERT = "Convert it again from its source, or take it out."

_MAGIC = {348: (344, (b"n+1\0", b"ni1\0")), 540: (4, (b"n+2\0", b"ni2\0"))}


class BadVolume(UserError):
    """A file that holds no usable volume.

    Args:
        path: the file.
        status: one word for tables: "unreadable", "no_place", "spacing", "voxel_type", "nan" or "label_values".
        reason: what is wrong with it, without the path.
        fix: what to do about it.
    """

    def __init__(self, path: Path, status: str, reason: str, fix: str = ""):
        super().__init__(f"{path} {reason}", fix)
        self.status, self.reason = status, f"{reason} {fix}".strip()


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


def read_volume(path: Path, unit: str = "a.u.", assume_place: bool = False, missing: bool = False) -> Volume:
    """Read a NIfTI file whole and distrustfully.

    Limits are checked before memory is taken, a gzip stream is read to its checksum, and every voxel must be finite.

    Args:
        path: a .nii or .nii.gz file with 3 axes, or 4 where the last counts channels.
        unit: "HU", "a.u." or "label"; labels must be whole numbers.
        assume_place: take a file that does not say where it lies (sform and qform codes 0) as nibabel does: axes LAS,
            centre of the grid at the origin.
        missing: voxels may be NaN, where nothing is known.

    Raises:
        BadVolume: the file is missing, truncated, corrupt, not NIfTI, too large, has no place in space, a voxel size of
            0, complex or colour voxels, or voxels that are not finite (or, for labels, not whole).
    """
    path = Path(path)
    image = _image(path, unit)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is refused below
            voxels = np.asarray(image.dataobj, dtype=np.float32)
        affine = affine_in_mm(image)
    except (OSError, ValueError, OverflowError) as error:
        raise BadVolume(path, "unreadable", f"cannot be read as NIfTI ({error}).", CONVERT) from error
    if not assume_place and int(image.header["sform_code"]) <= 0 and int(image.header["qform_code"]) <= 0:
        raise BadVolume(
            path, "no_place", "does not say where it lies in space (sform and qform codes are 0).", "Convert it again with its orientation."
        )
    return sound_volume(path, voxels, affine, unit, missing)


def sound_volume(path: Path, voxels: np.ndarray, affine: np.ndarray, unit: str, missing: bool = False) -> Volume:
    """The volume of what was read from a file, if it can be used.

    Args:
        path: the file, for messages.
        voxels: float32 [I J K] or [I J K C].
        affine: voxel index -> RAS+ millimetres [4 4], float64.
        unit: "HU", "a.u." or "label"; labels must be whole numbers.
        missing: voxels may be NaN.

    Raises:
        BadVolume: the axes span no space, or voxels are not finite (or, for labels, not whole).
    """
    if not _spans_space(affine):
        raise BadVolume(
            path, "spacing", "has a degenerate affine (an axis without length, or two along one line).", "Convert it again with its voxel size."
        )
    if not np.isfinite(voxels[~np.isnan(voxels)] if missing else voxels).all():
        raise BadVolume(path, "nan", f"has {int((~np.isfinite(voxels)).sum())} voxels that are NaN or infinite.", "Repair or take it out.")
    if unit == "label" and not np.array_equal(voxels, np.rint(voxels)):
        raise BadVolume(path, "label_values", "is a label map with values that are not whole numbers.", "Is it an image? Give a label map.")
    voxels = voxels[None] if voxels.ndim == 3 else np.moveaxis(voxels, 3, 0)
    return Volume(torch.from_numpy(np.ascontiguousarray(voxels)), affine, unit)


def claimed_bytes(path: Path, shape: tuple[int, ...], dtype: np.dtype, size: int, unit: str) -> int:
    """Bytes of the voxels that a header claims, if a file of that size can hold them.

    A few megabytes of gzip can claim gigabytes of zeros, so that what is claimed is compared with the size of the file
    before anything is unpacked.

    Args:
        path: the file, for messages.
        shape: voxels along 3 axes, or 4 where one counts channels.
        dtype: of one stored voxel.
        size: bytes of the file.
        unit: label maps, which may be almost empty, are allowed to be packed better than images.

    Raises:
        BadVolume: the number of axes is another, an axis has no voxel, or the claim is not credible.
    """
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise BadVolume(
            path, "unreadable", f"has shape {tuple(map(int, shape))}; 3 axes were expected, or 4 with channels last.", "Give one volume per file."
        )
    count = math.prod(int(n) for n in shape)
    voxels = count * dtype.itemsize
    in_memory = count * max(dtype.itemsize, 4)
    bomb = voxels > SUSPECT_BYTES and voxels > IMAGE_RATIO * size and (unit != "label" or count > LABEL_VOXELS)
    if bomb or in_memory > LIMIT_BYTES or voxels > LIMIT_RATIO * size:
        raise BadVolume(path, "unreadable", f"claims {in_memory / 2**20:.0f} MiB of voxels in a file of {size / 2**20:.2f} MiB.", CONVERT)
    return voxels


def read_notes(path: Path) -> list[bytes]:
    """The texts that stand in the header extensions of a NIfTI file, see `write_volume`.

    Raises:
        BadVolume: the file cannot be read as NIfTI.
    """
    path = Path(path)
    found = ((extension.get_code(), extension.content) for extension in _image(path, "a.u.").header.extensions)
    return [content.rstrip(b"\0") for code, content in found if code == NOTE or content.startswith(OURS)]


def write_volume(path: Path, volume: Volume, note: bytes = b"") -> None:
    """Write a .nii.gz atomically: float32 voxels (uint8 or int16 for labels), a header without free text, same bytes for same voxels.

    Args:
        path: the file.
        volume: what it shows.
        note: an ASCII text that is stored in a header extension.
    """
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
    if note:
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(NOTE, note))
    with atomic(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))


def _image(path: Path, unit: str):
    """The file as nibabel sees it, after its header was judged."""
    import nibabel

    raw = _decompressed(path, unit)
    try:
        return (nibabel.Nifti2Image if _version(raw) == 540 else nibabel.Nifti1Image).from_bytes(raw)
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError, OSError, ValueError, OverflowError) as error:
        raise BadVolume(path, "unreadable", f"cannot be read as NIfTI ({error}).", CONVERT) from error


def affine_in_mm(image: Any) -> np.ndarray:
    """The affine [4 4] of a NIfTI image, float64, in mm whatever unit of length its header tells; mm where it tells none."""
    scale = MILLIMETRES.get(int(image.header["xyzt_units"]) % 8, 1.0)
    return np.diag([scale, scale, scale, 1.0]) @ np.asarray(image.affine, dtype=np.float64)


def _spans_space(affine: np.ndarray) -> bool:
    """True where three axes of some length point in three directions."""
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        directions = affine[:3, :3] / lengths
    return bool(np.isfinite(directions).all() and np.isfinite(affine).all() and lengths.min() > 1e-3 and np.linalg.cond(directions) < 1e3)


def _version(head: bytes) -> int:
    """Length of the header that a file begins with: 348 (NIfTI-1), 540 (NIfTI-2), or 0 where it is neither."""
    for order in ("<i", ">i"):
        length = struct.unpack_from(order, head)[0] if len(head) >= 4 else 0
        start, magic = _MAGIC.get(length, (0, ()))
        if len(head) >= length and head[start : start + 4] in magic:
            return length
    return 0


def _decompressed(path: Path, unit: str) -> bytes:
    """The bytes of a NIfTI file after checking that its header asks for no more than the file can hold."""
    packed = path.suffix.lower() == ".gz"
    try:
        size = path.stat().st_size
        opened = gzip.open(path) if packed else open(path, "rb")
        with opened as stream:
            head = stream.read(540)
            if not _version(head):
                raise BadVolume(path, "unreadable", "is not a NIfTI file.", CONVERT)
            wanted = _wanted_bytes(path, head, size, unit)
            if wanted > size and not packed:
                raise BadVolume(path, "unreadable", f"is truncated: {size} of {wanted} bytes.", CONVERT)
            rest = stream.read(max(wanted - len(head), 0) + (1 << 20))
            if stream.read(1):
                raise BadVolume(path, "unreadable", "holds more data than its header says.", CONVERT)
    except FileNotFoundError as error:
        raise BadVolume(path, "unreadable", "does not exist.") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadVolume(path, "unreadable", f"is not a whole NIfTI file ({error}).", CONVERT) from error
    except OSError as error:
        raise BadVolume(path, "unreadable", f"cannot be read ({error.strerror}).") from error
    if len(head) + len(rest) < wanted:
        raise BadVolume(path, "unreadable", f"is truncated: {len(head) + len(rest)} of {wanted} bytes.", CONVERT)
    return head + rest


def _wanted_bytes(path: Path, head: bytes, size: int, unit: str) -> int:
    """How long the file must be according to its header, after judging that header."""
    import nibabel

    nibabel.imageglobals.logger.setLevel("CRITICAL")  # what it has to say of a bad header, the error says
    kind = nibabel.Nifti2Header if _version(head) == 540 else nibabel.Nifti1Header
    try:
        header = kind(head[: _version(head)], check=False)  # a check would turn a voxel size of 0 into 1
        shape, dtype, lengths = header.get_data_shape(), header.get_data_dtype(), header["pixdim"][1:4].astype(np.float64)
        offset = float(header["vox_offset"])
    except KeyError as error:
        raise BadVolume(path, "unreadable", f"has a voxel type that is not of NIfTI (code {error}).", CONVERT) from error
    except (nibabel.spatialimages.HeaderDataError, nibabel.wrapstruct.WrapStructError, ValueError, OverflowError) as error:
        raise BadVolume(path, "unreadable", f"has a damaged header ({error}).", CONVERT) from error
    if dtype.kind not in "iuf":
        what = "complex" if dtype.kind == "c" else "colour"
        raise BadVolume(path, "voxel_type", f"has {what} voxels; one real number per voxel was expected.", "Give magnitude, or one channel per file.")
    if not (np.isfinite(lengths) & (lengths != 0)).all():
        raise BadVolume(path, "spacing", f"has voxel size {' x '.join(f'{x:g}' for x in lengths)} mm.", "Convert it again with its voxel size.")
    voxels = claimed_bytes(path, shape, dtype, size, unit)
    if not 0 <= offset <= LIMIT_OFFSET:
        raise BadVolume(path, "unreadable", f"claims that its voxels begin at byte {offset:g}.", CONVERT)
    return int(offset) + voxels
