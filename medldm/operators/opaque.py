"""Linear maps that torch cannot look into, differentiated by their adjoints."""

from abc import abstractmethod

import torch
from torch import Tensor

from medldm.operators.base import LinearOperator


class Opaque(LinearOperator):
    """y = A x computed by something else than torch's own functions; gradients, forwards and backwards, are products with A and A*."""

    @abstractmethod
    def there(self, x: Tensor) -> Tensor:
        """A x."""

    @abstractmethod
    def back(self, y: Tensor) -> Tensor:
        """A* y."""

    def forward(self, x: Tensor) -> Tensor:
        """See `ForwardOperator`."""
        return _Product.apply(x, self, True)

    def adjoint(self, y: Tensor) -> Tensor:
        """See `LinearOperator`."""
        return _Product.apply(y, self, False)


class _Product(torch.autograd.Function):
    """A product with A (True) or A* (False)."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x: Tensor, operator: Opaque, there: bool) -> Tensor:
        return operator.there(x) if there else operator.back(x)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        _, ctx.operator, ctx.there = inputs

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Product.apply(gradient, ctx.operator, not ctx.there), None, None

    @staticmethod
    def jvp(ctx, tangent: Tensor, *_: None) -> Tensor:
        return _Product.apply(tangent, ctx.operator, ctx.there)
