"""Label maps against label maps: overlap, distance between surfaces, volume, and lesions found. Distances and volumes by MONAI's measures."""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy import ndimage

from medldm.errors import UserError
from medldm.metrics.base import Images

FACES = ndimage.generate_binary_structure(3, 3)  # neighbours by face, edge or corner


def dice(label: np.ndarray, reference: np.ndarray, value: int) -> float | None:
    """2 |A and B| / (|A| + |B|) of one structure (Dice 1945); None where both label maps lack it.

    Args:
        label: label map [I J K].
        reference: label map [I J K].
        value: the structure's label value.

    Raises:
        UserError: the label maps have different grids; so do the others here.
    """
    a, b = _structure(label, reference, value)
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else None


def iou(label: np.ndarray, reference: np.ndarray, value: int) -> float | None:
    """|A and B| / |A or B| of one structure (Jaccard 1912); None where both label maps lack it. Arguments as in `dice`."""
    a, b = _structure(label, reference, value)
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else None


def hd95(label: np.ndarray, reference: np.ndarray, value: int, spacing: Sequence[float]) -> float | None:
    """95th percentile of the distances between the surfaces of one structure, the larger of both directions, in mm (Huttenlocher 1993).

    None where a label map lacks the structure: there is no surface to be distant from.

    Args:
        label, reference, value: as in `dice`.
        spacing: millimetres along I, J, K.
    """
    from monai.metrics import compute_hausdorff_distance

    pair = _one_hot(label, reference, value)
    if pair is None:
        return None
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of MONAI about itself
        return float(compute_hausdorff_distance(*pair, percentile=95, spacing=[float(s) for s in spacing]))


def surface_dice(label: np.ndarray, reference: np.ndarray, value: int, spacing: Sequence[float], tolerance: float = 1.0) -> float | None:
    """Share of both surfaces of one structure that lies within a tolerance of the other (Nikolov et al. 2018).

    0 where one label map lacks the structure, None where both do.

    Args:
        label, reference, value: as in `dice`.
        spacing: millimetres along I, J, K.
        tolerance: in mm.
    """
    from monai.metrics import compute_surface_dice

    a, b = _structure(label, reference, value)
    if not a.any() or not b.any():
        return 0.0 if a.any() or b.any() else None
    pair = _one_hot(label, reference, value)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        return float(compute_surface_dice(*pair, class_thresholds=[tolerance], spacing=[float(s) for s in spacing], use_subvoxels=True))


def volume_error(label: np.ndarray, reference: np.ndarray, value: int) -> float | None:
    """(|A| - |B|) / |B| of one structure in %; None where the reference lacks it. Arguments as in `dice`."""
    a, b = _structure(label, reference, value)
    return 100.0 * (int(a.sum()) - int(b.sum())) / int(b.sum()) if b.any() else None


def lesions(label: np.ndarray, reference: np.ndarray, value: int, overlap: float = 0.1) -> tuple[int, int, int]:
    """Lesions found, lesions of the reference, and lesions of the label map that are none; a lesion is a connected component.

    A lesion of the reference is found if lesions of the label map cover this share of it, and one of the label map is none if the
    reference covers less of it. Recall is found / there; precision is 1 - none / (lesions of the label map).

    Args:
        label, reference, value: as in `dice`.
        overlap: share in (0, 1].

    Returns:
        (found, there, false); lesions of the label map are those of `count_lesions`.
    """
    a, b = _structure(label, reference, value)
    covered, claimed = _covered(b, a), _covered(a, b)
    return int((covered >= overlap).sum()), len(covered), int((claimed < overlap).sum())


def lesion_values(label: np.ndarray, reference: np.ndarray, names: Mapping[int, str], overlap: float = 0.1) -> dict[str, float]:
    """Counts per structure as `lesions_there_<name>`, `lesions_found_`, `lesions_claimed_` (by the label map) and `lesions_false_` (of these)."""
    values: dict[str, float] = {}
    for value, name in sorted(names.items()):
        found, there, false = lesions(label, reference, value, overlap)
        counts = {"there": there, "found": found, "claimed": count_lesions(label, value), "false": false}
        values |= {f"lesions_{kind}_{name}": float(count) for kind, count in counts.items()}
    return values


def count_lesions(label: np.ndarray, value: int) -> int:
    """Connected components of one structure."""
    return int(ndimage.label(label == value, FACES)[1])


def label_values(label: np.ndarray, reference: np.ndarray, names: Mapping[int, str], spacing: Sequence[float]) -> dict[str, float]:
    """All measures of every structure as `<measure>_<name>`; those that are not defined are left out.

    Args:
        label, reference: label maps [I J K].
        names: label value -> name.
        spacing: millimetres along I, J, K.
    """
    found: dict[str, float | None] = {}
    for value, name in sorted(names.items()):
        found |= {
            f"dice_{name}": dice(label, reference, value),
            f"iou_{name}": iou(label, reference, value),
            f"hd95_{name}": hd95(label, reference, value, spacing),
            f"surface_dice_{name}": surface_dice(label, reference, value, spacing),
            f"volume_error_{name}": volume_error(label, reference, value),
        }
    return {name: value for name, value in found.items() if value is not None}


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


def _structure(label: np.ndarray, reference: np.ndarray, value: int) -> tuple[np.ndarray, np.ndarray]:
    """Where one structure is."""
    if label.shape != reference.shape:
        raise UserError(f"Label maps of different grids cannot be compared ({label.shape} and {reference.shape}).", "Resample one to the other.")
    return label == value, reference == value


def _one_hot(label: np.ndarray, reference: np.ndarray, value: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """One structure of both label maps as [1 1 I J K], cut to where either has it, with a margin; None where one lacks it."""
    a, b = _structure(label, reference, value)
    if not a.any() or not b.any():
        return None
    box = ndimage.find_objects((a | b).astype(np.uint8))[0]
    box = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)
    return tuple(torch.from_numpy(x[box].astype(np.float32))[None, None] for x in (a, b))


def _covered(of: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Share of each connected component of one mask that lies in another mask."""
    parts, count = ndimage.label(of, FACES)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    return np.bincount(parts[by], minlength=count + 1)[1:] / np.maximum(sizes, 1)
