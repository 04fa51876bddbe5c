"""Samplers walk from noise to data with a denoiser as their only knowledge of it. They hold settings, never state."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medldm.errors import UserError
from medldm.types import Denoise

if TYPE_CHECKING:
    from medldm.diffusion.process import Process


@dataclass(frozen=True)
class Sampler(ABC):
    """A solver of the probability-flow ODE.

    Args:
        steps: intervals between the first time and t = 0.
        first: time at which the walk begins, in (0, 1]; below 1 where a first guess is known.
    """

    steps: int = 20
    first: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.first <= 1:
            raise UserError(f"steps={self.steps}, first={self.first}: at least one step is needed, and a first time in (0, 1].")

    @abstractmethod
    def walk(self, denoise: Denoise, process: "Process", noise: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """The states [B c i j k] after each step, the last of them at t = 0.

        Args:
            denoise: (x_t, t [B]) -> clean estimate.
            process: the path that the denoiser was trained on.
            noise: the state at the first time [B c i j k].
            generator: for solvers that add noise on their way; deterministic ones ignore it.
        """

    def sample(self, denoise: Denoise, process: "Process", noise: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The last state of the walk."""
        x = noise
        for state in self.walk(denoise, process, noise, generator):
            x = state
        return x

    def times(self) -> Tensor:
        """Uniform times from the first to 0 [steps + 1], float64."""
        return torch.linspace(self.first, 0, self.steps + 1, dtype=torch.float64)


def at(t: Tensor, x: Tensor) -> Tensor:
    """A time as the batch [B] of times that a denoiser takes."""
    return t.to(x.device).expand(len(x))
