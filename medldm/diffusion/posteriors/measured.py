"""Measurements as latents see them: y = A(D(z)) + e, with noise and decoder error made white."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from medldm.operators.base import LinearOperator, column, conjugate_gradients, inner, white_noise

HALVINGS = 3
POWER_STEPS = 8


@dataclass(frozen=True)
class Measured:
    """Measurements of decoded latents and how far each can be trusted.

    With x = D(z) + r, where r is what the decoder cannot say, y = A x + e has, around A(D(z)), the variance of e plus that of A r. Its
    inverse is the weight, so that the log-likelihood of z is -sum w |y - A(D(z))|^2 / 2 with the decoder's error integrated out.

    Args:
        operator: A.
        decode: D, from latents [B c i j k] to images [B C I J K].
        y: measurements [B ...].
        weight: w, one over the variance, of real and of imaginary part each where y is complex; a number, or what can be broadcast to y.
    """

    operator: LinearOperator
    decode: Callable[[Tensor], Tensor]
    y: Tensor
    weight: Tensor

    def predict(self, z: Tensor) -> Tensor:
        """What would be measured of latents, times the root of the weight."""
        return self.operator(self.decode(z)) * self.weight.sqrt()

    @property
    def target(self) -> Tensor:
        """The measurements times the root of the weight: noise around it is white, of variance 1."""
        return self.y * self.weight.sqrt()

    def misfit(self, z: Tensor) -> Tensor:
        """sum w |y - A(D(z))|^2 / 2 for each member of the batch [B]."""
        residual = self.predict(z) - self.target
        return inner(residual, residual) / 2

    def noise(self, generator: torch.Generator) -> Tensor:
        """A draw of the white noise around the target."""
        return white_noise(self.target, generator)


def proximal(measured: Measured, z: Tensor, centre: Tensor, variance: Tensor | float, products: int, target: Tensor | None = None) -> Tensor:
    """One Gauss-Newton step from z towards argmin misfit(z) + |z - c|^2 / (2 v), halved while that does not lower it.

    With J the Jacobian of what is measured at z: (J* J + 1/v) d = J* (target - f(z)) + (c - z) / v, by conjugate gradients.

    Args:
        measured: what is known.
        z: where the measurements are linearised [B c i j k].
        centre: c.
        variance: v, of the prior around c; a number or one per member of the batch [B 1 1 1 1].
        products: with J* J.
        target: of the predictions; that of the measurements by default.
    """
    target = measured.target if target is None else target

    def objective(at: Tensor, predicted: Tensor) -> Tensor:
        residual, off = predicted - target, (at - centre) / variance**0.5
        return (inner(residual, residual) + inner(off, off)) / 2

    with torch.inference_mode(False), torch.no_grad():
        z, centre = z.clone(), centre.clone()
        predicted, pull = _pulled(measured, z)

        def push(d: Tensor) -> Tensor:
            return torch.func.jvp(measured.predict, (z,), (d,))[1]

        right = pull(target - predicted) + (centre - z) / variance
        step = conjugate_gradients(lambda d: pull(push(d)) + d / variance, right, products)
        before, best = objective(z, predicted), z
        scale = torch.ones(len(z), *[1] * (z.ndim - 1), dtype=z.dtype, device=z.device)
        for _ in range(HALVINGS):
            found = z + scale * step
            lower = (objective(found, measured.predict(found)) <= before).reshape(scale.shape)
            best = torch.where(lower, found, best)
            if bool(lower.all()):
                break
            scale = torch.where(lower, scale, scale / 2)
        return best


def _pulled(measured: Measured, z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """What is measured at z, and d -> J* d there; by `autograd`, since `torch.func.vjp` does not know the hooks of the tiled decoder."""
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        predicted = measured.predict(leaf)
    return predicted.detach(), lambda d: torch.autograd.grad(predicted, leaf, d, retain_graph=True)[0]


def stiffness(measured: Measured, z: Tensor) -> Tensor:
    """The largest eigenvalue of J* J at z, for each member of the batch [B], by power iteration."""
    with torch.inference_mode(False), torch.no_grad():
        z = z.clone()
        _, pull = _pulled(measured, z)
        d = torch.randn(z.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(z).expand_as(z)
        size = z.new_ones(len(z), dtype=torch.float64)
        for _ in range(POWER_STEPS):
            d = d / column(inner(d, d).sqrt().clamp(min=1e-30), d)
            d = pull(torch.func.jvp(measured.predict, (z,), (d,))[1])
            size = inner(d, d).sqrt()
        return size
