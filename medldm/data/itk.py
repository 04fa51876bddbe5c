"""MetaImage (.mha, .mhd) and NRRD (.nrrd, .nhdr) files as volumes, read as distrustfully as NIfTI, and one function for all three."""

import zlib
from pathlib import Path

import numpy as np

from medldm.data.itk_header import AGAIN, Header
from medldm.data.metaimage import metaimage_header
from medldm.data.nrrd import nrrd_header
from medldm.volume import BadVolume, Volume, claimed_bytes, read_volume, sound_volume

HEADERS = {".mha": metaimage_header, ".mhd": metaimage_header, ".nrrd": nrrd_header, ".nhdr": nrrd_header}
#: Headers whose voxels may lie in a file of the same name with another ending. No other file is ever opened.
DETACHED = (".mhd", ".nhdr")
DATA_ENDINGS = (".raw", ".zraw", ".raw.gz", ".gz")
LIMIT_HEADER = 1 << 20
LIMIT_TAIL = 1 << 16  # bytes of padding behind the voxels


def read_image(path: Path, unit: str = "a.u.", assume_place: bool = False) -> Volume:
    """Read a NIfTI, MetaImage or NRRD file, by its ending; see `read_volume` and `read_itk`."""
    return (read_itk if path.suffix.lower() in HEADERS else read_volume)(path, unit, assume_place)


def read_itk(path: Path, unit: str = "a.u.", assume_place: bool = False) -> Volume:
    """Read a MetaImage or NRRD file whole and distrustfully.

    Limits are checked before memory is taken, a packed stream is read to its checksum, and every voxel must be finite.

    Args:
        path: a .mha, .mhd, .nrrd or .nhdr file with 3 axes, or 4 where one counts channels.
        unit: "HU", "a.u." or "label"; labels must be whole numbers.
        assume_place: take a file that does not say where it lies (a NRRD without space, a MetaImage without voxel size) as ITK does.

    Raises:
        BadVolume: as `read_volume`.
    """
    path = Path(path)
    try:
        with open(path, "rb") as stream:
            header = HEADERS[path.suffix.lower()](path, stream.read(LIMIT_HEADER))
        if not header.placed and not assume_place:
            raise BadVolume(path, "no_place", "does not say where it lies in space.", "Convert it again with its orientation and voxel size.")
        stored = _stored(path, header, unit)
    except FileNotFoundError as error:
        raise BadVolume(path, "unreadable", "does not exist, or its voxels do not lie beside it.") from error
    except zlib.error as error:
        raise BadVolume(path, "unreadable", f"is not a whole file ({error}).", AGAIN) from error
    except OSError as error:
        raise BadVolume(path, "unreadable", f"cannot be read ({error.strerror}).") from error
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is refused below
        voxels = np.frombuffer(stored, header.dtype).reshape(header.shape, order="F").astype(np.float32)
    return sound_volume(path, voxels if voxels.ndim == 3 else np.moveaxis(voxels, header.channels, 3), header.affine, unit)


def files_of(path: Path) -> tuple[Path, ...]:
    """The file, and what lies beside a header that may keep its voxels in another file."""
    beside = [path.with_name(path.stem + ending) for ending in DATA_ENDINGS] if path.suffix.lower() in DETACHED else []
    return (path, *(file for file in beside if file.is_file()))


def _stored(path: Path, header: Header, unit: str) -> bytes:
    """The bytes of the voxels, as many as the header says and no more."""
    data, start = _where(path, header)
    size = data.stat().st_size
    wanted = claimed_bytes(path, header.shape, header.dtype, size, unit)
    there = size - start
    length = wanted if not header.zipped else there if header.zipped_bytes is None else header.zipped_bytes
    if length > there:
        raise BadVolume(path, "unreadable", f"is truncated: {there} of {length} bytes.", AGAIN)
    with open(data, "rb") as stream:
        stream.seek(start)
        voxels = stream.read(length)
        tail = stream.read(LIMIT_TAIL + 1)
    if header.zipped:
        voxels, rest = _unpacked(path, voxels, wanted)
        tail = rest + tail
    if len(tail) > LIMIT_TAIL or tail.strip(b"\0\r\n "):
        raise BadVolume(path, "unreadable", "holds more data than its header says.", AGAIN)
    return voxels


def _where(path: Path, header: Header) -> tuple[Path, int]:
    """The file that holds the voxels, and the byte that they begin at."""
    if not header.data_file:
        return path, header.length
    if path.suffix.lower() not in DETACHED or header.data_file not in [path.stem + ending for ending in DATA_ENDINGS]:
        reason = "keeps its voxels in another file; that is read only beside a .mhd or .nhdr header, with its name and the ending .raw or .zraw."
        raise BadVolume(path, "unreadable", reason, "Write it again as one file.")
    return path.with_name(header.data_file), 0


def _unpacked(path: Path, packed: bytes, wanted: int) -> tuple[bytes, bytes]:
    """So many bytes of a zlib or gzip stream, which must be all of it, and what follows the stream."""
    unpacker = zlib.decompressobj(wbits=47)  # either kind, by its first bytes
    voxels = unpacker.decompress(packed, wanted + 1)
    if len(voxels) > wanted:
        raise BadVolume(path, "unreadable", "holds more data than its header says.", AGAIN)
    if len(voxels) < wanted or not unpacker.eof:
        raise BadVolume(path, "unreadable", f"is truncated: {len(voxels)} of {wanted} bytes.", AGAIN)
    return voxels, unpacker.unused_data
