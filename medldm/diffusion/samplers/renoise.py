"""New noise at every time."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from medldm.diffusion.process import Process
from medldm.diffusion.samplers.base import Sampler, at
from medldm.types import Denoise


@dataclass(frozen=True)
class Renoise(Sampler):
    """z_to = signal(to) z_0 + noise(to) e with fresh e, for samplers of z_0 given z_t (Zhang et al. 2025, DAPS). One call a step.

    With a denoiser, which gives a mean and no sample, it is stochastic but no solver of the diffusion's own equation.
    """

    def walk(self, denoise: Denoise, process: Process, noise: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """See `Sampler.walk`."""
        x, times = noise, self.times()
        for t, to in zip(times, times[1:], strict=False):
            clean = denoise(x, at(t, x))
            e = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
            x = float(process.signal(to)) * clean + float(process.noise(to)) * e
            yield x
