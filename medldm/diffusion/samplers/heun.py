"""Heun's method."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from medldm.diffusion.process import Process
from medldm.diffusion.samplers.base import Sampler, at
from medldm.operators.base import column
from medldm.types import Denoise


@dataclass(frozen=True)
class Heun(Sampler):
    """Second order (Karras et al. 2022, algorithm 1). Two calls a step, one in the last."""

    def walk(self, denoise: Denoise, process: Process, noise: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """See `Sampler.walk`."""
        x, times = noise, self.times()
        for t, to in zip(times, times[1:], strict=False):
            if to == 0:  # the slope has no finite value at t = 0 for every path, and Euler is exact enough there
                yield process.move(x, denoise(x, at(t, x)), t, to)
                return
            slope = _slope(process, x, denoise(x, at(t, x)), t)
            ahead = x + float(to - t) * slope
            slope_ahead = _slope(process, ahead, denoise(ahead, at(to, x)), to)
            x = x + float(to - t) / 2 * (slope + slope_ahead)
            yield x


def _slope(process: Process, x: Tensor, x_0: Tensor, t: Tensor) -> Tensor:
    """dx_t/dt = s' x_0 + n' e with e = (x_t - s x_0) / n."""
    signal_rate, noise_rate = process.rates(t)
    e = (x - column(process.signal(t), x) * x_0) / column(process.noise(t), x)
    return column(signal_rate, x) * x_0 + column(noise_rate, x) * e
