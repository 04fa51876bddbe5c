"""Cached latents as training data of a diffusion model."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import Dataset

from medldm.cohort import Cohort
from medldm.diffusion.model import place
from medldm.randomness import keyed
from medldm.training.data import case_of
from medldm.types import Shape3


def load_latents(path: Path) -> list[Tensor]:
    """Posterior means [c i j k] of every window of a case."""
    stored = load_file(path)
    return [stored[f"mean_{number}"] for number in range(len(stored) // 2)]


class Latents(Dataset):
    """Whitened posterior means in the middle of the grid, with conditions and field of view; kept in memory.

    Args:
        cohort: of latents.
        codes: conditions of its cases [cases N], NaN where missing.
        whiten: raw latents [1 c i j k] to whitened ones.
        grid: cells i, j, k.
        batch: slots per step.
        seed: decides order and windows.
    """

    def __init__(self, cohort: Cohort, codes: Tensor, whiten, grid: Shape3, batch: int, seed: int):
        self.codes, self.grid, self.batch, self.seed = codes, grid, batch, seed
        self.latents = [[whiten(z[None])[0] for z in load_latents(cohort.path(case.image))] for case in cohort]

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Latent [c i j k], conditions [N], field of view [1 i j k] of one slot of one step."""
        case = case_of(*key, self.batch, len(self.latents), self.seed)
        windows = self.latents[case]
        chosen = windows[int(torch.randint(len(windows), (), generator=keyed(self.seed, "window", *key)))]
        latent, valid = place(chosen, self.grid)
        return latent, self.codes[case], valid

    def whole(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The largest window of every case, for validation."""
        placed = [place(windows[0], self.grid) for windows in self.latents]
        return [(latent, code, valid) for (latent, valid), code in zip(placed, self.codes, strict=True)]
