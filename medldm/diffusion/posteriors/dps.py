"""Posterior sampling by gradients through denoiser and decoder: references, hundreds of steps long."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from medldm.diffusion.posteriors.base import Posterior
from medldm.diffusion.posteriors.measured import Measured, stiffness
from medldm.diffusion.process import Process
from medldm.operators.base import column
from medldm.types import Denoise


@dataclass(frozen=True)
class Dps(Posterior):
    """Each step of the walk ends a gradient step nearer to the measurements: z_to <- z_to - step grad_{z_t} m(E[z_0 | z_t]) / k.

    Source: Chung et al. 2023, in latents (LDPS). m is the misfit and k the largest eigenvalue of J* J, so that `step` has no unit. As a
    clean estimate, E[z_0 | z_t] is moved by so much that the walk's own rule, z_to = ratio z_t + c z_0, makes that step.

    Args:
        steps: of the walk, whose length decides c.
        step: below 2 where the gradient shall not overshoot.
    """

    steps: int = 500
    step: float = 1.0

    def inform(self, denoise: Denoise, process: Process, measured: Measured, start: Tensor | None = None) -> Denoise:
        """See `Posterior`; the start is not used."""
        known: list[Tensor] = []

        def informed(x: Tensor, t: Tensor) -> Tensor:
            known[:] = known or [stiffness(measured, torch.zeros_like(x))]
            with torch.inference_mode(False), torch.enable_grad():
                free = x.clone().requires_grad_()
                clean = denoise(free, t)
                gradient = torch.autograd.grad(self.loss(clean, measured, column(known[0], x).flatten()).sum(), free)[0]
            to = (t - 1 / self.steps).clamp(min=0)
            share = process.signal(to) - process.noise(to) / process.noise(t) * process.signal(t)
            return clean.detach() - self.step / column(share * known[0], x) * gradient

        return informed

    def loss(self, clean: Tensor, measured: Measured, stiff: Tensor) -> Tensor:
        """What is descended, for each member of the batch [B]."""
        return measured.misfit(clean)


@dataclass(frozen=True)
class Psld(Dps):
    """DPS that also pulls latents to where encoding their image, completed by what was measured, leads back to them (Rout et al. 2023, PSLD).

    Adds gluing k |z - E(A* y + (1 - A* A) D(z))|^2 / 2 to m, for operators whose A* A is about a projection.

    Args:
        encode: E, from images to whitened latents.
        gluing: factor of that term.
    """

    encode: Callable[[Tensor], Tensor] | None = None
    gluing: float = 0.02

    def loss(self, clean: Tensor, measured: Measured, stiff: Tensor) -> Tensor:
        """See `Dps`."""
        if self.encode is None:
            raise TypeError("PSLD needs the encoder.")
        image = measured.decode(clean)
        completed = image + measured.operator.adjoint(measured.y - measured.operator(image))
        off = clean - self.encode(completed)
        return super().loss(clean, measured, stiff) + self.gluing * stiff * off.square().flatten(1).sum(1) / 2
