"""Where a head lies in a volume: an affine map from the average head, found without trusting that the volume is a head or that its labels are right.

The similarity of template and volume is normalised mutual information, (H(t) + H(v)) / H(t, v) - 1 (Studholme et al. 1999), which is 0 for
independent intensities whatever the contrast. It is measured on the points of the template that lie in the field of view.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from medldm.data.align import aligned
from medldm.data.steps.reorient import Reorient
from medldm.errors import UserError
from medldm.privacy.head_template import BINS, TOP, Template, foreground, template
from medldm.volume import Volume

COARSE_MM, FINE_MM = 8.0, 4.0
SMALLEST_MM, LARGEST_MM = 32.0, 2500.0  # of a field of view
SOFT_TISSUE = (-300.0, 300.0)  # HU: skin against air decides, not how bright bone is
LEAST_OVERLAP = 0.3  # share of the template in the field of view below which a similarity says nothing
STARTS = {"lower": (0, 20, 45, 70), "forward": (-12, 0, 12), "pitch": (-20, 0, 20), "size": (0.9, 1.05)}
START_POINTS, RIVALS = 6000, 2
HOPELESS = 0.75  # share of the similarity of the given orientation below which another is not pursued
ITERATIONS, SAMPLED = 60, 0.25  # of a round
ROUNDS, ENOUGH = 8, 0.01  # at most so many, until one raises the similarity by less than this share
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Scan:
    """A volume as it is compared: intensities from 0 to 1 on a grid along its own axes, in the order and direction closest to RAS.

    Args:
        image: [I J K], float32.
        affine: voxel index -> RAS+ mm [4 4].
    """

    image: np.ndarray
    affine: np.ndarray

    @classmethod
    def of(cls, volume: Volume, mm: float) -> "Scan":
        """The first channel smoothed and sampled each `mm` over the field of view."""
        first = Volume(volume.data[:1].float(), volume.affine, volume.unit)
        grid = Reorient().plan(first).after
        shape = np.maximum(1, np.ceil(np.array(grid.shape) * grid.spacing / mm)).astype(int)
        step = mm / grid.spacing
        affine = grid.matrix.copy()
        affine[:3, 3] += affine[:3, :3] @ ((np.array(grid.shape) - 1) / 2 - step * (shape - 1) / 2)
        affine[:3, :3] *= step
        image = aligned(first, Volume(torch.zeros(1, *shape), affine))[0].data[0].numpy()
        low, high = SOFT_TISSUE if volume.unit == "HU" else np.percentile(image, (0.5, 99.5))
        return cls(((np.clip(image, low, high) - low) / max(high - low, 1e-9)).astype(np.float32), affine)

    def at(self, points: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Linear interpolation at template points [n 3] mapped by `matrix`: intensities of those in the field of view, and which these are [n]."""
        index = np.linalg.solve(self.affine, matrix)
        places = points @ index[:3, :3].T + index[:3, 3]
        inside = ((places > -0.5) & (places < np.array(self.image.shape) - 0.5)).all(1)
        return ndimage.map_coordinates(self.image, places[inside].T, order=1, mode="nearest"), inside

    def similarity(self, points: np.ndarray, levels: np.ndarray, matrix: np.ndarray) -> float:
        """Normalised mutual information with the template, or 0 where too little of it lies in the field of view."""
        values, inside = self.at(points, matrix)
        if inside.mean() < LEAST_OVERLAP:
            return 0.0
        pairs = levels[inside] * BINS + np.minimum((values * BINS).astype(np.intp), BINS - 1)
        joint = np.bincount(pairs, minlength=BINS * BINS).reshape(BINS, BINS) / len(pairs)
        both = _entropy(joint)
        return float((_entropy(joint.sum(0)) + _entropy(joint.sum(1))) / both - 1) if both > 0 else 0.0


@dataclass(frozen=True)
class Position:
    """A head in a volume.

    Args:
        matrix: mm of the template -> RAS+ mm of the volume [4 4].
        similarity: normalised mutual information with the template in this position.
        rival: the highest one found where the axes of the volume are taken to be labelled wrongly.
    """

    matrix: np.ndarray
    similarity: float
    rival: float

    @property
    def sizes(self) -> tuple[float, float, float]:
        """The three principal stretches from the template to this head, largest first."""
        return tuple(float(s) for s in np.linalg.svd(self.matrix[:3, :3], compute_uv=False))

    @property
    def degrees(self) -> float:
        """The angle between the axes of the template and those of the world."""
        left, _, right = np.linalg.svd(self.matrix[:3, :3])
        return float(np.degrees(np.arccos(np.clip((np.trace(left @ right) - 1) / 2, -1, 1))))


def find_head(volume: Volume) -> Position:
    """Lay the average head over a volume.

    In each of the 24 ways to label three axes (mirror images across the midline count as one, since the template has none) 72
    positions are tried at 8 mm, the vertex at the top of what is not air or above it. The best one of the given orientation and those of the two
    best others are refined by SimpleITK at 4 mm: affine, Mattes' mutual information.

    Args:
        volume: [C I J K]; the first channel counts.

    Raises:
        UserError: the volume is a label map, has NaN or infinite voxels or only one value, or is too small or too large for a head.
    """
    _refuse(volume)
    head, coarse, fine = template(), Scan.of(volume, COARSE_MM), Scan.of(volume, FINE_MM)
    some = np.random.default_rng(0).permutation(len(head.points))[:START_POINTS]
    tissue = np.argwhere(foreground(coarse.image)) @ coarse.affine[:3, :3].T + coarse.affine[:3, 3]
    if not len(tissue):
        return Position(np.eye(4), 0.0, 0.0)
    own_axes = coarse.affine[:3, :3] / np.linalg.norm(coarse.affine[:3, :3], axis=0)
    starts = [_start(coarse, head.points[some], head.levels[some], tissue, own_axes @ axes) for axes in labellings()]
    own, *others = starts
    similarity, matrix = _climb(head, fine, own[1])
    best = sorted(others, key=lambda start: -start[0])[:RIVALS]
    return Position(matrix, similarity, max(_climb(head, fine, start, HOPELESS * similarity)[0] for _, start in best))


def labellings() -> list[np.ndarray]:
    """The 24 matrices [3 3] that carry axes of the template to axes of a volume, save for mirror images; the identity first."""
    signed = [np.eye(3)[:, list(order)] * signs for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]
    return [matrix for matrix in signed if matrix[:, 0].sum() > 0]


def refine(head: Template, scan: Scan, start: np.ndarray) -> np.ndarray:
    """The affine map [4 4] near `start` with the largest mutual information; `start` itself where the two hardly overlap."""
    import SimpleITK as sitk

    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # sums in one order: the same volume gives the same mask
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(sitk.Cast(_itk(head.compared.astype(np.float32), head.affine) > 0.5, sitk.sitkUInt8))
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(SAMPLED, seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 0.01, ITERATIONS, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    lps = TO_LPS @ start @ TO_LPS
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(lps[:3, :3].ravel().tolist())
    affine.SetTranslation(lps[:3, 3].tolist())
    method.SetInitialTransform(affine, inPlace=True)
    try:
        method.Execute(_itk(head.image, head.affine), _itk(scan.image, scan.affine))
    except RuntimeError:  # ITK's word for too few samples in the field of view
        return start
    found = np.eye(4)
    found[:3, :3] = np.array(affine.GetMatrix()).reshape(3, 3)
    found[:3, 3] = affine.GetTranslation()
    return TO_LPS @ found @ TO_LPS


def _climb(head: Template, scan: Scan, start: np.ndarray, least: float = 0.0) -> tuple[float, np.ndarray]:
    """Refine until the similarity rises no more, or a round ends below `least`; one round ends short of the top where the head is much inclined."""
    best = (scan.similarity(head.points, head.levels, start), start)
    for _ in range(ROUNDS):
        matrix = refine(head, scan, best[1])
        similarity = scan.similarity(head.points, head.levels, matrix)
        rise = similarity - best[0]
        best = max(best, (similarity, matrix), key=lambda pair: pair[0])
        if rise < ENOUGH * best[0] or best[0] < least:
            break
    return best


def _start(scan: Scan, points: np.ndarray, levels: np.ndarray, tissue: np.ndarray, axes: np.ndarray) -> tuple[float, np.ndarray]:
    """The most similar of 72 positions, if right, front and top lie along the columns of `axes` [3 3]; `tissue` in mm [n 3]."""
    along = tissue @ axes
    top = np.percentile(along[:, 2], 99.8)
    cranium = along[along[:, 2] > top - 110]
    low, high = np.percentile(cranium[:, :2], (1, 99), axis=0)
    best = (-1.0, np.eye(4))
    for lower, forward, pitch, size in itertools.product(*STARTS.values()):
        turn, matrix = np.deg2rad(pitch), np.eye(4)
        tilt = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
        across, middle = (low + high) / 2
        centre = np.array([across, middle + forward, top + lower - TOP * size])  # above the field of view where its top is cut
        matrix[:3, :3], matrix[:3, 3] = axes @ tilt * size, axes @ centre
        best = max(best, (scan.similarity(points, levels, matrix), matrix), key=lambda pair: pair[0])
    return best


def _itk(image: np.ndarray, affine: np.ndarray):
    """A SimpleITK image of an array [I J K] and its RAS+ affine."""
    import SimpleITK as sitk

    lps = TO_LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    result = sitk.GetImageFromArray(np.ascontiguousarray(image.transpose(2, 1, 0), np.float32))
    result.SetSpacing(spacing.tolist())
    result.SetOrigin(lps[:3, 3].tolist())
    result.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return result


def _entropy(shares: np.ndarray) -> float:
    """-sum p log p."""
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum())


def _refuse(volume: Volume) -> None:
    """Raise a UserError for what cannot be looked at."""
    if volume.unit == "label":
        raise UserError("A label map shows no face to find.", "Give the image, and use its mask for the label map.")
    if not torch.isfinite(volume.data).all():
        raise UserError("The volume has voxels that are NaN or infinite.", "Repair or take it out.")
    extent = np.array(volume.shape) * volume.spacing
    if min(volume.shape) < 4 or extent.min() < SMALLEST_MM or extent.max() > LARGEST_MM:
        size = " x ".join(f"{mm:.0f}" for mm in extent)
        raise UserError(f"The volume has {volume.shape} voxels over {size} mm, which is no scan of a head.", "Check its voxel size, or leave it out.")
    if float(volume.data[0].amin()) == float(volume.data[0].amax()):
        raise UserError("All voxels of the volume are equal.", "Leave it out.")
