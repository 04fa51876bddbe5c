"""Numbers: age, volumes, doses."""

import math

import torch
from torch import Tensor, nn

from medldm.diffusion.conditions.base import Condition, Value
from medldm.errors import UserError

FREQUENCIES = 6


class Scalar(Condition):
    """A number, standardised by the training cohort, with Fourier features (Tancik et al. 2020).

    Args:
        width: length of the vector.
        mean, std: of the training cohort, in the covariate's unit.
    """

    def __init__(self, width: int, mean: float, std: float):
        super().__init__(width)
        self.mean, self.std = mean, std
        self.net = nn.Sequential(nn.Linear(1 + 2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def encode(self, value: Value) -> float:
        """Standard deviations from the mean; NaN where missing."""
        if value is None:
            return math.nan
        if isinstance(value, str):
            raise UserError(f"A number was expected, {value!r} was found.", "Give a number, or leave it out.")
        if not math.isfinite(value):
            raise UserError(f"A finite number was expected, {value} was found.", "Give a number, or leave it out.")
        return (value - self.mean) / self.std

    def embed(self, codes: Tensor) -> Tensor:
        """See `Condition.embed`."""
        angles = codes[:, None] * (math.pi / 4 * 2.0 ** torch.arange(FREQUENCIES, device=codes.device) / 2)
        return self.net(torch.cat([codes[:, None], angles.sin(), angles.cos()], dim=1))
