"""Conditions turn a case's covariate into a vector; every condition has a learned value for "missing"."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Value = float | str | None


@dataclass(frozen=True)
class Context:
    """What the network is told beside x_t.

    Args:
        vector: embedding of the conditions [B D].
        valid: 1 in cells inside the field of view, 0 in padding [B 1 i j k]; None where all cells are valid.
    """

    vector: Tensor
    valid: Tensor | None = None


class Condition(nn.Module, ABC):
    """A covariate as a vector of `width` numbers.

    Args:
        width: length of the vector; set by the denoiser that holds the condition.
    """

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.missing = nn.Parameter(torch.randn(width) * 0.02)

    @abstractmethod
    def encode(self, value: Value) -> float:
        """A covariate as a number; NaN where it is missing.

        Raises:
            UserError: the value is not one that this condition knows.
        """

    @abstractmethod
    def embed(self, codes: Tensor) -> Tensor:
        """Codes [B], all present, to vectors [B D]."""

    def forward(self, codes: Tensor) -> Tensor:
        """Codes [B], NaN where missing, to vectors [B D]."""
        absent = torch.isnan(codes)
        vectors = self.embed(torch.where(absent, torch.zeros_like(codes), codes))
        return torch.where(absent[:, None], self.missing, vectors)
