"""Synthetic heads: the average head that defacing uses, moved by known affine maps, in several contrasts; where the face is, is known exactly."""

import numpy as np
import torch
from scipy import ndimage

from medldm.privacy.head_template import template
from medldm.volume import Volume

GRID = np.array([[4.0, 0, 0, -100], [0, 4, 0, -132], [0, 0, 4, -128], [0, 0, 0, 1]])
SHAPE = (51, 67, 65)
CONTRASTS = {
    "T1": lambda t: 800 * t,
    "T2": lambda t: 300 * np.where(t > 0.12, 1.3 - t, t),
    "CT": lambda t: np.clip(-1000 + 9000 * t, -1000, 20 + 60 * t),
}


def moved(degrees: tuple[float, float, float], size: tuple[float, float, float], shift: tuple[float, float, float]) -> np.ndarray:
    """mm of the template -> mm of the world."""
    from scipy.spatial.transform import Rotation

    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * size
    matrix[:3, 3] = shift
    return matrix


MATRIX = moved((8, -3, 5), (1.05, 0.95, 1.0), (3, -6, 4))


def along(affine: np.ndarray, shape: tuple[int, int, int], matrix: np.ndarray) -> np.ndarray:
    """Coordinates in the template of every voxel [3 I J K]."""
    index = np.linalg.solve(matrix, affine)
    return np.moveaxis(np.moveaxis(np.indices(shape), 0, -1) @ index[:3, :3].T + index[:3, 3], -1, 0)


def head(matrix: np.ndarray, contrast: str = "T1", affine: np.ndarray = GRID, shape: tuple[int, int, int] = SHAPE) -> Volume:
    """A noisy head with a bias field whose anatomy is the template's moved by `matrix`."""
    source, places = template(), along(affine, shape, matrix)
    inner = np.linalg.inv(source.affine)
    at = np.tensordot(inner[:3, :3], places, 1) + inner[:3, 3, None, None, None]
    clean = np.maximum(source.image - 0.04, 0)  # the average has a halo
    signal = CONTRASTS[contrast](ndimage.map_coordinates(clean, at, order=1, mode="constant"))
    rng = np.random.default_rng(0)
    if contrast == "CT":
        return Volume(torch.from_numpy((signal + rng.normal(0, 5, shape)).astype(np.float32))[None], affine, "HU")
    signal *= 1 + 0.2 * np.sin(places[1] / 60) * np.cos(places[2] / 70)
    noisy = np.hypot(signal + rng.normal(0, 8, shape), rng.normal(0, 8, shape))
    return Volume(torch.from_numpy(noisy.astype(np.float32))[None], affine)
