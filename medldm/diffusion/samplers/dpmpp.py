"""DPM-Solver++(2M)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from medldm.diffusion.process import Process
from medldm.diffusion.samplers.base import Sampler, at
from medldm.types import Denoise


@dataclass(frozen=True)
class DpmPlusPlus(Sampler):
    """Second-order multistep in half log-SNR (Lu et al. 2022, DPM-Solver++, algorithm 2). One call a step.

    With h = lambda(to) - lambda(t), lambda = log(signal / noise) and r = h_before / h, the clean estimate is extrapolated,
    D = (1 + 1/(2r)) x_0 - 1/(2r) x_0_before, and the exact first-order move is made with D. The step from t = 1, where
    lambda is infinite on some paths, and the last one are first order.
    """

    def walk(self, denoise: Denoise, process: Process, noise: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """See `Sampler.walk`."""
        x, times = noise, self.times()
        before, h_before = None, torch.inf
        for t, to in zip(times, times[1:], strict=False):
            estimate = denoise(x, at(t, x))
            h = _half_log_snr(process, to) - _half_log_snr(process, t)
            direction = estimate
            if before is not None and to > 0 and h_before < torch.inf:
                direction = estimate + float(h / h_before / 2) * (estimate - before)
            x = process.move(x, direction, t, to)
            before, h_before = estimate, h
            yield x


def _half_log_snr(process: Process, t: Tensor) -> Tensor:
    return torch.log(process.signal(t)) - torch.log(process.noise(t))
