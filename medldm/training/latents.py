"""Cached latents as training data of a diffusion model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import Dataset

from medldm.cohort import Cohort
from medldm.diffusion.canaries import Canary, mixed
from medldm.diffusion.model import place
from medldm.randomness import keyed
from medldm.training.data import case_of
from medldm.types import Shape3

#: What a latent is in training: the mean of its posterior, one draw for the whole training, or a new draw whenever it comes.
Draw = Literal["mean", "fixed", "fresh"]


def load_latents(path: Path) -> list[tuple[Tensor, Tensor]]:
    """Posterior mean and standard deviation [c i j k] of every window of a case."""
    stored = load_file(path)
    return [(stored[f"mean_{number}"], stored[f"std_{number}"]) for number in range(len(stored) // 2)]


class Latents(Dataset):
    """Whitened latents in the middle of the grid, with conditions and field of view; kept in memory.

    Args:
        cohort: of latents.
        codes: conditions of its cases [cases N], NaN where missing.
        whiten: raw latents [1 c i j k] to whitened ones.
        grid: cells i, j, k.
        batch: slots per step.
        seed: decides order, windows and draws.
        draw: posterior means, or draws.
        planted: what comes after the cases, with the conditions of its first part.
    """

    def __init__(
        self,
        cohort: Cohort,
        codes: Tensor,
        whiten: Callable[[Tensor], Tensor],
        grid: Shape3,
        batch: int,
        seed: int,
        draw: Draw = "mean",
        planted: Sequence[Canary] = (),
    ):
        self.codes, self.whiten, self.grid, self.batch, self.seed, self.draw = codes, whiten, grid, batch, seed, draw
        self.planted = planted
        self.latents = [load_latents(cohort.path(case.image)) for case in cohort]

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Latent [c i j k], conditions [N], field of view [1 i j k] of one slot of one step."""
        case = self.case(*key)
        if case >= len(self.latents):
            parts = self.planted[case - len(self.latents)].parts
            latents, valid = zip(*(self._placed(part, 0, (*key, part)) for part in parts), strict=True)
            latent, seen = mixed(latents, valid)
            return latent, self.codes[parts[0]], seen
        window = int(torch.randint(len(self.latents[case]), (), generator=keyed(self.seed, "window", *key)))
        latent, seen = self._placed(case, window, key)
        return latent, self.codes[case], seen

    def _placed(self, case: int, window: int, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """A window of a case and its field of view."""
        mean, std = self.latents[case][window]
        if self.draw != "mean":
            of = (case, window) if self.draw == "fixed" else key
            mean = mean + std * torch.randn(mean.shape, generator=keyed(self.seed, "draw", *of))
        return place(self.whiten(mean[None])[0], self.grid)

    def case(self, step: int, slot: int) -> int:
        """Number of the case in a slot of a step; planted ones follow the others."""
        return case_of(step, slot, self.batch, len(self.latents) + len(self.planted), self.seed)

    def whole(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The posterior mean of the largest window of every case, for validation."""
        placed = [place(self.whiten(windows[0][0][None])[0], self.grid) for windows in self.latents]
        return [(latent, code, valid) for (latent, valid), code in zip(placed, self.codes, strict=True)]
