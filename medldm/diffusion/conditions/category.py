"""Categories: sex, scanner, diagnosis, modality."""

import math

from torch import Tensor, nn

from medldm.diffusion.conditions.base import Condition, Value
from medldm.errors import UserError


class Category(Condition):
    """One of a few names.

    Args:
        width: length of the vector.
        names: the categories of the training cohort.
    """

    def __init__(self, width: int, names: list[str]):
        super().__init__(width)
        self.names = list(names)
        self.table = nn.Embedding(len(self.names), width)

    def encode(self, value: Value) -> float:
        """Position of the name; NaN where missing."""
        if value is None:
            return math.nan
        if str(value) not in self.names:
            raise UserError(f"{value!r} is none of the categories {', '.join(self.names)}.", "Give one of them, or leave it out.")
        return float(self.names.index(str(value)))

    def embed(self, codes: Tensor) -> Tensor:
        """See `Condition.embed`."""
        return self.table(codes.long())
