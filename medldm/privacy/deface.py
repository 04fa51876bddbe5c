"""Removal of the face from head scans, MRI of any contrast and CT, without FSL or FreeSurfer; it fails closed.

The average head is laid over the volume (`head_position.py`) and its face region (`head_template.py`) becomes air. Where anything is not as it
should be, no voxel changes and the report says why. Defacing alone is not anonymity: 28-38 % of faces were still matched after common tools
(Schwarz et al. 2021), and ears, skull and brain stay.
"""

from dataclasses import dataclass

import numpy as np
import torch

from medldm.errors import UserError
from medldm.privacy.head_position import FINE_MM, Position, Scan, find_head
from medldm.privacy.head_template import CHIN, foreground, in_face, template
from medldm.volume import Volume

# Measured: 30 heads of one site and 9 volumes of six others (T1, T2, CT; whole, partial, defaced, stripped) reach 0.090-0.170, bodies at most
# 0.040 however they are turned; other labellings of a head reach 0.80 of it where the face lies outside the field of view, else at most 0.70.
HEAD = 0.05  # similarity below which nothing resembles a head
SIMILAR = 0.065  # and from which a position is trusted
RIVAL = 0.9  # share of the similarity that another labelling of the axes may reach
SIZES = (0.75, 1.4)  # stretches of a plausible head
SHAPE = 1.4  # largest stretch / smallest stretch
DEGREES = 45.0
COVERED = 0.05  # share of the face in the field of view below which there is nothing to remove
FRONT = 0.25  # share of the skin of the face in view from which there is a face, or a part of one (measured: defaced 0.19, a part 0.42)
SCALP = 0.4  # likewise of the scalp
NEAR_FACE, NEAR_SCALP = (-12, -8, -4, 0, 4, 8), (-4, 0, 4, 8)  # mm outwards from the average skin where that of a head is expected
FAINT = 1 / 3  # of Otsu's threshold: tissue at the edge of a coil
REMOVED = (0.02, 0.30)  # of the head
NOISE = 3.0  # deviations of air


@dataclass(frozen=True)
class FaceReport:
    """What was found and done; plain numbers, to be kept with the volume.

    Args:
        status: "removed"; or, the volume being untouched, one of "already defaced", "no face found" (no scalp either, as after skull
            stripping), "cut off" (the face lies outside the field of view), "wrong orientation" (a head, but its axes are labelled wrongly),
            "poor registration", "not a head".
        similarity: normalised mutual information with the average head; 0.09-0.17 in T1, less in other contrasts and parts of heads.
        rival: the highest similarity if the axes were labelled otherwise.
        in_view: share of the skin of the face of the average head, seen from the front, that lies in the field of view.
        front: share of that which has tissue close to it; 0.9-1 in whole faces.
        scalp: likewise for the skin above the level of the orbits.
        removed: share of the head's voxels down to the chin that became air, or would have.
        sizes: principal stretches from the average head to this one, largest first.
        degrees: angle between the average head and this one.
        matrix: mm of the average head -> RAS+ mm of the volume, 4 rows of 4 numbers; with it `region` masks any volume of the session.
    """

    status: str
    similarity: float
    rival: float
    in_view: float
    front: float
    scalp: float
    removed: float
    sizes: tuple[float, float, float]
    degrees: float
    matrix: tuple[tuple[float, ...], ...]

    @property
    def defaced(self) -> bool:
        """True where this call removed a face."""
        return self.status == "removed"

    @property
    def faceless(self) -> bool:
        """True where a head was recognised and no face is left that was looked for; anything else must not be released unseen."""
        return self.status in ("removed", "already defaced", "no face found")


def deface(volume: Volume, noise_seed: int | None = None) -> tuple[Volume, FaceReport]:
    """Replace the face, and the air before it, by air.

    Args:
        volume: MRI ("a.u.") or CT ("HU") [C I J K]; the face is sought in the first channel and removed from all.
        noise_seed: None fills by one value, that of air; a seed draws each voxel from those of the volume that are air, so that no edge of a
            smooth region shows.

    Returns:
        The volume with every voxel outside the region as it was, or the volume itself where the status is not "removed"; and the report.

    Raises:
        UserError: as `find_head`.
    """
    mask, report = face_mask(volume)
    return (emptied(volume, mask, noise_seed) if report.defaced else volume), report


def face_mask(volume: Volume) -> tuple[np.ndarray, FaceReport]:
    """The voxels that defacing empties or refacing fills [I J K]; none where the status is not "removed".

    Raises:
        UserError: as `find_head`.
    """
    report = judge(volume, find_head(volume))
    return (region(volume.shape, volume.affine, np.array(report.matrix)) if report.defaced else np.zeros(volume.shape, bool)), report


def region(shape: tuple[int, int, int], affine: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The face region of the average head on a grid [I J K]: of the volume that was registered, or of another in which the head lies as there.

    Args:
        shape: voxels along I, J, K.
        affine: voxel index -> RAS+ mm [4 4].
        matrix: mm of the template -> RAS+ mm [4 4].
    """
    index = np.linalg.solve(matrix, affine)  # voxel -> mm of the template
    _, j, k = np.ogrid[:1, : shape[1], : shape[2]]
    mask = np.empty(shape, bool)
    for i in range(shape[0]):  # plane by plane: coordinates of all voxels would take 24 bytes each
        mask[i] = in_face(*(index[axis, 0] * i + index[axis, 1] * j + index[axis, 2] * k + index[axis, 3] for axis in range(3)))[0]
    return mask


def emptied(volume: Volume, mask: np.ndarray, noise_seed: int | None = None) -> Volume:
    """Air in place of the masked voxels; the others keep their bits.

    Air is the median of the voxels that are no tissue, and at least -1000 in CT, where padding is lower. Label maps get 0.

    Args:
        volume: [C I J K].
        mask: [I J K].
        noise_seed: as `deface`; none for a label map, which has no noise.

    Raises:
        UserError: the mask has another shape, or noise was asked for in a label map.
    """
    if mask.shape != volume.shape:
        raise UserError(f"A mask of shape {mask.shape} does not fit a volume of shape {volume.shape}.")
    if volume.unit == "label" and noise_seed is not None:
        raise UserError("A label map has no noise.", "Leave noise_seed out.")
    data, where = volume.data.clone(), torch.from_numpy(mask)
    rng = None if noise_seed is None else np.random.default_rng(noise_seed)
    for channel in data:
        values = torch.zeros(1) if volume.unit == "label" else air(channel, volume.unit)
        drawn = values.median() if rng is None else values[torch.from_numpy(rng.integers(0, len(values), int(mask.sum())))]
        channel[where] = drawn.to(data.dtype)
    return volume.with_data(data)


def air(channel: torch.Tensor, unit: str) -> torch.Tensor:
    """Intensities of air, flat: up to 3 lower deviations above the median of what Otsu takes for air, bone and edges.

    Args:
        channel: intensities [I J K].
        unit: "HU" or "a.u.".
    """
    from skimage.filters import threshold_otsu

    values = channel.flatten()
    low = float(values.min())
    if low == float(values.max()):
        return values[:1]
    some = values[:: max(1, len(values) // 2_000_000)].double().numpy()
    if unit == "HU":
        some = np.clip(some, -1000, 300)
        values, low = values.clamp(min=-1000), max(low, -1000)
    some = some[some <= low + (threshold_otsu(some) - low) / 2]
    spread, middle = np.percentile(some, (16, 50))
    return values[values <= middle + NOISE * (middle - spread)]


def judge(volume: Volume, position: Position) -> FaceReport:
    """Whether a position can be trusted, and what it shows."""
    from skimage.filters import threshold_otsu

    head, scan = template(), Scan.of(volume, FINE_MM)
    tissue = Scan((scan.image > FAINT * threshold_otsu(scan.image)).astype(np.float32), scan.affine)
    forward = np.broadcast_to(np.array([0.0, 1.0, 0.0]), head.front.shape)
    outward = head.scalp / np.linalg.norm(head.scalp, axis=1, keepdims=True)
    in_view, front = _skin(tissue, position.matrix, head.front, forward, NEAR_FACE)
    numbers = {
        "in_view": in_view,
        "front": front,
        "scalp": _skin(tissue, position.matrix, head.scalp, outward, NEAR_SCALP)[1],
        "removed": _share(foreground(scan.image), scan.affine, position.matrix),
    }
    return FaceReport(
        status=_status(position, **numbers),
        similarity=position.similarity,
        rival=position.rival,
        **numbers,
        sizes=position.sizes,
        degrees=position.degrees,
        matrix=tuple(tuple(float(v) for v in row) for row in position.matrix),
    )


def _status(position: Position, in_view: float, front: float, scalp: float, removed: float) -> str:
    """The first thing that speaks against removing, or "removed"."""
    if max(position.similarity, position.rival) < SIMILAR:
        return "not a head" if max(position.similarity, position.rival) < HEAD else "poor registration"
    if position.rival > position.similarity:
        return "wrong orientation"
    sizes = position.sizes
    plausible = SIZES[0] <= sizes[2] and sizes[0] <= SIZES[1] and sizes[0] <= SHAPE * sizes[2] and position.degrees <= DEGREES
    if position.similarity < SIMILAR or position.rival > RIVAL * position.similarity or not plausible:
        return "poor registration"
    if in_view < COVERED:
        return "cut off"
    if front < FRONT:
        return "already defaced" if scalp >= SCALP else "no face found"
    return "removed" if REMOVED[0] <= removed <= REMOVED[1] else "poor registration"


def _skin(tissue: Scan, matrix: np.ndarray, points: np.ndarray, outward: np.ndarray, near: tuple[int, ...]) -> tuple[float, float]:
    """Share of skin points [n 3] of the template in the field of view, and share of those with tissue along `outward` [n 3] within `near` mm."""
    _, inside = tissue.at(points, matrix)
    struck = np.zeros(len(points), bool)
    for mm in near:
        values, here = tissue.at(points + mm * outward, matrix)
        struck[np.flatnonzero(here)[values > 0.5]] = True
    return float(inside.mean()), float(struck[inside].mean()) if inside.any() else 0.0


def _share(tissue: np.ndarray, affine: np.ndarray, matrix: np.ndarray) -> float:
    """Share of the head's voxels [I J K] above the neck that lie in the face region."""
    index = np.linalg.solve(matrix, affine)
    x, y, z = (np.argwhere(tissue) @ index[:3, :3].T + index[:3, 3]).T
    return float((in_face(x, y, z) & (z > CHIN)).sum() / max(int((z > CHIN).sum()), 1))
