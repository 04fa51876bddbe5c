"""The embedded cohort: labelled 3-D head phantoms, deterministic, in two modalities.

A head is a set of signed distances (skull, cortex, ventricles ...) read at deformed coordinates. Anatomy depends on the
patient alone: `age` widens ventricles and sulci, `lesion_volume` sets the size of a lesion, `sex` the size of the head.
Repeat scans show the same anatomy with another position, noise, bias field and contrast.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.random import Generator
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medldm.data.head import AIR, BONE, BRAIN_TISSUES, LESION, VENTRICLE, smooth_noise, tissues
from medldm.errors import UserError
from medldm.files import read_json, write_csv, write_json
from medldm.volume import Volume, write_volume

LABELS = {"background": 0, "brain": 1, "ventricles": 2, "lesion": 3}
SUBSAMPLES = 2  # points per voxel and axis; their mean gives partial volume at borders
REPEAT_EVERY = 4  # each fourth patient is scanned twice
SEX_SCALE = {"F": 0.95, "M": 1.0}

# Signal by tissue: air, scalp, muscle, bone, CSF, grey matter, white matter, ventricle, eye, lesion.
MRI = np.array([0.0, 0.90, 0.45, 0.10, 0.16, 0.50, 0.82, 0.13, 0.25, 0.32], np.float32)
CT = np.array([-1000.0, 10.0, 50.0, 950.0, 6.0, 38.0, 29.0, 5.0, 12.0, 68.0], np.float32)

Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Patient:
    """What causes the anatomy.

    Args:
        name: pseudonym.
        age: years, 20 to 90.
        sex: "F" or "M".
        lesion_volume: mm3, 0 where there is none.
        seed: seed of the individual shape.
    """

    name: str
    age: float
    sex: str
    lesion_volume: float
    seed: tuple[int, ...]


def write_phantoms(
    out: Path,
    patients: int = 40,
    shape: Shape = (32, 40, 32),
    spacing: Spacing = (5.0, 5.0, 5.0),
    modality: Literal["mri", "ct"] = "mri",
    seed: int = 0,
) -> None:
    """Write a source folder of phantoms: `images/`, `labels/`, `covariates.csv` and `dataset.json`.

    Equal arguments give equal bytes; an interrupted call is continued by the same call.

    Args:
        out: a new folder, or one that the same call began.
        patients: number of heads, at least 1; each fourth has a second scan.
        shape: voxels along I, J, K.
        spacing: mm along I, J, K; shape times spacing should be about (160, 200, 160) mm to hold a head.
        modality: "mri" (arbitrary units) or "ct" (HU); the anatomy of a seed is the same in both.
        seed: seed of everything.

    Raises:
        UserError: an argument is out of range, or the folder holds something else.
    """
    if patients < 1 or min(shape) < 4 or min(spacing) <= 0 or modality not in ("mri", "ct"):
        raise UserError(f"Phantoms cannot be made with patients={patients}, shape={shape}, spacing={spacing}, modality={modality!r}.")
    out = Path(out)
    settings = {"patients": patients, "shape": list(shape), "spacing": list(spacing), "modality": modality, "seed": seed}
    about = {"name": f"head phantoms ({modality})", "labels": LABELS, "phantom": settings}
    if out.exists() and any(out.iterdir()) and not ((out / "dataset.json").is_file() and read_json(out / "dataset.json") == about):
        raise UserError(f"{out} already holds other files.", "Give a new folder.")
    write_json(out / "dataset.json", about)
    rows = []
    for index in range(patients):
        patient = make_patient(index, seed)
        for scan in range(2 if index % REPEAT_EVERY == REPEAT_EVERY - 1 else 1):
            case = f"{patient.name}_s{scan + 1}"
            rows.append((case, patient.name, patient.age, patient.sex, patient.lesion_volume))
            paths = [out / folder / f"{case}.nii.gz" for folder in ("images", "labels")]
            if all(path.is_file() for path in paths):
                continue
            for path, volume in zip(paths, scan_head(patient, scan, shape, spacing, modality), strict=True):
                write_volume(path, volume)
    write_csv(out / "covariates.csv", [("case", "patient", "age", "sex", "lesion_volume"), *rows])


def make_patient(index: int, seed: int) -> Patient:
    """Draw the covariates of patient `index`; age is uniform in 20-90 years, three of ten have no lesion."""
    rng = np.random.default_rng([seed, index])
    age = round(rng.uniform(20, 90), 1)
    sex = "FM"[int(rng.integers(2))]
    volume = round(float(np.exp(rng.uniform(np.log(3000), np.log(30000)))))
    lesion = 0 if rng.random() < 0.3 else volume
    return Patient(f"p{index + 1:03d}", age, sex, float(lesion), (seed, index, 1))


def scan_head(patient: Patient, scan: int, shape: Shape, spacing: Spacing, modality: Literal["mri", "ct"]) -> tuple[Volume, Volume]:
    """One scan of a patient.

    Args:
        patient: whose head.
        scan: 0 for the first scan, 1 for the repeat ...; position, noise, bias and contrast follow from it.
        shape: voxels along I, J, K.
        spacing: mm along I, J, K.
        modality: "mri" or "ct".

    Returns:
        The image [1 I J K] and its label map [1 I J K] (1 brain, 2 ventricles, 3 lesion).
    """
    rng = np.random.default_rng([*patient.seed, 100 + scan])
    points = _moved(_grid(shape, spacing), rng)
    anatomy = np.random.default_rng([*patient.seed])
    size = SEX_SCALE[patient.sex] * anatomy.uniform(0.97, 1.03)
    deformed = (points + np.stack([smooth_noise(points, anatomy, cell=55.0) for _ in range(3)]) * 3.3) / size
    tissue = tissues(deformed, patient.age, anatomy)
    _add_lesion(tissue, deformed, patient.lesion_volume, float(np.prod(spacing)) / SUBSAMPLES**3, anatomy)
    image = _mri(tissue, points, rng) if modality == "mri" else _ct(tissue, points, rng)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * s for n, s in zip(shape, spacing, strict=True)]
    label = torch.from_numpy(_label_map(tissue))[None]
    return Volume(torch.from_numpy(image)[None], affine, "HU" if modality == "ct" else "a.u."), Volume(label, affine, "label")


def _grid(shape: Shape, spacing: Spacing) -> np.ndarray:
    """Positions in mm [3 I' J' K'] of SUBSAMPLES points per voxel and axis; the centre of the volume is 0."""
    axes = [(np.arange(n * SUBSAMPLES) - (n * SUBSAMPLES - 1) / 2) * s / SUBSAMPLES for n, s in zip(shape, spacing, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


def _moved(points: np.ndarray, rng: Generator) -> np.ndarray:
    """A small rigid motion: rotations of about 2 degrees, shifts of about 1.5 mm."""
    turn = Rotation.from_euler("xyz", rng.normal(0, 2.0, 3), degrees=True).as_matrix()
    shift = rng.normal(0, 1.5, 3)
    return (np.tensordot(turn, points, 1) + shift[:, None, None, None]).astype(np.float32)


def _add_lesion(tissue: np.ndarray, q: np.ndarray, volume: float, point_volume: float, rng: Generator) -> None:
    """Turn the brain points nearest to a random centre into lesion until they fill `volume` mm3."""
    side = rng.choice([-1.0, 1.0])
    centre = np.array([side * rng.uniform(22, 38), rng.uniform(-40, 35), rng.uniform(5, 32)], np.float32)
    stretch = rng.uniform(0.8, 1.25, 3).astype(np.float32)
    count = round(volume / point_volume)
    if count == 0:
        return
    distance = np.sqrt((((q - centre[:, None, None, None]) * stretch[:, None, None, None]) ** 2).sum(0))
    distance += 2.0 * smooth_noise(q, rng, cell=14.0)
    distance[~np.isin(tissue, BRAIN_TISSUES)] = np.inf
    nearest = np.argpartition(distance, count, axis=None)[:count]
    tissue.flat[nearest] = LESION


def _label_map(tissue: np.ndarray) -> np.ndarray:
    """The label with the largest share of each voxel [I J K]; the lesion takes the voxels it fills most, as many as make its volume."""
    brain, ventricle, lesion = (_pooled(mask.astype(np.float32)) for mask in (np.isin(tissue, BRAIN_TISSUES), tissue == VENTRICLE, tissue == LESION))
    labels = np.argmax([1 - brain - ventricle - lesion, brain + lesion, ventricle], axis=0).astype(np.float32)
    count = round(float(lesion.sum()))  # the majority in each voxel would make small lesions smaller
    labels.flat[np.argsort(-lesion, axis=None, kind="stable")[:count]] = LABELS["lesion"]
    return labels


def _pooled(values: np.ndarray) -> np.ndarray:
    """Mean over the points of each voxel."""
    i, j, k = (n // SUBSAMPLES for n in values.shape)
    return values.reshape(i, SUBSAMPLES, j, SUBSAMPLES, k, SUBSAMPLES).mean((1, 3, 5))


def _mri(tissue: np.ndarray, points: np.ndarray, rng: Generator) -> np.ndarray:
    """T1-like signal: own contrast and gain, bias field of about 12 %, Rician noise sqrt((s + n1)^2 + n2^2)."""
    levels = MRI * rng.normal(1.0, 0.03, len(MRI)).astype(np.float32)
    levels = np.clip(levels, 0, None) ** np.float32(rng.uniform(0.85, 1.2))
    bias = np.exp(0.12 * smooth_noise(points, rng, cell=110.0))
    signal = _pooled(levels[tissue] * bias)
    noise = rng.normal(0, 0.02, (2, *signal.shape)).astype(np.float32)
    gain = np.float32(rng.uniform(400, 1200))
    return gain * np.hypot(signal + noise[0], noise[1])


def _ct(tissue: np.ndarray, points: np.ndarray, rng: Generator) -> np.ndarray:
    """HU: bone varies between about 700 and 1200, noise of 4 HU, nothing below air."""
    hounsfield = CT[tissue]
    bone = tissue == BONE
    hounsfield[bone] += np.clip(120 * smooth_noise(points, rng, cell=40.0)[bone], -250, 250)
    signal = _pooled(hounsfield)
    noise = ndimage.gaussian_filter(rng.normal(0, 1, signal.shape), 0.5)
    return np.clip(signal + 4 * noise / noise.std(), CT[AIR], None).astype(np.float32)
