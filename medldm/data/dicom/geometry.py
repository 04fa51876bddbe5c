"""Planes in space: their order along the normal, the gaps between them, the affine of their stack, and gantry tilt.

DICOM positions are millimetres towards the patient's left, posterior and head (LPS); affines here are RAS+. Voxel axes are
I = columns (along a row of pixels), J = rows, K = slices, along the normal (row direction x column direction).
"""

from dataclasses import dataclass

import numpy as np

#: Gaps are equal when they differ from their median by no more than this many mm ...
GAP_MM = 0.01
#: ... or this share of it: positions are written with few digits.
GAP_SHARE = 0.01
#: No slice may lie further from its place than this share of the gap (along the normal) or of a pixel (within the plane).
STRAY_SHARE = 0.05
#: Two slices nearer than this lie at one position.
SAME_MM = 1e-3
#: Slices whose stack leans by more are brought to a straight grid; below it the affine holds the exact shear.
TILT_DEGREES = 0.2
#: Drifts along one axis of less than this many pixels over the whole stack are left out.
LEAST_DRIFT = 0.01
#: With fewer slices gaps cannot be compared.
FEWEST = 3

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Refusal:
    """Why planes form no volume.

    Args:
        status: one word, see `series.py`.
        reason: what is wrong, a sentence without subject.
    """

    status: str
    reason: str


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a stack lie.

    Args:
        affine: rows of the matrix [4 4] from voxel (i, j, k) of the slices as they were taken to RAS+ mm; sheared where tilted.
        shape: voxels along I, J, K.
    """

    affine: tuple[tuple[float, ...], ...]
    shape: tuple[int, int, int]

    @property
    def matrix(self) -> np.ndarray:
        """The affine [4 4], float64."""
        return np.array(self.affine)

    @property
    def normal(self) -> np.ndarray:
        """Unit normal [3] of the slices, in the direction of K."""
        axes = self.matrix[:3, :3]
        normal = np.cross(axes[:, 0], axes[:, 1])
        return normal * np.sign(normal @ axes[:, 2]) / np.linalg.norm(normal)

    @property
    def gap(self) -> float:
        """Distance of neighbouring slices along their normal in mm."""
        return float(self.normal @ self.matrix[:3, 2])

    @property
    def tilt_degrees(self) -> float:
        """Angle between the normal of the slices and the line on which they are stacked; 0 below `TILT_DEGREES`."""
        step = self.matrix[:3, 2]
        drift = np.linalg.norm(step - self.gap * self.normal)
        angle = float(np.degrees(np.arctan2(drift, self.gap)))
        return angle if angle > TILT_DEGREES else 0.0

    def straight(self) -> tuple["Grid", np.ndarray]:
        """The upright grid that holds all slices of a tilted stack, and the way into it.

        Slice k lies at k (d - (d.n) n) in the plane, d the step from slice to slice and n the normal. The upright grid steps by
        (d.n) n and is large enough for all slices. Its pixels are those of the slice that lies furthest along I or J, which keeps
        its voxels as they are.

        Returns:
            The grid, and for each slice the index (i, j) of its pixel (0, 0) on it [K 2].
        """
        axes, (columns, rows, slices) = self.matrix, self.shape
        step = axes[:3, 2] - self.gap * self.normal
        drift = np.linalg.lstsq(axes[:3, :2], step, rcond=None)[0]  # pixels per slice along I and J
        drift = np.where(np.abs(drift) * slices < LEAST_DRIFT, 0, drift)
        ends = drift * (slices - 1)
        more = np.ceil(np.abs(ends) - 1e-6).astype(int)
        low = np.maximum(ends, 0) - more
        affine = axes.copy()
        affine[:3, 2] = self.gap * self.normal
        affine[:3, 3] += axes[:3, :2] @ low
        return Grid(rows_of(affine), (columns + int(more[0]), rows + int(more[1]), slices)), np.arange(slices)[:, None] * drift - low


def rows_of(affine: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """A matrix as tuples of plain numbers."""
    return tuple(tuple(float(value) for value in row) for row in affine)


def arrange(
    positions: np.ndarray, orientation: tuple[float, ...], spacing: tuple[float, float], size: tuple[int, int]
) -> tuple[list[int], Grid] | Refusal:
    """Order planes of one orientation and size and find the grid that they form.

    The step between slices is (last - first) / (n - 1), so that rounded positions do not add up.

    Args:
        positions: centre of the first pixel of each plane in LPS mm [N 3].
        orientation: direction cosines along a row and along a column of pixels, LPS.
        spacing: mm between rows and between columns, as in PixelSpacing.
        size: rows and columns.

    Returns:
        The order of the planes along their normal, and the grid; or why there is none.
    """
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(along_row, along_column)
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    if len(order) < FEWEST:
        return Refusal("no_volume", f"has {len(order)} {'slice' if len(order) == 1 else 'slices'}; a volume has at least {FEWEST}.")
    if refusal := _irregular(np.diff(heights[order])):
        return refusal
    first, last = positions[order[0]], positions[order[-1]]
    step = (last - first) / (len(order) - 1)
    stray = positions[order] - first - np.arange(len(order))[:, None] * step
    if (along := float(np.abs(stray @ normal).max())) > max(GAP_MM, STRAY_SHARE * float(step @ normal)):
        return Refusal("unequal_gaps", f"has gaps that change along the stack: a slice lies {along:.3g} mm from where equal gaps would put it.")
    if (within := float(np.abs(stray @ np.column_stack([along_row, along_column])).max())) > max(GAP_MM, STRAY_SHARE * min(spacing)):
        return Refusal("shifted_slices", f"has slices that are shifted within their planes by up to {within:.3g} mm.")
    return [int(n) for n in order], make_grid(first, along_row, along_column, step, spacing, (*size, len(order)))


def make_grid(
    origin: np.ndarray, along_row: np.ndarray, along_column: np.ndarray, step: np.ndarray, spacing: tuple[float, float], size: tuple[int, int, int]
) -> Grid:
    """The grid of a stack.

    Args:
        origin: centre of the first pixel of the first slice, LPS mm [3].
        along_row: direction in which the column index grows [3].
        along_column: direction in which the row index grows [3].
        step: from slice to slice, mm [3].
        spacing: mm between rows and between columns.
        size: rows, columns, slices.
    """
    affine = np.eye(4)
    affine[:3] = np.column_stack([along_row * spacing[1], along_column * spacing[0], step, origin])
    return Grid(rows_of(LPS_TO_RAS @ affine), (size[1], size[0], size[2]))


def _irregular(gaps: np.ndarray) -> Refusal | None:
    """What is wrong with the distances of neighbouring slices in mm [N - 1], if anything is."""
    if (same := int((gaps < SAME_MM).sum())) > 0:
        return Refusal("duplicate_slices", f"has {same} slices at the position of another one, and no header tells them apart.")
    usual = float(np.median(gaps))
    tolerance = max(GAP_MM, GAP_SHARE * usual)
    odd = gaps[np.abs(gaps - usual) > tolerance]
    if not len(odd):
        return None
    times = np.rint(odd / usual)
    if (times >= 2).all() and (np.abs(odd - times * usual) <= times * tolerance).all():
        return Refusal("missing_slices", f"lacks {int((times - 1).sum())} slices: gaps of {odd.max():.4g} mm where {usual:.4g} mm is usual.")
    return Refusal("unequal_gaps", f"has gaps from {gaps.min():.4g} to {gaps.max():.4g} mm between its slices.")


def straighten(
    voxels: np.ndarray, starts: np.ndarray, shape: tuple[int, int, int], fill: float, padding: float | None = None, nearest: bool = False
) -> np.ndarray:
    """Shift each slice within its plane into an upright grid.

    Linear interpolation along I and J: it adds no values outside the range of the slice, which matters for HU.

    Args:
        voxels: slices as they were taken [I J K].
        starts: index (i, j) on the upright grid of pixel (0, 0) of each slice [K 2].
        shape: of the upright grid.
        fill: value where the grid lies outside a slice.
        padding: value that is no measurement; beside it the nearest pixel is taken.
        nearest: take the nearest pixel everywhere, for label maps.
    """
    result = np.full(shape, fill, np.float32)
    for k in range(shape[2]):
        plane, inside = voxels[:, :, k], []
        for axis in (0, 1):
            at = np.arange(shape[axis]) - starts[k, axis]
            last = plane.shape[axis] - 1
            inside.append((at > -0.5) & (at < last + 0.5) if nearest else (at > -1e-6) & (at < last + 1e-6))
            at = np.clip(np.rint(at) if nearest else at, 0, last)
            plane = _between(plane, at, axis, padding)
        result[:, :, k] = np.where(inside[0][:, None] & inside[1], plane, fill)
    return result


def _between(plane: np.ndarray, at: np.ndarray, axis: int, padding: float | None) -> np.ndarray:
    """Linear interpolation of a plane [I J] at places along one axis."""
    below = np.floor(at).astype(int)
    weight = np.expand_dims((at - below).astype(np.float32), 1 - axis)
    low, high = np.take(plane, below, axis), np.take(plane, np.minimum(below + 1, plane.shape[axis] - 1), axis)
    mixed = low * (1 - weight) + high * weight
    if padding is None:
        return mixed
    return np.where((low == padding) | (high == padding), np.where(weight < 0.5, low, high), mixed)
