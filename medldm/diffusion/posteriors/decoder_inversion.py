"""The latents that explain the measurements best, without a diffusion model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from medldm.diffusion.posteriors.base import Posterior
from medldm.diffusion.posteriors.measured import Measured, proximal
from medldm.diffusion.process import Process
from medldm.types import Denoise


@dataclass(frozen=True)
class DecoderInversion(Posterior):
    """argmin -log p(y | z) + |z|^2 / 2: whitened latents as independent Gaussians (compare Bora et al. 2017; Wang et al. 2023, InverseSR).

    The result does not depend on the walk, so one step of any sampler gives it.

    Args:
        rounds: Gauss-Newton steps.
        products: conjugate gradient products per step.
    """

    rounds: int = 6
    products: int = 8

    def inform(self, denoise: Denoise, process: Process, measured: Measured, start: Tensor | None = None) -> Denoise:
        """See `Posterior`."""
        found: list[Tensor] = []

        def informed(x: Tensor, t: Tensor) -> Tensor:
            if not found:
                z = torch.zeros_like(x) if start is None else start
                for _ in range(self.rounds):
                    z = proximal(measured, z, torch.zeros_like(z), 1.0, self.products)
                found.append(z)
            return found[0]

        return informed
