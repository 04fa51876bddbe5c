"""Processes: how data turn into noise. x_t = signal(t) x_0 + noise(t) e, t in [0, 1], 0 = data, 1 = noise."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from medldm.operators.base import column


class Process(ABC):
    """A path from data to noise, given by two smooth functions of t; t and coefficients are float64."""

    @abstractmethod
    def signal(self, t: Tensor) -> Tensor:
        """Factor of the data at times t, 1 at t = 0."""

    @abstractmethod
    def noise(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise at times t, 0 at t = 0."""

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of signal and noise with respect to t."""
        one = torch.ones_like(t)
        return torch.func.jvp(self.signal, (t,), (one,))[1], torch.func.jvp(self.noise, (t,), (one,))[1]

    def mix(self, x_0: Tensor, e: Tensor, t: Tensor) -> Tensor:
        """x_t = signal(t) x_0 + noise(t) e for data and noise [B C i j k] and times [B]."""
        return column(self.signal(t), x_0) * x_0 + column(self.noise(t), x_0) * e

    def move(self, x: Tensor, x_0: Tensor, t: Tensor, to: Tensor) -> Tensor:
        """From time t to time `to` along the noise that the clean estimate x_0 implies.

        x_to = signal(to) x_0 + noise(to) (x - signal(t) x_0) / noise(t). This one rule is DDIM (Song et al. 2021,
        eq. 12), Euler on the flow ODE, and Euler on the variance-exploding ODE (Karras et al. 2022).

        Args:
            x: state at time t [B C i j k].
            x_0: clean estimate [B C i j k].
            t, to: scalars, t > 0.
        """
        ratio = self.noise(to) / self.noise(t)
        return float(ratio) * x + float(self.signal(to) - ratio * self.signal(t)) * x_0


@dataclass(frozen=True)
class Flow(Process):
    """Rectified flow: signal 1 - t, noise t (Liu et al. 2023; Lipman et al. 2023)."""

    def signal(self, t: Tensor) -> Tensor:
        """1 - t."""
        return 1 - t

    def noise(self, t: Tensor) -> Tensor:
        """t."""
        return t


@dataclass(frozen=True)
class Cosine(Process):
    """Variance preserving, cosine schedule: signal cos(pi t / 2), noise sin(pi t / 2) (Nichol & Dhariwal 2021)."""

    def signal(self, t: Tensor) -> Tensor:
        """cos(pi t / 2)."""
        return torch.cos(t * (math.pi / 2))

    def noise(self, t: Tensor) -> Tensor:
        """sin(pi t / 2)."""
        return torch.sin(t * (math.pi / 2))
