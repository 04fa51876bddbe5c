"""Training of an autoencoder on crops, validated on whole volumes of held-out patients."""

import torch
import torch.nn.functional as F
from torch import Tensor

from medldm.models.adversarial import Adversarial
from medldm.models.autoencoder import Autoencoder
from medldm.models.losses import AutoencoderLoss, kl_from_normal
from medldm.models.perceptual import Perceptual
from medldm.models.quantized import QuantizedAutoencoder
from medldm.randomness import keyed
from medldm.training.base import Companion, StepTraining
from medldm.training.options import Training
from medldm.training.terms import AdversarialTerm, PerceptualTerm
from medldm.types import Shape3

DEAD = 0.02  # nats per latent number
FAR = 100.0  # standard deviations of N(0, 1)
UNUSED = 0.1  # perplexity of a codebook, of its codes
IMAGE_TERMS = ("image", "gradient", "squared", "spectral", "ssim", "perceptual")  # what the adversarial term is balanced with


class AutoencoderTraining(StepTraining):
    """Minimises the reconstruction terms and the KL term with one posterior draw per crop.

    Args:
        model: the autoencoder.
        loss: weights of the terms.
        options, seed: see `StepTraining`.
        crop: voxels of a crop along I, J, K; whole volumes are at least as large.
        perceptual: settings of that term, or None.
        adversarial: settings of that term, or None.

    Raises:
        UserError: a term does not fit, or its network cannot be read.
    """

    def __init__(
        self,
        model: Autoencoder,
        loss: AutoencoderLoss,
        options: Training,
        seed: int,
        crop: Shape3,
        perceptual: Perceptual | None = None,
        adversarial: Adversarial | None = None,
    ):
        super().__init__(model, model.matrix_parameters(), options, seed, min(crop) // model.factor, model.residual_blocks())
        self.loss = loss
        self.perceptual = PerceptualTerm(perceptual, seed) if perceptual else None
        self.adversary = AdversarialTerm(adversarial, model.image_channels, crop, seed) if adversarial else None
        if model.label_count or (adversarial and adversarial.adaptive):
            model.last_layer  # noqa: B018  (a model without one is refused now, not when it is wanted)
        self.latest: tuple[Tensor, Tensor] | None = None  # posterior of the last batch

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One batch of crops: image [B C I J K], label map [B 1 I J K]."""
        image, label = batch
        mean, std = self.model.posterior(self.model.join(image, label))
        quantised = self._quantise(mean)
        noise = torch.randn(mean.shape, generator=keyed(self.seed, "posterior", self.global_step)).to(mean)
        decoded = self.model.decode_raw(mean + std * noise)
        self.latest = mean.detach(), std.detach()
        terms = self.loss(decoded, image, label if self.model.label_count else None, mean, std, self.global_step, quantised)
        if self.perceptual:
            terms["perceptual"] = self.perceptual(image, decoded[:, : image.shape[1]], self.global_step)
        contest = self._contest(image, decoded[:, : image.shape[1]], terms)
        self.note(terms | contest, "train/")
        contest.pop("adaptive_weight", None)
        return torch.stack([*terms.values(), *contest.values()]).sum()

    def companions(self) -> list[Companion]:
        """The discriminators, if there are any."""
        return [self.adversary.companion()] if self.adversary else []

    def _contest(self, image: Tensor, reconstruction: Tensor, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the adversary adds to the loss, and how it is weighted; nothing before its first step."""
        if not self.adversary or self.global_step < self.adversary.settings.start:
            return {}
        others = torch.stack([terms[name] for name in IMAGE_TERMS if name in terms]).sum()
        return self.adversary(image, reconstruction, others, self.model)

    def _quantise(self, mean: Tensor) -> Tensor | None:
        """Let a quantised autoencoder learn from latents, and say what its codes make of them; None for others."""
        if not isinstance(self.model, QuantizedAutoencoder):
            return None
        self.model.learn_codes(mean.detach(), keyed(self.seed, "codes", self.global_step))
        self.note({"perplexity": self.model.perplexity.mean()}, "train/")
        return self.model.quantise(mean)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """PSNR of whole volumes, in dB for the range [-1, 1]."""
        image, label = batch
        reconstruction, _ = self.model.split(self.model.reconstruct(self.model.join(image, label)))
        self.note_mean("val/psnr", 10 * torch.log10(4 / F.mse_loss(reconstruction, image)), batch_idx)

    def concerns(self) -> list[str]:
        """What is wrong with the contest and with the latents of the last batch, one sentence each."""
        contest = self.adversary.concerns() if self.adversary else []
        return contest + self._concerns_of_latents()

    def _concerns_of_latents(self) -> list[str]:
        if self.latest is None:
            return []
        mean, std = self.latest
        if isinstance(self.model, QuantizedAutoencoder):
            return _concerns_of_codes(self.model, mean)
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


def _concerns_of_codes(model: QuantizedAutoencoder, latents: Tensor) -> list[str]:
    """What is wrong with codebooks and the latents [B c i j k] that they stand for."""
    share, spread = model.perplexity / model.codes, latents.float().std((0, 2, 3, 4))
    said = []
    if few := (share < UNUSED).nonzero().flatten().tolist():
        used = ", ".join(f"{number:.3g}" for number in model.perplexity[few].tolist())
        said.append(f"codebooks {few} are hardly used: as if they had {used} of {model.codes} codes. Lower model.codes, or raise model.groups.")
    if far := (spread > FAR).nonzero().flatten().tolist():
        said.append(f"latent channels {far} spread by more than {FAR:g}: raise loss.commitment, or lower training.learning_rate.")
    return said
