"""Computed tomography slice by slice, parallel and fan beams: Joseph's line integrals as a sparse matrix with its exact transpose."""

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from medldm.errors import UserError
from medldm.operators.base import check_fits
from medldm.operators.opaque import Opaque
from medldm.types import Shape3

MOST_ANGLE = 2 * math.pi + 1e-6


class SliceCT(Opaque):
    """Integrals along given lines through each slice K of an image [B C I J K]: [B C views bins K] (Joseph 1982).

    A ray x cos(a) + y sin(a) = s is followed along the axis that it runs along more closely, with linear interpolation across it; x and y
    are millimetres along I and J from the middle of the slice. An image of attenuation per millimetre gives pure numbers.

    Args:
        shape: voxels I, J, K.
        angles: a of each ray in radians [views bins].
        offsets: s of each ray in millimetres [views bins].
        spacing: millimetres along I and J.
    """

    def __init__(self, shape: Shape3, angles: Tensor, offsets: Tensor, spacing: tuple[float, float]):
        super().__init__()
        self.shape, self.spacing = tuple(shape), spacing
        self.views, self.bins = angles.shape
        rows, columns, values = joseph(shape[:2], angles, offsets, spacing)
        matrix = torch.sparse_coo_tensor(torch.stack([rows, columns]), values, self._sizes, check_invariants=False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support")  # is in beta, torch says, since 2021
            for name, part in (("there", matrix), ("back", matrix.T)):
                csr = part.coalesce().to_sparse_csr()
                for piece, content in (("rows", csr.crow_indices()), ("columns", csr.col_indices()), ("values", csr.values())):
                    self.register_buffer(f"{name}_{piece}", content)

    @property
    def _sizes(self) -> tuple[int, int]:
        return self.views * self.bins, self.shape[0] * self.shape[1]

    def there(self, x: Tensor) -> Tensor:
        """See `Opaque`."""
        check_fits(x, (x.shape[1], *self.shape), "images")
        return self._product(x.flatten(2, 3), "there", self._sizes).unflatten(2, (self.views, self.bins))

    def back(self, y: Tensor) -> Tensor:
        """See `Opaque`."""
        check_fits(y, (y.shape[1], self.views, self.bins, self.shape[2]), "measurements")
        return self._product(y.flatten(2, 3), "back", self._sizes[::-1]).unflatten(2, self.shape[:2])

    def _product(self, x: Tensor, name: str, sizes: tuple[int, int]) -> Tensor:
        """The matrix, or its transpose, times x [B C n K]."""
        rows, columns, values = (getattr(self, f"{name}_{piece}") for piece in ("rows", "columns", "values"))
        matrix = torch.sparse_csr_tensor(rows, columns, values.to(x.dtype), sizes, check_invariants=False)
        flat = x.movedim(2, 0)
        return (matrix @ flat.flatten(1)).unflatten(1, flat.shape[1:]).movedim(0, 2)


class ParallelCT(SliceCT):
    """Parallel rays: all of a view have one angle.

    Args:
        shape: voxels I, J, K.
        angles: of the views, in radians [views].
        spacing: millimetres along I and J.
        bins: of the detector; as many as see the whole diagonal by default.
        bin_width: in millimetres; the smaller spacing by default.

    Raises:
        UserError: angles look like degrees, or a number is out of range.
    """

    def __init__(
        self, shape: Shape3, angles: Tensor, spacing: tuple[float, float] = (1.0, 1.0), bins: int | None = None, bin_width: float | None = None
    ):
        angles = radians(angles)
        positive(spacing_i=spacing[0], spacing_j=spacing[1], bins=bins, bin_width=bin_width)
        self.bin_width = bin_width or min(spacing)
        bins = bins or 2 * math.ceil(diagonal(shape, spacing) / self.bin_width / 2) + 1
        offsets = centred(bins, self.bin_width)
        super().__init__(shape, angles[:, None].expand(-1, bins), offsets[None].expand(len(angles), -1), spacing)


class FanCT(SliceCT):
    """Rays from one point per view to a flat detector (Kak & Slaney 1988, section 3.4).

    At angle b the source lies at R (sin b, -cos b) and bin u of the detector at u (cos b, sin b) + (R - D) (sin b, -cos b); with
    g = arctan(u / D) its ray is the parallel one of angle b - g and offset R sin g.

    Args:
        shape: voxels I, J, K.
        angles: b in radians [views].
        source: R, millimetres from the source to the axis of rotation.
        detector: D, millimetres from the source to the detector.
        spacing: millimetres along I and J.
        bins: of the detector; as many as see the whole diagonal by default.
        bin_width: in millimetres; what the smaller spacing is enlarged to by default.

    Raises:
        UserError: angles look like degrees, the source lies in the image, or a number is out of range.
    """

    def __init__(
        self,
        shape: Shape3,
        angles: Tensor,
        source: float,
        detector: float,
        spacing: tuple[float, float] = (1.0, 1.0),
        bins: int | None = None,
        bin_width: float | None = None,
    ):
        angles = radians(angles)
        positive(spacing_i=spacing[0], spacing_j=spacing[1], bins=bins, bin_width=bin_width)
        outside(diagonal(shape, spacing) / 2, source, detector)
        self.bin_width = bin_width or min(spacing) * detector / source
        widest = detector * math.tan(math.asin(diagonal(shape, spacing) / 2 / source))
        fan = torch.atan(centred(bins or 2 * math.ceil(widest / self.bin_width) + 1, self.bin_width) / detector)
        super().__init__(shape, angles[:, None] - fan, source * fan.sin().expand(len(angles), -1), spacing)


def radians(angles: Tensor) -> Tensor:
    """Angles of views, float64 [views].

    Raises:
        UserError: they are no list of finite numbers, or look like degrees.
    """
    angles = torch.as_tensor(angles, dtype=torch.float64)
    if angles.ndim != 1 or not len(angles) or not angles.isfinite().all():
        raise UserError(f"angles {tuple(angles.shape)}: a list of finite numbers was expected.")
    if float(angles.abs().max()) > MOST_ANGLE:
        raise UserError(f"An angle of {float(angles.abs().max()):g} is more than a turn in radians.", "Angles in degrees times pi / 180.")
    return angles


def positive(**values: float | None) -> None:
    """Refuse lengths and counts that are given and not positive."""
    if wrong := [f"{name}={value}" for name, value in values.items() if value is not None and not 0 < value < math.inf]:
        raise UserError(f"{', '.join(wrong)} must be positive and finite.")


def outside(radius: float, source: float, detector: float) -> None:
    """Refuse a source inside of the image, or a detector before the axis of rotation."""
    if not radius < source < detector < math.inf:
        raise UserError(f"source={source}, detector={detector}: half the image's diagonal, {radius:g} mm, was expected to be less, in this order.")


def diagonal(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Millimetres across a slice, from corner to corner."""
    return math.hypot(shape[0] * spacing[0], shape[1] * spacing[1])


def centred(count: int, width: float) -> Tensor:
    """Middles of bins on both sides of 0, float64 [count]."""
    return (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) * width


def joseph(shape: tuple[int, int], angles: Tensor, offsets: Tensor, spacing: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (view, bin), columns (i, j) and values of the matrix of integrals along rays [views bins], in millimetres."""
    views, bins = angles.shape
    entries = []
    for view in range(views):
        steep = angles[view].cos().abs() * spacing[0] >= angles[view].sin().abs() * spacing[1]  # a ray goes in the direction (-sine, cosine)
        for along, which in ((1, steep), (0, ~steep)):
            chosen = which.nonzero()[:, 0]
            row, column, value = _along(along, shape, angles[view, chosen], offsets[view, chosen], spacing)
            entries.append((chosen[row] + view * bins, column, value))
    return tuple(torch.cat(group) for group in zip(*entries, strict=True))


def _along(along: int, shape: tuple[int, int], angles: Tensor, offsets: Tensor, spacing: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor]:
    """Entries of rays [N] that are followed along one axis."""
    across = 1 - along
    weights = (angles.cos(), angles.sin())
    steps = centred(shape[along], spacing[along])
    at = (offsets[:, None] - weights[along][:, None] * steps) / weights[across][:, None] / spacing[across] + (shape[across] - 1) / 2
    length = (spacing[along] / weights[across].abs())[:, None].expand_as(at)
    below = at.floor()
    parts = []
    for place, weight in ((below, below + 1 - at), (below + 1, at - below)):
        inside = (place >= 0) & (place < shape[across]) & (weight > 0)
        row, step = inside.nonzero(as_tuple=True)
        where = place[inside].long()
        column = step * shape[1] + where if along == 0 else where * shape[1] + step
        parts.append((row, column, (weight * length)[inside]))
    return tuple(torch.cat(group) for group in zip(*parts, strict=True))
