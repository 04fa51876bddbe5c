"""Training of an autoencoder on crops, validated on whole volumes of held-out patients."""

import torch
import torch.nn.functional as F
from torch import Tensor

from medldm.models.autoencoder import Autoencoder
from medldm.models.losses import AutoencoderLoss, kl_from_normal
from medldm.randomness import keyed
from medldm.training.base import StepTraining
from medldm.training.options import Training
from medldm.types import Shape3

DEAD = 0.02  # nats per latent number
FAR = 100.0  # standard deviations of N(0, 1)


class AutoencoderTraining(StepTraining):
    """Minimises the reconstruction terms and the KL term with one posterior draw per crop.

    Args:
        model: the autoencoder.
        loss: weights of the terms.
        options, seed: see `StepTraining`.
        crop: voxels of a crop along I, J, K.
    """

    def __init__(self, model: Autoencoder, loss: AutoencoderLoss, options: Training, seed: int, crop: Shape3):
        super().__init__(model, model.matrix_parameters(), options, seed, min(crop) // model.factor)
        self.loss = loss
        self.latest: tuple[Tensor, Tensor] | None = None  # posterior of the last batch

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One batch of crops: image [B C I J K], label map [B 1 I J K]."""
        image, label = batch
        mean, std = self.model.posterior(self.model.join(image, label))
        noise = torch.randn(mean.shape, generator=keyed(self.seed, "posterior", self.global_step)).to(mean)
        decoded = self.model.decode_raw(mean + std * noise)
        self.latest = mean.detach(), std.detach()
        terms = self.loss(decoded, image, label if self.model.label_count else None, mean, std, self.global_step)
        self.note(terms, "train/")
        return torch.stack(list(terms.values())).sum()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """PSNR of whole volumes, in dB for the range [-1, 1]."""
        image, label = batch
        reconstruction, _ = self.model.split(self.model.reconstruct(self.model.join(image, label)))
        total, count = self.record.get("val/psnr", 0.0), batch_idx
        psnr = 10 * torch.log10(4 / F.mse_loss(reconstruction, image))
        self.record["val/psnr"] = (total * count + float(psnr)) / (count + 1)

    def concerns(self) -> list[str]:
        """What is wrong with the latents of the last batch, one sentence each."""
        if self.latest is None:
            return []
        mean, std = self.latest
        carried = kl_from_normal(mean.float(), std.float()).mean((0, 2, 3, 4))
        spread, wide = mean.float().std((0, 2, 3, 4)), std.float().mean((0, 2, 3, 4))
        said = []
        if dead := (carried < DEAD).nonzero().flatten().tolist():
            said.append(f"latent channels {dead} carry almost nothing (below {DEAD} nats a number): lower loss.kl, or set loss.free_bits.")
        if blown := ((wide > spread) & (carried >= DEAD)).nonzero().flatten().tolist():
            said.append(
                f"the posteriors of latent channels {blown} are wider than their means spread: their latents are mostly noise. Lower loss.kl."
            )
        if far := (spread > FAR).nonzero().flatten().tolist():
            said.append(f"latent channels {far} spread by more than {FAR:g}: raise loss.kl, or lower training.learning_rate.")
        return said
