"""Steering: sampling with a measurement of the decoded result, so that labels get the volumes that were asked for.

Training teaches a condition only as far as it lowers the mean error, and a structure's volume is a small part of that. Here
the clean estimate is moved, at each step of a part of the walk, to the nearest latent whose decoded label map has the volumes
that were asked for; the steps after it make the rest of the volume fit.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from medldm.errors import UserError
from medldm.types import Denoise


@dataclass(frozen=True)
class Steering:
    """One Gauss-Newton step to a measurement, per step of the sampler (compare the data consistency of ReSample, Song et al. 2024).

    For m(x_0) = wanted with Jacobian J, and whitened latents as the metric: x_0 <- x_0 + J^T (J J^T + damping diag)^(-1) (wanted - m(x_0)).

    Args:
        low, high: steers at times low < t <= high; above, the estimate is too blurred to be measured.
        damping: relative to the diagonal of J J^T.
        largest: longest move, relative to the length of the latent; where a structure is absent the Jacobian vanishes and
            tells nothing. (Moves on hippocampi measured 1 to 4 %.)
    """

    low: float = 0.1
    high: float = 0.6
    damping: float = 1e-3
    largest: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1 or self.damping <= 0 or self.largest <= 0:
            raise UserError(f"{self}: 0 <= low < high <= 1 and positive damping and largest were expected.")

    def inform(self, denoise: Denoise, measures: list[Callable[[Tensor], Tensor]], wanted: Tensor) -> Denoise:
        """A denoiser whose estimates are moved to the measurement.

        Args:
            denoise: (x_t, t [B]) -> clean estimate.
            measures: one differentiable function per sample of the batch, from a latent [c i j k] to M numbers.
            wanted: their wanted values [B M], NaN where nothing is asked for.
        """

        def informed(x: Tensor, t: Tensor) -> Tensor:
            x_0 = denoise(x, t)
            if not self.low < float(t[0]) <= self.high:
                return x_0
            return torch.stack([self._move(z, measure, want) for z, measure, want in zip(x_0, measures, wanted, strict=True)])

        return informed

    def _move(self, z: Tensor, measure: Callable[[Tensor], Tensor], wanted: Tensor) -> Tensor:
        asked = ~torch.isnan(wanted)
        if not asked.any():
            return z
        with torch.inference_mode(False), torch.enable_grad():
            free = z.clone().requires_grad_()
            measured = measure(free)[asked]
            rows = [torch.autograd.grad(value, free, retain_graph=True)[0].flatten() for value in measured]
        jacobian = torch.stack(rows)
        gram = jacobian @ jacobian.T
        residual = wanted[asked] - measured.detach()
        damped = gram + torch.diag(self.damping * gram.diagonal() + 1e-12)
        move = (torch.linalg.solve(damped, residual) @ jacobian).view_as(z)
        return z + move * min(1.0, self.largest * float(z.norm()) / max(float(move.norm()), 1e-12))
