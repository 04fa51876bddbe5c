"""The contract of a measurement: forward, adjoint, composition, stacking, and what comes free with them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medldm.errors import UserError

ROUNDING = 10


class ForwardOperator(nn.Module, ABC):
    """What an instrument measures of images, y = A(x), without noise.

    Images are batches [B C I J K]; measurements may have any shape that begins with B. Operators compute in the precision of what they
    are given and lie, as modules, on one device.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Noise-free measurements of images."""


class LinearOperator(ForwardOperator):
    """y = A x, with the adjoint A* of the inner product Re <a, b> = Re sum conj(a) b."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A* y, so that Re <A x, y> = Re <x, A* y>."""

    def count(self, y: Tensor) -> int:
        """Real numbers that are measured of each image; entries of y that are 0 because nothing was measured there do not count."""
        return y[0].numel() * (2 if y.is_complex() else 1)

    def normal(self, x: Tensor) -> Tensor:
        """A* A x."""
        return self.adjoint(self(x))

    def pseudo_inverse(self, y: Tensor, iterations: int = 50, tolerance: float = 1e-6) -> Tensor:
        """The least-squares solution of least norm, by conjugate gradients on A* A x = A* y (Hestenes & Stiefel 1952).

        Args:
            y: measurements.
            iterations: at most.
            tolerance: of the residual of that equation, relative to A* y.
        """
        return conjugate_gradients(self.normal, self.adjoint(y), iterations, tolerance)

    def __matmul__(self, inner: "LinearOperator") -> "Composed":
        """This operator after another."""
        return Composed(self, inner)


class Composed(LinearOperator):
    """A B x.

    Args:
        outer: A.
        inner: B, which comes first.
    """

    def __init__(self, outer: LinearOperator, inner: LinearOperator):
        super().__init__()
        self.outer, self.inner = outer, inner

    def forward(self, x: Tensor) -> Tensor:
        """See `ForwardOperator`."""
        return self.outer(self.inner(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """See `LinearOperator`."""
        return self.inner.adjoint(self.outer.adjoint(y))

    def count(self, y: Tensor) -> int:
        """See `LinearOperator`."""
        return self.outer.count(y)


class Stacked(LinearOperator):
    """Several measurements of one image, as one row of numbers per image: [A_1 x, A_2 x, ...], each flattened.

    Args:
        parts: the operators; either all of their measurements are complex or none is.
        shapes: of each one's measurements, without B.
    """

    def __init__(self, parts: Sequence[LinearOperator], shapes: Sequence[Sequence[int]]):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.shapes = [tuple(shape) for shape in shapes]

    def forward(self, x: Tensor) -> Tensor:
        """See `ForwardOperator`."""
        pieces = [part(x).flatten(1) for part in self.parts]
        if len({piece.is_complex() for piece in pieces}) > 1:
            raise UserError("Some of the stacked measurements are complex and others are real.", "Stack those of one kind.")
        return torch.cat(pieces, dim=1)

    def adjoint(self, y: Tensor) -> Tensor:
        """See `LinearOperator`."""
        return torch.stack([part.adjoint(piece) for part, piece in zip(self.parts, self._pieces(y), strict=True)]).sum(0)

    def count(self, y: Tensor) -> int:
        """See `LinearOperator`."""
        return sum(part.count(piece) for part, piece in zip(self.parts, self._pieces(y), strict=True))

    def _pieces(self, y: Tensor) -> list[Tensor]:
        check_fits(y, [sum(torch.Size(shape).numel() for shape in self.shapes)], "measurements")
        pieces = y.split([torch.Size(shape).numel() for shape in self.shapes], dim=1)
        return [piece.reshape(-1, *shape) for piece, shape in zip(pieces, self.shapes, strict=True)]


def check_fits(x: Tensor, shape: Sequence[int], what: str) -> None:
    """Refuse images or measurements of another shape: some of these would be broadcast, and give a wrong answer without a word.

    Args:
        x: batch.
        shape: of its members, without B.
        what: they are, for the message.

    Raises:
        UserError: they do not fit.
    """
    if tuple(x.shape[1:]) != tuple(shape):
        raise UserError(f"{what} of shape {tuple(x.shape[1:])} were given to an operator whose {what} have shape {tuple(shape)}.")


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Re <a, b> of each member of a batch [B], summed in float64."""
    product = (a.conj() * b).real if a.is_complex() or b.is_complex() else a * b
    return product.double().flatten(1).sum(1)


def white_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Independent normal numbers of variance 1, of real and imaginary part each, in the shape and precision of `like`."""
    if like.is_complex():
        return (2**0.5 * torch.randn(like.shape, generator=generator, dtype=torch.complex128)).to(like)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


def dot_error(operator: LinearOperator, x: Tensor, y: Tensor) -> float:
    """|Re <A x, y> - Re <x, A* y>| / (|A x| |y|), the largest of a batch; zero up to rounding for an exact adjoint."""
    ax, ay = operator(x), operator.adjoint(y)
    scale = (inner(ax, ax) * inner(y, y)).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    return float(((inner(ax, y) - inner(x, ay)).abs() / scale).max())


def conjugate_gradients(normal, right: Tensor, iterations: int, tolerance: float = 0.0, start: Tensor | None = None) -> Tensor:
    """x with M x = b for a positive semi-definite M, each member of the batch on its own (Hestenes & Stiefel 1952).

    A member whose residual is small enough, or whose direction M maps to nothing, stays as it is while others go on.

    Args:
        normal: M, maps [B ...] to the same shape.
        right: b.
        iterations: at most; one product with M each.
        tolerance: |b - M x| / |b| at which a member is done.
        start: first x; zero by default.
    """
    x = torch.zeros_like(right) if start is None else start.clone()
    residual = right - normal(x) if start is not None else right.clone()
    direction, power = residual.clone(), inner(residual, residual)
    # below rounding a direction is noise, and a step along one that M maps to nothing would have no bound
    goal = max(tolerance, ROUNDING * torch.finfo(right.dtype).eps) ** 2 * inner(right, right)
    for _ in range(iterations):
        if bool((power <= goal).all()):
            break
        mapped = normal(direction)
        curvature = inner(direction, mapped)
        going = (power > goal) & (curvature > 0)
        step = torch.where(going, power / curvature.where(going, torch.ones_like(curvature)), 0.0)
        x = x + column(step, x) * direction
        residual = residual - column(step, x) * mapped
        before, power = power, inner(residual, residual)
        ratio = torch.where(going, power / before.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
        direction = residual + column(ratio, x) * direction
    return x


def column(values: Tensor, like: Tensor) -> Tensor:
    """Real values [B] in the precision of a batch [B ...], shaped to multiply it."""
    real = like.real.dtype if like.is_complex() else like.dtype
    return values.to(real).reshape(-1, *[1] * (like.ndim - 1))
