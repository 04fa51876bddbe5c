"""Copies of training cases among generated ones, also mirrored, turned, shifted, rescaled or noisy ones.

Anatomy makes all images of a cohort alike; details tell people apart. So details are compared, after the best alignment that a search finds,
and how alike two people are at most is learnt from real patients who were held out.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

from medldm.metrics.base import Images

COARSE, FINE = 16, 24  # blocks along the longest side
ANGLES = (-6.0, 0.0, 6.0)  # degrees about each axis, searched at first
SHIFTS = (-1, 0, 1)  # coarse blocks
NEIGHBOURS = 1.0  # blocks of the Gaussian mean that details are the difference to, on the coarse grid; as much of the image on the fine one
REFLECTIONS = tuple(itertools.product((1, -1), repeat=3))
CANDIDATES, FINALISTS = 32, 4
OVERLAP = 0.5  # of the smaller image, that has to lie in the other one
BRIEFLY, EVALUATIONS = 30, 300  # of the correlation, for each candidate and then for each finalist
LEVER = FINE / 2  # blocks that a voxel at the side moves by, per radian: turns and shifts are searched at one scale


@dataclass(frozen=True)
class Pose:
    """How an image lies in relation to another one around whose middle it is mirrored, then turned and shifted.

    Args:
        signs: -1 for each axis that is mirrored.
        angles: radians about I, J, K.
        shift: millimetres along I, J, K.
    """

    signs: tuple[int, int, int]
    angles: tuple[float, float, float]
    shift: tuple[float, float, float]

    def applied(self, image: np.ndarray, spacing: Sequence[float], shape: Sequence[int], to: Sequence[float]) -> np.ndarray:
        """An image [I J K] of a voxel size (mm) on the grid of the other one, of this shape and voxel size, by cubic interpolation."""
        mirrored = image[_mirror(self.signs)]
        matrix = Rotation.from_euler("xyz", self.angles).as_matrix() * np.array(to) / np.array(spacing)[:, None]
        middle = (np.array(image.shape) - 1) / 2 - matrix @ ((np.array(shape) - 1) / 2)
        return ndimage.affine_transform(mirrored, matrix, middle + np.array(self.shift) / spacing, tuple(shape), order=3, mode="nearest")


@dataclass(frozen=True)
class Match:
    """The training case that an image is most like.

    Args:
        index: of the training case.
        similarity: Pearson correlation of the details where both images are known, in [-1, 1].
        pose: of the image in relation to that case.
    """

    index: int
    similarity: float
    pose: Pose


@dataclass(frozen=True)
class _Details:
    """What is left of an image when its Gaussian mean is taken away, on a grid of blocks around its middle, 0 where nothing is known."""

    values: np.ndarray
    known: np.ndarray


@dataclass(frozen=True)
class _Coarse:
    """The largest correlation on the coarse grid for each training case and reflection [n 8], and turns and shifts that reach it [n 8 6]."""

    similarity: np.ndarray
    start: np.ndarray


class CopySearch:
    """Finds the training case that an image is most like, whatever way it is turned.

    On a coarse grid an image is tried in 8 reflections, 27 turns of up to 6 degrees about each axis and 27 shifts against all training cases at
    once. The 32 most alike are aligned on a fine grid by a short search over turns and shifts (Powell 1964), and the best four of these by a long
    one. They can be one case in several reflections: a head is nearly its own mirror image, and on the coarse grid the wrong one may look better.

    Args:
        training: the images that the generator was trained on; of several contrasts the first is compared.
    """

    def __init__(self, training: Images):
        sides = [n * s for i in range(len(training)) for n, s in zip(training.cases[i].shape, training.spacing(i), strict=True)]
        self.side = max(sides)  # millimetres
        found = [(training.image(i)[0], training.spacing(i)) for i in range(len(training))]
        self.fine = [self._details(*case, FINE) for case in found]
        self.coarse = _rows(self._details(*case, COARSE).values for case in found)

    def nearest(self, image: np.ndarray, spacing: Sequence[float], among: Sequence[int] | None = None) -> Match:
        """The training case that an image is most like.

        Args:
            image: voxels [I J K].
            spacing: millimetres along I, J, K.
            among: training cases to look at; all by default.
        """
        fine, coarse = self._details(image, spacing, FINE), self._coarsely(self._details(image, spacing, COARSE))
        looked_at = np.arange(len(self.fine)) if among is None else np.array(among)
        first = np.argsort(-coarse.similarity[looked_at].ravel(), kind="stable")[:CANDIDATES].tolist()
        pairs = [(int(looked_at[place // len(REFLECTIONS)]), place % len(REFLECTIONS)) for place in first]
        starts = [self._aligned(fine, *pair, coarse.start[pair], BRIEFLY) for pair in pairs]
        finalists = sorted(starts, key=lambda found: found[0])[-FINALISTS:]
        return self._match(max((self._aligned(fine, *found[1:], EVALUATIONS) for found in finalists), key=lambda found: found[0]))

    def unmirrored(self, image: np.ndarray, spacing: Sequence[float], match: Match) -> Match:
        """A match of `nearest`, or a better one of the same case in another reflection.

        What is nearly its own mirror image, such as a head, is mirrored by a search at times. The case is the right one then, and the pose is not.
        """
        fine, pose = self._details(image, spacing, FINE), match.pose
        tried = []
        for way, signs in enumerate(REFLECTIONS):
            turn = np.multiply(signs, pose.signs)  # what it takes from the one reflection to the other
            start = np.concatenate([turn * turn.prod() * pose.angles * LEVER, turn * np.array(pose.shift) * FINE / self.side])
            tried.append(self._aligned(fine, match.index, way, start, BRIEFLY))
        found = self._match(self._aligned(fine, *max(tried, key=lambda found: found[0])[1:], EVALUATIONS))
        return max(found, match, key=lambda match: match.similarity)

    def _match(self, found: tuple[float, int, int, np.ndarray]) -> Match:
        """What `_aligned` found, in millimetres."""
        similarity, case, way, place = found
        shift = place[3:] * self.side / FINE
        return Match(case, similarity, Pose(REFLECTIONS[way], tuple((place[:3] / LEVER).tolist()), tuple(shift.tolist())))

    def similarities(self, image: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
        """Correlation with each training case [cases] on the coarse grid, in the pose that suits it best; see `nearest` for the arguments."""
        return self._coarsely(self._details(image, spacing, COARSE)).similarity.max(1)

    def _coarsely(self, image: _Details) -> _Coarse:
        """The best of all turns and shifts for each training case and reflection."""
        shifts, count = list(itertools.product(SHIFTS, repeat=3)), len(self.fine)
        found = _Coarse(np.full((count, len(REFLECTIONS)), -np.inf), np.zeros((count, len(REFLECTIONS), 6)))
        for (way, signs), angles in itertools.product(enumerate(REFLECTIONS), itertools.product(ANGLES, repeat=3)):
            turned = np.pad(_moved(image.values[_mirror(signs)], np.radians(angles), np.zeros(3)), 1)
            rows = _rows(turned[tuple(slice(1 + s, 1 + s + COARSE) for s in shift)] for shift in shifts)
            alike, which = (part.numpy() for part in (rows @ self.coarse.T).max(0))
            better = alike > found.similarity[:, way]
            found.similarity[better, way] = alike[better]
            shift = np.multiply(shifts, FINE / COARSE)[which[better]]
            found.start[better, way] = np.concatenate([np.tile(np.radians(angles) * LEVER, (len(shift), 1)), shift], axis=1)
        return found

    def _aligned(self, image: _Details, case: int, way: int, start: np.ndarray, evaluations: int) -> tuple[float, int, int, np.ndarray]:
        """The largest correlation with a training case in one reflection, the two, and turns and shifts near a start that reach it."""
        training, mirror = self.fine[case], _mirror(REFLECTIONS[way])
        values, known = image.values[mirror], image.known[mirror].astype(np.float64)
        least = OVERLAP * min(known.sum(), training.known.sum())

        def unlike(place: np.ndarray) -> float:
            both = (_moved(known, place[:3] / LEVER, place[3:]) > 0.9) & training.known
            if both.sum() < max(least, 2):
                return 1.0
            a, b = _moved(values, place[:3] / LEVER, place[3:])[both], training.values[both]
            a, b = a - a.mean(), b - b.mean()
            return 1.0 - float(a @ b) / max(float(np.sqrt((a @ a) * (b @ b))), 1e-12)

        found = optimize.minimize(unlike, start, method="Powell", options={"xtol": 0.02, "ftol": 1e-4, "maxfev": evaluations})
        return 1.0 - float(found.fun), case, way, found.x

    def _details(self, image: np.ndarray, spacing: Sequence[float], blocks: int) -> _Details:
        """The details of an image, on a grid of so many blocks along the longest side of a training case."""
        step = self.side / blocks / np.array(spacing)  # voxels per block
        smooth = ndimage.gaussian_filter(image.astype(np.float64), np.maximum(step / 3, 0.3), mode="nearest")
        offset = (np.array(image.shape) - 1) / 2 - step * (blocks - 1) / 2
        size = (blocks,) * 3
        known = ndimage.affine_transform(np.ones(image.shape), step, offset, size, order=1, cval=0) > 0.99
        values = ndimage.affine_transform(smooth, step, offset, size, order=1, mode="nearest") * known
        width = NEIGHBOURS * blocks / COARSE
        mean = ndimage.gaussian_filter(values, width) / np.maximum(ndimage.gaussian_filter(known.astype(np.float64), width), 1e-3)
        return _Details(np.where(known, values - mean, 0), known)


def limit(held_out: Sequence[float], false_alarms: float = 0.05) -> float:
    """The similarity that a patient who was not trained on exceeds with at most this probability.

    The k-th smallest of n similarities, k = ceil((n + 1)(1 - false_alarms)), holds for a new patient of the same kind (conformal prediction,
    Vovk et al. 2005); infinite where n is too small to say.

    Args:
        held_out: similarity of each held-out patient to the most similar training case.
        false_alarms: in (0, 1).
    """
    rank = int(np.ceil((len(held_out) + 1) * (1 - false_alarms)))
    return float(np.sort(held_out)[rank - 1]) if rank <= len(held_out) else float("inf")


def _rows(volumes: Iterable[np.ndarray]) -> torch.Tensor:
    """Each volume as a row of mean 0 and length 1."""
    rows = torch.from_numpy(np.stack([volume.ravel() for volume in volumes])).float()
    rows -= rows.mean(1, keepdim=True)
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)


def _mirror(signs: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(None, None, sign) for sign in signs)


def _moved(volume: np.ndarray, angles: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """A volume turned about its middle by angles (radians about I, J, K) and shifted by blocks, 0 beyond."""
    matrix = Rotation.from_euler("xyz", angles).as_matrix()
    middle = (np.array(volume.shape) - 1) / 2
    return ndimage.affine_transform(volume, matrix, middle - matrix @ middle + shift, order=1)
