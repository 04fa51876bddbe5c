"""Samples of the posterior by decoupled annealing."""

from dataclasses import dataclass

import torch
from torch import Tensor

from medldm.diffusion.posteriors.base import Posterior
from medldm.diffusion.posteriors.latent_prox import spread
from medldm.diffusion.posteriors.measured import Measured, proximal
from medldm.diffusion.process import Process
from medldm.operators.base import white_noise
from medldm.types import Denoise


@dataclass(frozen=True)
class LatentDaps(Posterior):
    """z_0 ~ p(z_0 | z_t, y), where p(z_0 | z_t) = N(E[z_0 | z_t], strength v_t) (Zhang et al. 2025, DAPS).

    A draw is the minimiser of the proximal objective around a perturbed centre and perturbed measurements (Bardsley et al. 2014,
    randomise then optimise), exact where the decoder is linear. Use it with `Renoise`, which draws new noise at each time: then
    z_t has the right law at each time whatever happened before.

    Args:
        seed: of the draws.
        strength: of v_t; 1 is right for white latents.
        products: conjugate gradient products per Gauss-Newton step; too few make draws too much alike (8 lose 6 % of the variance in the toy of the
            tests).
        rounds: Gauss-Newton steps per draw.
    """

    seed: int = 0
    strength: float = 1.0
    products: int = 40
    rounds: int = 1

    def inform(self, denoise: Denoise, process: Process, measured: Measured, start: Tensor | None = None) -> Denoise:
        """See `Posterior`."""
        generator = torch.Generator().manual_seed(self.seed)
        last = start

        def informed(x: Tensor, t: Tensor) -> Tensor:
            nonlocal last
            mean = denoise(x, t)
            variance = self.strength * spread(process, t, x)
            centre = mean + variance.sqrt() * white_noise(x, generator)
            target = measured.target + measured.noise(generator)
            z = mean if last is None else last
            for _ in range(self.rounds):
                z = proximal(measured, z, centre, variance, self.products, target)
            last = z
            return z

        return informed
