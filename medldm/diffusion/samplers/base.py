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
        steps: intervals between t = 1 and t = 0.
    """

    steps: int = 20

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"steps={self.steps}: at least one is needed.")

    @abstractmethod
    def walk(self, denoise: Denoise, process: "Process", noise: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """The states [B c i j k] after each step, the last of them at t = 0.

        Args:
            denoise: (x_t, t [B]) -> clean estimate.
            process: the path that the denoiser was trained on.
            noise: the state at t = 1 [B c i j k].
            generator: for solvers that add noise on their way; deterministic ones ignore it.
        """

    def sample(self, denoise: Denoise, process: "Process", noise: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The last state of the walk."""
        x = noise
        for state in self.walk(denoise, process, noise, generator):
            x = state
        return x

    def times(self) -> Tensor:
        """Uniform times from 1 to 0 [steps + 1], float64."""
        return torch.linspace(1, 0, self.steps + 1, dtype=torch.float64)


def at(t: Tensor, x: Tensor) -> Tensor:
    """A time as the batch [B] of times that a denoiser takes."""
    return t.to(x.device).expand(len(x))
