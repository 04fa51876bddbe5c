"""Training of a denoiser on cached latents, validated at fixed times and noise on held-out patients."""

import torch
from torch import Tensor

from medldm.diffusion.denoiser import Denoiser
from medldm.randomness import keyed
from medldm.training.base import StepTraining
from medldm.training.options import Training
from medldm.types import Shape3

VALIDATION_TIMES = (1 / 12, 3 / 12, 5 / 12, 7 / 12, 9 / 12, 11 / 12)


class DiffusionTraining(StepTraining):
    """Minimises the denoiser's prediction error at random times.

    Args:
        model: the denoiser.
        options, seed: see `StepTraining`.
        grid: cells i, j, k of the latents.
    """

    def __init__(self, model: Denoiser, options: Training, seed: int, grid: Shape3):
        net = model.net
        super().__init__(model, net.matrix_parameters(), options, seed, min(grid) // net.multiple, net.residual_blocks())

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        """One batch: latents [B c i j k], conditions [B N], fields of view [B 1 i j k]."""
        latents, codes, valid = batch
        loss = self.model.loss(latents, codes, keyed(self.seed, "diffusion", self.global_step), valid).mean()
        self.note({"loss": loss}, "train/")
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        """Mean prediction error over six even times, with noise fixed per case."""
        latents, codes, valid = batch
        noise = torch.randn(latents.shape, generator=keyed(self.seed, "validation", batch_idx)).to(latents)
        context = self.model.context(codes, valid)
        errors = [
            self.model.error(latents, noise, torch.full((len(latents),), t, dtype=torch.float64, device=latents.device), context)
            for t in VALIDATION_TIMES
        ]
        self.note_mean("val/loss", torch.stack(errors).mean(), batch_idx)
