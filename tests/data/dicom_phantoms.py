"""Synthetic DICOM files. Their intensities are a linear function of the place in the patient, so that a voxel in a wrong place shows."""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medldm.volume import Volume

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR, SEG, RTSTRUCT = "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.481.3"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
WEIGHTS = np.array([3.0, -2.0, 1.0])  # of RAS mm
SLOPE = 0.05
ROWS, COLUMNS, SLICES = 9, 7, 5
SPACING, GAP, ORIGIN = (1.5, 2.0), 3.0, (-20.0, 30.0, 40.0)


def intensity(lps: np.ndarray) -> np.ndarray:
    """The phantom at places in LPS mm [... 3]."""
    return lps * [-1, -1, 1] @ WEIGHTS


def places(position: Sequence[float], orientation: Sequence[float], size=(ROWS, COLUMNS), spacing=SPACING) -> np.ndarray:
    """LPS mm of the pixels of a plane [rows columns 3]."""
    row, column = np.mgrid[: size[0], : size[1]]
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    return np.array(position) + column[..., None] * spacing[1] * along_row + row[..., None] * spacing[0] * along_column


def stored(values: np.ndarray) -> np.ndarray:
    """Intensities as stored values."""
    return np.rint(values / SLOPE).astype(np.int16)


def rotation(seed: int) -> tuple[float, ...]:
    """A random orientation: directions along a row and along a column."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return (*q[0].tolist(), *q[1].tolist())


def base(sop_class: str, **attributes) -> FileDataset:
    """A file of the patient CANARY^JOHN with no pixels yet."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.PatientID, dataset.PatientSex = "CANARY^JOHN", "CANARY-7", "M"
    dataset.PatientBirthDate, dataset.StudyDate, dataset.StudyTime = "19600229", "20200229", "101500"
    dataset.StudyDescription = dataset.SeriesDescription = "for Dr. CANARY"
    dataset.Modality = "CT" if sop_class == CT else "MR"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.StudyInstanceUID, dataset.SeriesNumber, dataset.FrameOfReferenceUID = "1.2.3", 4, "1.2.9"
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


def put_pixels(dataset: Dataset, pixels: np.ndarray) -> None:
    """Give a file its pixels [(frames) rows columns], int16 or uint8."""
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    if pixels.ndim == 3:
        dataset.NumberOfFrames = len(pixels)


def save(dataset: FileDataset, path: Path) -> Path:
    """Write a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_slices(
    folder: Path,
    orientation=AXIAL,
    step=None,
    sop_class=CT,
    seed=0,
    change: Callable[[FileDataset, int], None] = lambda dataset, k: None,
    **attributes,
) -> list[Path]:
    """A classic series in files of random names; `change` may alter slice k before it is written.

    Args:
        folder: gets the files.
        orientation: along a row and along a column.
        step: from slice to slice, LPS mm; GAP along the normal by default.
        sop_class: CT or MR.
        seed: of the names.
        change: called for each slice.
        attributes: of every file.
    """
    step = np.cross(orientation[:3], orientation[3:]) * GAP if step is None else np.array(step)
    names = np.random.default_rng(seed).permutation(SLICES)
    paths = []
    attributes = {"SeriesInstanceUID": generate_uid(), **attributes}
    for k in range(SLICES):
        position = np.array(ORIGIN) + k * step
        dataset = base(sop_class, InstanceNumber=k + 1, RescaleSlope=SLOPE, RescaleIntercept=0, **attributes)
        dataset.ImagePositionPatient = [f"{value:.10g}" for value in position]
        dataset.ImageOrientationPatient = [f"{value:.10g}" for value in orientation]
        dataset.PixelSpacing, dataset.SliceThickness = list(SPACING), GAP
        put_pixels(dataset, stored(intensity(places(position, orientation))))
        change(dataset, k)
        paths.append(save(dataset, folder / f"IM{names[k]:04d}"))
    return paths


def assert_in_place(volume: Volume, tolerance: float = SLOPE, where: np.ndarray | None = None) -> None:
    """Every voxel has the intensity of its place; or those in `where` [I J K]."""
    ijk = np.moveaxis(np.indices(volume.shape), 0, -1)
    ras = ijk @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    error = np.abs(volume.data[0].numpy() - ras @ WEIGHTS)
    assert (error if where is None else error[where]).max() < tolerance


def item(**attributes) -> Dataset:
    """An item of a sequence."""
    dataset = Dataset()
    for name, value in attributes.items():
        setattr(dataset, name, Items(value) if name.endswith("Sequence") else value)
    return dataset


def csa(**tags: Sequence[float]) -> bytes:
    """A Siemens CSA2 header with some numbers."""
    data = b"SV10\x04\x03\x02\x01" + struct.pack("<II", len(tags), 77)
    for name, values in tags.items():
        data += struct.pack("<64si4siii", name.encode(), len(values), b"FD", 4, 6, 77)
        for text in [f"{value:.8f}".encode() for value in values] + [b""] * (6 - len(values)):
            length = len(text) + 1 if text else 0
            data += struct.pack("<4i", length, length, 77, length) + (text + b"\0" if length else b"").ljust((length + 3) // 4 * 4, b"\0")
    return data
