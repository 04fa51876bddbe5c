"""Radiomics of labelled structures: first-order, shape and texture features after the definitions of the IBSI (Zwanenburg et al. 2020)."""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
from scipy import ndimage, stats

from medldm.metrics.base import Images
from medldm.metrics.features import Features, View

LEVELS = 16  # grey levels of the co-occurrence matrix, equal steps over [-1, 1]
#: The 13 directions to neighbours, without their opposites.
DIRECTIONS = [d for d in product((-1, 0, 1), repeat=3) if d > (0, 0, 0)]
NAMES = (
    "mean", "std", "skewness", "kurtosis", "p10", "median", "p90", "volume", "surface", "sphericity", "elongation", "flatness",
    "contrast", "correlation", "energy", "homogeneity", "entropy",
)  # fmt: skip


class Radiomics(Features):
    """`radiomics_v1` of every structure of a case, one after the other; of the whole image where a cohort has no labels.

    The Frechet distance of these is the Frechet radiomics distance (Konz et al. 2024).
    """

    name = "radiomics_v1"

    def views(self, images: Images) -> list[View]:
        """One row per case; contrasts and structures one after the other."""
        return [View(np.stack([self._case(images, i) for i in range(len(images))]), np.arange(len(images)))]

    def _case(self, images: Images, index: int) -> np.ndarray:
        voxels, label, spacing = images.image(index), images.label(index), images.spacing(index)
        structures = [np.ones(voxels.shape[1:], dtype=bool)] if label is None else [label == value for value in sorted(images.cohort.labels)]
        return np.concatenate([radiomics_v1(channel, inside, spacing) for channel in voxels for inside in structures])


def radiomics_v1(image: np.ndarray, inside: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """17 features of one structure, in the order of `NAMES`; all 0 where it is not there.

    Args:
        image: voxels [I J K] in about [-1, 1].
        inside: where the structure is [I J K].
        spacing: millimetres along I, J, K.
    """
    if not inside.any():
        return np.zeros(len(NAMES))
    box = tuple(slice(s.start, s.stop) for s in ndimage.find_objects(inside.astype(np.uint8))[0])
    image, inside = np.asarray(image[box], dtype=np.float64), inside[box]
    return np.array([*_first_order(image[inside]), *_shape(inside, spacing), *_texture(image, inside)])


def _first_order(values: np.ndarray) -> list[float]:
    constant = np.ptp(values) == 0
    moments = [0.0, 0.0] if constant else [float(stats.skew(values)), float(stats.kurtosis(values))]
    return [values.mean(), values.std(), *moments, *np.percentile(values, (10, 50, 90))]


def _shape(inside: np.ndarray, spacing: Sequence[float]) -> list[float]:
    """Volume in mm3, surface in mm2, sphericity (36 pi V^2)^(1/3) / A, and the root ratios of the second and third principal variance."""
    from skimage.measure import marching_cubes, mesh_surface_area

    spacing = tuple(float(s) for s in spacing)
    corners, faces, *_ = marching_cubes(np.pad(inside, 1).astype(np.float32), 0.5, spacing=spacing)
    volume, surface = float(inside.sum() * np.prod(spacing)), float(mesh_surface_area(corners, faces))
    places = np.argwhere(inside) * spacing
    variances = np.sort(np.linalg.eigvalsh(np.atleast_2d(np.cov(places.T))))[::-1].clip(0) if len(places) > 1 else np.zeros(3)
    longest = variances[0] or 1.0
    sphericity = (36 * math.pi * volume**2) ** (1 / 3) / surface
    return [volume, surface, sphericity, math.sqrt(variances[1] / longest), math.sqrt(variances[2] / longest)]


def _texture(image: np.ndarray, inside: np.ndarray) -> list[float]:
    """Contrast, correlation, angular second moment, inverse difference moment and joint entropy (bits) of the co-occurrence matrix."""
    p = co_occurrence(image, inside)
    i, j = np.indices(p.shape)
    mean = (i * p).sum()
    variance = (p * (i - mean) ** 2).sum()
    correlation = (p * (i - mean) * (j - mean)).sum() / variance if variance > 0 else 1.0
    contrast, energy, homogeneity = (p * (i - j) ** 2).sum(), (p**2).sum(), (p / (1 + (i - j) ** 2)).sum()
    return [float(x) for x in (contrast, correlation, energy, homogeneity, -(p[p > 0] * np.log2(p[p > 0])).sum())]


def co_occurrence(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Symmetric shares [16, 16] of grey levels of neighbours that both lie inside, merged over 13 directions; one level alone for one voxel."""
    levels = ((image + 1) / 2 * LEVELS).astype(np.int64).clip(0, LEVELS - 1)
    counts = np.zeros(LEVELS * LEVELS)
    for direction in DIRECTIONS:
        here, there = (tuple(slice(max(0, s * d), n + min(0, s * d)) for d, n in zip(direction, image.shape, strict=True)) for s in (-1, 1))
        both = inside[here] & inside[there]
        counts += np.bincount(levels[here][both] * LEVELS + levels[there][both], minlength=counts.size)
    if not counts.any():
        counts[levels[inside][0] * (LEVELS + 1)] = 1
    matrix = counts.reshape(LEVELS, LEVELS)
    return (matrix + matrix.T) / (2 * counts.sum())
