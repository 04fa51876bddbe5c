"""Training of a restorer: images, what latents of different quality make of them, and noise of all levels."""

import math

import torch
from torch import Tensor
from torch.utils.data import Dataset

from medldm.models.restorer import Restorer
from medldm.randomness import keyed
from medldm.training.base import StepTraining
from medldm.training.data import case_of
from medldm.training.options import Training
from medldm.types import Shape3

LEVELS = (0.02, 1.0)
VALIDATION_LEVELS = (0.05, 0.1, 0.2, 0.4, 0.8)

#: An image [C I J K], and guides of it [G C I J K], best first.
Guided = tuple[Tensor, Tensor]


class RestorerTraining(StepTraining):
    """Minimises |F - target|^2 at noise levels that are even in their logarithm.

    Args:
        model: the restorer.
        options, seed: see `StepTraining`.
        crop: voxels of a crop along I, J, K.
    """

    def __init__(self, model: Restorer, options: Training, seed: int, crop: Shape3):
        super().__init__(model, model.matrix_parameters(), options, seed, min(crop) // 2, model.residual_blocks())

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One batch of crops and guides [B C I J K]."""
        image, guide = batch
        generator = keyed(self.seed, "restorer", self.global_step)
        low, high = (math.log(level) for level in LEVELS)
        sigma = torch.exp(low + (high - low) * torch.rand(len(image), generator=generator)).to(image)
        loss = self._error(image, guide, sigma, torch.randn(image.shape, generator=generator).to(image))
        self.note({"loss": loss}, "train/")
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Mean error over fixed levels, with noise fixed per case."""
        image, guide = batch
        noise = torch.randn(image.shape, generator=keyed(self.seed, "validation", batch_idx)).to(image)
        errors = [self._error(image, guide, torch.full((len(image),), level).to(image), noise) for level in VALIDATION_LEVELS]
        self.note_mean("val/loss", torch.stack(errors).mean(), batch_idx)

    def _error(self, image: Tensor, guide: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        noisy = image + sigma.reshape(-1, 1, 1, 1, 1) * noise
        found = self.model.network(noisy, sigma, guide).float()
        return (found - self.model.target(image, noisy, sigma, guide)).square().mean()


class GuidedCrops(Dataset):
    """Random crops of images with one of their guides.

    Args:
        cases: images and guides.
        size: voxels of a crop along I, J, K.
        batch: slots per step.
        seed: decides order, places and guides.
    """

    def __init__(self, cases: list[Guided], size: Shape3, batch: int, seed: int):
        self.cases, self.size, self.batch, self.seed = cases, size, batch, seed

    def __getitem__(self, key: tuple[int, int]) -> Guided:
        """Image and guide [C I J K] of one slot of one step."""
        generator = keyed(self.seed, "crop", *key)
        image, guides = self.cases[case_of(*key, self.batch, len(self.cases), self.seed)]
        start = [int(torch.randint(n - length + 1, (), generator=generator)) for n, length in zip(image.shape[1:], self.size, strict=True)]
        place = (slice(None), *(slice(first, first + length) for first, length in zip(start, self.size, strict=True)))
        guide = guides[int(torch.randint(len(guides), (), generator=generator))]
        return image[place], guide[place]
