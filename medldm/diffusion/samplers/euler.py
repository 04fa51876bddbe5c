"""Euler's method, which is DDIM."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from medldm.diffusion.process import Process
from medldm.diffusion.samplers.base import Sampler, at
from medldm.types import Denoise


@dataclass(frozen=True)
class Euler(Sampler):
    """First order; DDIM with eta = 0 on a variance-preserving path, Euler on a flow (Song et al. 2021). One call a step."""

    def walk(self, denoise: Denoise, process: Process, noise: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """See `Sampler.walk`."""
        x, times = noise, self.times()
        for t, to in zip(times, times[1:], strict=False):
            x = process.move(x, denoise(x, at(t, x)), t, to)
            yield x
