"""Maximum a posteriori in few steps: each estimate of the denoiser is moved to the measurements by one Gauss-Newton step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from medldm.diffusion.posteriors.base import Posterior
from medldm.diffusion.posteriors.measured import Measured, proximal
from medldm.diffusion.process import Process
from medldm.operators.base import column
from medldm.types import Denoise


@dataclass(frozen=True)
class LatentProx(Posterior):
    """z_0 = argmin -log p(y | z) + |z - E[z_0 | z_t]|^2 / (2 strength v_t), v_t = n^2 / (s^2 + n^2), linearised where the last step ended.

    The proximal step of DiffPIR (Zhu et al. 2023) and ReSample (Song et al. 2024), taken through the decoder; the denoiser is not
    differentiated. v_t is the variance of whitened latents of which only their noisy version is known.

    Args:
        strength: more trusts the denoiser less. On a deterministic walk z_t knows the measurements already, so the prior enters at every
            step anew; in the Gaussian toy of the tests 4 to 10 lose .2 to .5 dB against the mode at 35 % sampling, 1 loses 1.6 dB.
        products: conjugate gradient products per step.
    """

    strength: float = 4.0
    products: int = 5

    def inform(self, denoise: Denoise, process: Process, measured: Measured, start: Tensor | None = None) -> Denoise:
        """See `Posterior`."""
        last = start

        def informed(x: Tensor, t: Tensor) -> Tensor:
            nonlocal last
            centre = denoise(x, t)
            variance = self.strength * spread(process, t, x)
            last = proximal(measured, centre if last is None else last, centre, variance, self.products)
            return last

        return informed


def spread(process: Process, t: Tensor, like: Tensor) -> Tensor:
    """n^2 / (s^2 + n^2), the variance of white data given their noisy version at times t [B], shaped for `like`."""
    signal, noise = process.signal(t), process.noise(t)
    return column(noise**2 / (signal**2 + noise**2), like).clamp(min=torch.finfo(like.dtype).eps)
