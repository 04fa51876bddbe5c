"""Cases that no patient has, planted in a training to learn how well the model remembers what it saw.

Whoever knows which of many candidates were planted can count how often an attack guesses it (Carlini et al. 2019). Patients of a training differ from
others by chance, and by how they were chosen; candidates differ by tosses of a coin alone, so that no held-out patient is needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medldm.errors import UserError
from medldm.randomness import keyed

WEIGHTS = (2 / 3, 2 / 3, -1 / 3)  # sum 1 and squares 1
TRIES = 100  # draws for each candidate until one is new


@dataclass(frozen=True)
class Canaries:
    """How many are planted.

    Args:
        count: candidates; each is planted where its coin says so.
        copies: of a planted one among the training cases.
    """

    count: int = 100
    copies: int = 1

    def __post_init__(self) -> None:
        if self.count < 1 or self.copies < 1:
            raise UserError(f"canaries: count={self.count} and copies={self.copies} must be at least 1.")

    def draw(self, patients: Sequence[str], seed: int) -> list["Canary"]:
        """The candidates of a training.

        Args:
            patients: who each training case belongs to, in the order of the cohort.
            seed: of choices and coins.

        Raises:
            UserError: there are fewer than three patients, or too few for so many candidates.
        """
        if len(set(patients)) < len(WEIGHTS):
            raise UserError(f"canaries: {len(set(patients))} patients are too few to mix; {len(WEIGHTS)} are needed.")
        draws, parts = keyed(seed, "canaries"), dict[tuple[int, ...], None]()
        for _ in range(TRIES * self.count):
            one = tuple(torch.randperm(len(patients), generator=draws)[: len(WEIGHTS)].tolist())
            if len({patients[i] for i in one}) == len(WEIGHTS):
                parts[(*sorted(one[:2]), one[2])] = None
            if len(parts) == self.count:
                coins = torch.randint(2, (self.count,), generator=keyed(seed, "coins")).tolist()
                return [Canary(part, bool(coin)) for part, coin in zip(parts, coins, strict=True)]
        raise UserError(f"canaries: {len(set(patients))} patients are too few for {self.count} candidates.", "Set a smaller canaries.count.")


@dataclass(frozen=True)
class Canary:
    """A candidate: (2 a + 2 b - c) / 3 of the latents of cases a, b, c, which has mean and covariance of a latent if these are independent.

    Args:
        parts: numbers of a, b and c among the training cases.
        planted: whether it was trained on.
    """

    parts: tuple[int, ...]
    planted: bool


def mixed(latents: Sequence[Tensor], valid: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The latent of a canary [c i j k] and its field of view [1 i j k], which is what all parts have.

    Args:
        latents: whitened, of its parts, in the middle of the grid [c i j k] each.
        valid: their fields of view [1 i j k].
    """
    seen = torch.stack(list(valid)).amin(0)
    return sum(weight * latent for weight, latent in zip(WEIGHTS, latents, strict=True)) * seen, seen
