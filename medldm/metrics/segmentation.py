"""Label maps: overlap and volume."""

from collections.abc import Sequence

import numpy as np

from medldm.metrics.base import Images


def dice(label: np.ndarray, reference: np.ndarray, value: int) -> float | None:
    """2 |A and B| / (|A| + |B|) of one structure (Dice 1945); None where both label maps lack it.

    Args:
        label: label map [I J K].
        reference: label map [I J K].
        value: the structure's label value.
    """
    a, b = label == value, reference == value
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else None


def label_volumes(label: np.ndarray, spacing: Sequence[float], values: Sequence[int]) -> list[float]:
    """Volume of each structure in mm3: voxels times voxel volume.

    Args:
        label: label map [I J K].
        spacing: millimetres along I, J, K.
        values: label values, background left out.
    """
    voxel = float(np.prod(spacing))
    counts = np.bincount(label.astype(np.int64).ravel(), minlength=max(values, default=0) + 1)
    return [float(counts[value]) * voxel for value in values]


def cohort_volumes(images: Images) -> np.ndarray:
    """Structure volumes [cases, labels] in mm3, labels in ascending order of their value; every case needs a label map."""
    values = sorted(images.cohort.labels)
    rows = [label_volumes(images.label(i), images.spacing(i), values) for i in range(len(images))]
    return np.array(rows, dtype=np.float64).reshape(len(images), len(values))
