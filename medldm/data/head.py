"""The head that the phantoms deform: tissues from signed distances in millimetres (negative inside).

Coordinates are RAS+ mm about the centre of the volume; the cranium is about 150 x 180 mm wide and long.
Signed distances of ellipsoids are the first-order estimate of Quilez (2008).
"""

import numpy as np
from numpy.random import Generator
from scipy import ndimage

AIR, SCALP, MUSCLE, BONE, CSF, GREY, WHITE, VENTRICLE, EYE, LESION = range(10)
BRAIN_TISSUES = (GREY, WHITE)
REACH = 130.0  # mm from the centre within which random fields are defined

# Axis and radius (mm) of a lateral ventricle: frontal horn, body, atrium, temporal horn. x is the distance from the midline.
VENTRICLE_AXIS = np.array([(9, 30, 6), (10, 14, 15), (14, -10, 17), (24, -30, 8), (31, -14, -10)], np.float32)
VENTRICLE_RADII = np.array([6.5, 7.0, 6.0, 7.5, 3.0], np.float32)


def smooth_noise(points: np.ndarray, rng: Generator, cell: float) -> np.ndarray:
    """A smooth random field of about unit variance: a quadratic B-spline with independent coefficients.

    Args:
        points: positions in mm [3 I J K].
        rng: drawn from once, whatever the points are.
        cell: mm between the coefficients.

    Returns:
        Values [I J K], float32.
    """
    count = int(np.ceil(2 * REACH / cell)) + 4
    coefficients = rng.normal(0, 1, (count, count, count)).astype(np.float32)
    at = (points / np.float32(cell) + np.float32((count - 1) / 2)).reshape(3, -1)
    values = ndimage.map_coordinates(coefficients, at, order=2, prefilter=False, mode="nearest", output=np.float32)
    return values.reshape(points.shape[1:]) * np.float32(2.45)  # the weights have a mean square norm of 0.55^3


def tissues(q: np.ndarray, age: float, rng: Generator) -> np.ndarray:
    """Tissue of each point of a head of standard size, without lesion.

    Args:
        q: positions in mm [3 I J K], already deformed.
        age: years; the ventricles of a person of 90 have about twice the radius of those at 20, sulci are wider too.
        rng: individual folds and ventricle width.

    Returns:
        Tissue codes [I J K], uint8.
    """
    aging = (age - 20) / 70
    folds = smooth_noise(q, rng, cell=13.0)
    width = (0.75 + 0.8 * aging) * np.exp(rng.normal(0, 0.04))
    tissue = np.full(q.shape[1:], AIR, np.uint8)
    cranium = _cranium(q)
    _paint_outside(tissue, q, cranium)
    tissue[cranium < 0] = BONE
    inner = cranium + 6
    tissue[inner < 0] = CSF
    _paint_brain(tissue, q, inner + 1.0 + 3.0 * aging + (0.8 + 1.2 * aging) * folds, inner, folds, aging)
    third = _ellipsoid(q, (0, -4, 2), (2.2 + 2.5 * width, 13, 9))
    tissue[(third < 0) | (_lateral_ventricles(q, width) < 0)] = VENTRICLE
    return tissue


def _cranium(q: np.ndarray) -> np.ndarray:
    """Outside of the skull: an ellipsoid cut by a base that falls from the orbits to the occiput."""
    base = (-40 + 0.25 * q[1] - q[2]) * np.float32(0.97)
    return np.maximum(_ellipsoid(q, (0, -4, 6), (66, 84, 64)), base)


def _paint_outside(tissue: np.ndarray, q: np.ndarray, cranium: np.ndarray) -> None:
    """Scalp, neck and face with nose, jaw, airway and eyes."""
    neck = _capsule(q, (0, -25, -35), (0, -38, -140), 44, 48)
    face = _ellipsoid(q, (0, 32, -48), (50, 50, 62))
    nose = _ellipsoid(q, (0, 82, -52), (10, 13, 15))
    flesh = np.minimum(np.minimum(neck, face), nose)
    tissue[np.minimum(flesh, _ellipsoid(q, (0, -4, 6), (72, 90, 70))) < 0] = SCALP
    tissue[(flesh < -6) & (cranium > 0)] = MUSCLE
    for side in (-1, 1):
        tissue[_ellipsoid(q, (side * 31, 60, -40), (13, 13, 13)) < 0] = EYE
    tissue[np.abs(_ellipsoid(q, (0, 34, -66), (36, 36, 26))) < 3.5] = BONE
    tissue[_capsule(q, (0, -32, -60), (0, -40, -140), 12, 12) < 0] = BONE
    tissue[_ellipsoid(q, (0, 48, -50), (11, 26, 13)) < 0] = AIR


def _paint_brain(tissue: np.ndarray, q: np.ndarray, cortex: np.ndarray, inner: np.ndarray, folds: np.ndarray, aging: float) -> None:
    """Cerebrum with cortical ribbon, deep grey and fissure; cerebellum; brain stem."""
    cerebrum = np.maximum(cortex, -26 - 0.2 * q[1] - q[2])
    tissue[cerebrum < 0] = GREY
    tissue[cerebrum < -8.0 - 1.8 * folds] = WHITE
    fissure = (np.abs(q[0]) < 1.2 + 1.2 * aging) & (inner > -26) & (q[2] > -20)
    tissue[fissure & (inner < 0)] = CSF
    for side in (-1, 1):
        tissue[_ellipsoid(q, (side * 15, 2, 0), (8, 18, 9)) < 0] = GREY
    cerebellum = _ellipsoid(q, (0, -50, -32), (43, 26, 19)) + folds
    tissue[(cerebellum < 0) & (inner < -1)] = GREY
    tissue[(cerebellum < -9) & (inner < -1)] = WHITE
    tissue[_capsule(q, (0, -20, -8), (0, -32, -52), 12, 9) < 0] = WHITE


def _lateral_ventricles(q: np.ndarray, width: float) -> np.ndarray:
    """Signed distance to both lateral ventricles; the midline is a mirror."""
    mirrored = np.stack([np.abs(q[0]), q[1], q[2]])
    radii = VENTRICLE_RADII * np.float32(width)
    axis = VENTRICLE_AXIS + np.array([2.5 * width, 0, 0], np.float32)  # wide ventricles keep a septum between them
    pairs = zip(axis[:-1], axis[1:], radii[:-1], radii[1:], strict=True)
    return np.minimum.reduce([_capsule(mirrored, a, b, ra, rb) for a, b, ra, rb in pairs])


def _ellipsoid(q: np.ndarray, centre, radii) -> np.ndarray:
    """First-order signed distance |p/r| (|p/r| - 1) / |p/r^2| to an ellipsoid, p = q - centre."""
    r = np.asarray(radii, np.float32)[:, None, None, None]
    p = q - np.asarray(centre, np.float32)[:, None, None, None]
    scaled = np.sqrt(((p / r) ** 2).sum(0))
    return scaled * (scaled - 1) / np.maximum(np.sqrt(((p / r**2) ** 2).sum(0)), np.float32(1e-6))


def _capsule(q: np.ndarray, a, b, radius_a: float, radius_b: float) -> np.ndarray:
    """Distance to the segment from a to b, less a radius that changes linearly along it."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    along = b - a
    p = q - a[:, None, None, None]
    share = np.clip(np.tensordot(along, p, 1) / np.float32(along @ along), 0, 1)
    distance = np.sqrt(((p - along[:, None, None, None] * share) ** 2).sum(0))
    return distance - (np.float32(radius_a) * (1 - share) + np.float32(radius_b) * share)
