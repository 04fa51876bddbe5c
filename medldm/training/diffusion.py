"""Training of a denoiser on cached latents, validated at fixed times and noise on held-out patients."""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from medldm.diffusion.denoiser import Denoiser
from medldm.randomness import keyed
from medldm.training.base import StepTraining
from medldm.training.budget import Budget
from medldm.training.options import Training
from medldm.training.private import PatientItem, PatientLatents, PoissonBatches, clipped_sum, normal
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


class PrivateDiffusion(DiffusionTraining):
    """The same with clipped gradients and noise in place of the mean gradient; see `medldm.training.private`.

    The loss of the training patients is neither bounded nor noisy, so it is not written down; nor does the loss of held-out patients choose weights.

    Args:
        model, options, seed, grid: see `DiffusionTraining`; `options.batch` is the mean number of patients in a step.
        budget: clipping, noise and how often a patient is drawn.
    """

    def __init__(self, model: Denoiser, options: Training, seed: int, grid: Shape3, budget: Budget):
        super().__init__(model, options, seed, grid)
        self.budget = budget
        self.gradient: list[Tensor] = []

    def batches(self, dataset: PatientLatents, start: int, single_from: int | None) -> DataLoader:
        """See `StepTraining.batches`; a batch is a list of any length."""
        sampler = PoissonBatches(start, self.options.steps, len(dataset.patients), self.budget.sample_rate)
        return DataLoader(dataset, batch_sampler=sampler, collate_fn=list, num_workers=0)

    def training_step(self, batch: list[PatientItem], batch_idx: int) -> Tensor:
        """The gradient of one step; Lightning gets a loss that means nothing."""
        total = clipped_sum(map(self._loss, batch), self._trained(), self.budget.clip)
        scale = self.budget.noise_multiplier * self.budget.clip
        self.gradient = [((g.double() + scale * normal(g.shape, g.device)) / self.options.batch).to(g) for g in total]
        return torch.zeros((), device=self.device)

    def backward(self, loss: Tensor, *arguments: object, **options: object) -> None:
        """Hand the gradient over; Lightning has set those before to None."""
        for parameter, gradient in zip(self._trained(), self.gradient, strict=True):
            parameter.grad = gradient
        self.gradient = []

    def _loss(self, item: PatientItem) -> Tensor:
        latent, code, valid, patient = item
        return self.model.loss(latent[None], code[None], keyed(self.seed, "diffusion", self.global_step, patient), valid[None])[0]

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]
