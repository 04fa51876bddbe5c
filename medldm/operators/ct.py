"""Computed tomography with parallel beams: Joseph's line integrals as a sparse matrix with its exact transpose."""

import math

import torch
from torch import Tensor

from medldm.errors import UserError
from medldm.operators.base import LinearOperator
from medldm.types import Shape3

MOST_ANGLE = 2 * math.pi + 1e-6


class ParallelCT(LinearOperator):
    """Line integrals through each slice K of an image [B C I J K]: [B C angles bins K] (Joseph 1982).

    A ray x cos(a) + y sin(a) = s is followed along the axis that it runs along more closely, with linear interpolation across it; x and y
    are millimetres along I and J from the middle of the slice. An image of attenuation per millimetre gives pure numbers.

    Args:
        shape: voxels I, J, K.
        angles: a in radians [angles].
        spacing: millimetres along I and J.
        bins: of the detector; as many as see the whole diagonal by default.
        bin_width: in millimetres; the smaller spacing by default.

    Raises:
        UserError: angles look like degrees, or a number is out of range.
    """

    def __init__(
        self, shape: Shape3, angles: Tensor, spacing: tuple[float, float] = (1.0, 1.0), bins: int | None = None, bin_width: float | None = None
    ):
        super().__init__()
        angles = torch.as_tensor(angles, dtype=torch.float64)
        if angles.ndim != 1 or not len(angles) or not angles.isfinite().all():
            raise UserError(f"angles {tuple(angles.shape)}: a list of finite numbers was expected.")
        if float(angles.abs().max()) > MOST_ANGLE:
            raise UserError(f"An angle of {float(angles.abs().max()):g} is more than a turn in radians.", "Angles in degrees times pi / 180.")
        if min(spacing) <= 0 or (bin_width is not None and bin_width <= 0) or (bins is not None and bins < 1):
            raise UserError(f"spacing={spacing}, bins={bins}, bin_width={bin_width} must be positive.")
        self.shape, self.spacing = tuple(shape), spacing
        self.bin_width = bin_width or min(spacing)
        diagonal = math.hypot(shape[0] * spacing[0], shape[1] * spacing[1])
        self.bins = bins or 2 * math.ceil(diagonal / self.bin_width / 2) + 1
        rows, columns, values = joseph(shape[:2], angles, spacing, self.bins, self.bin_width)
        sizes = (len(angles) * self.bins, shape[0] * shape[1])
        matrix = torch.sparse_coo_tensor(torch.stack([rows, columns]), values, sizes, is_coalesced=None)
        self.angles = len(angles)
        for name, part in (("there", matrix), ("back", matrix.T)):
            csr = part.coalesce().to_sparse_csr()
            for piece, content in (("rows", csr.crow_indices()), ("columns", csr.col_indices()), ("values", csr.values())):
                self.register_buffer(f"{name}_{piece}", content)

    def forward(self, x: Tensor) -> Tensor:
        """See `ForwardOperator`."""
        if tuple(x.shape[2:]) != self.shape:
            raise UserError(f"An image of {tuple(x.shape[2:])} voxels was given; this scanner is made for {self.shape}.")
        return _Product.apply(x.flatten(2, 3), self, "there").unflatten(2, (self.angles, self.bins))

    def adjoint(self, y: Tensor) -> Tensor:
        """See `LinearOperator`."""
        return _Product.apply(y.flatten(2, 3), self, "back").unflatten(2, self.shape[:2])

    def product(self, x: Tensor, name: str) -> Tensor:
        """The matrix, or its transpose, times x [B C n K]."""
        rows, columns, values = (getattr(self, f"{name}_{piece}") for piece in ("rows", "columns", "values"))
        sizes = (self.angles * self.bins, self.shape[0] * self.shape[1])
        matrix = torch.sparse_csr_tensor(rows, columns, values.to(x.dtype), sizes if name == "there" else sizes[::-1], check_invariants=False)
        flat = x.movedim(2, 0)
        return (matrix @ flat.flatten(1)).unflatten(1, flat.shape[1:]).movedim(0, 2)


class _Product(torch.autograd.Function):
    """A product with the matrix, differentiated by its transpose."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x: Tensor, operator: ParallelCT, name: str) -> Tensor:
        return operator.product(x, name)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, ctx.operator, ctx.name = inputs

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Product.apply(gradient, ctx.operator, "back" if ctx.name == "there" else "there"), None, None

    @staticmethod
    def jvp(ctx, tangent: Tensor, *_: None) -> Tensor:
        return _Product.apply(tangent, ctx.operator, ctx.name)


def joseph(shape: tuple[int, int], angles: Tensor, spacing: tuple[float, float], bins: int, bin_width: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (angle, bin), columns (i, j) and values of the matrix of line integrals, in millimetres."""
    entries = [_one_angle(shape, float(angle), spacing, bins, bin_width) for angle in angles]
    rows = torch.cat([row + number * bins for number, (row, _, _) in enumerate(entries)])
    return rows, torch.cat([column for _, column, _ in entries]), torch.cat([value for _, _, value in entries])


def _one_angle(shape: tuple[int, int], angle: float, spacing: tuple[float, float], bins: int, bin_width: float) -> tuple[Tensor, Tensor, Tensor]:
    cosine, sine = math.cos(angle), math.sin(angle)
    along = 1 if abs(cosine) * spacing[0] >= abs(sine) * spacing[1] else 0  # a ray goes in the direction (-sine, cosine)
    across = 1 - along
    weights = (cosine, sine)
    offsets = (torch.arange(bins, dtype=torch.float64) - (bins - 1) / 2) * bin_width
    steps = (torch.arange(shape[along], dtype=torch.float64) - (shape[along] - 1) / 2) * spacing[along]
    at = (offsets[:, None] - weights[along] * steps[None]) / weights[across] / spacing[across] + (shape[across] - 1) / 2
    length = spacing[along] / abs(weights[across])
    below = at.floor()
    parts = []
    for place, weight in ((below, below + 1 - at), (below + 1, at - below)):
        inside = (place >= 0) & (place < shape[across]) & (weight > 0)
        row, step = inside.nonzero(as_tuple=True)
        where = place[inside].long()
        column = step * shape[1] + where if along == 0 else where * shape[1] + step
        parts.append((row, column, weight[inside] * length))
    return tuple(torch.cat(group) for group in zip(*parts, strict=True))
