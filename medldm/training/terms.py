"""Terms of an autoencoder's loss for which another network is asked: discriminators, which learn beside it, and frozen features."""

import torch
from torch import Tensor, nn

from medldm.models.adversarial import Adversarial, balance, fooling, hinge, with_gradient
from medldm.models.autoencoder import Autoencoder
from medldm.models.perceptual import Perceptual
from medldm.randomness import keyed, seeded
from medldm.training.base import Companion
from medldm.types import Shape3

BEATEN = 0.1  # of the hinge loss, which is 2 for discriminators that know nothing
MEMORY = 100  # steps


class Asked:
    """Holds a network that is no part of the training module: neither averaged, nor saved with the model, nor copied."""

    def __deepcopy__(self, memo: dict) -> "Asked":
        return self


class PerceptualTerm(Asked):
    """The weighted distance between features of reconstruction and image.

    Args:
        settings: of the term.
        seed: decides the slices that are looked at.
    """

    def __init__(self, settings: Perceptual, seed: int):
        self.weight, self.distance, self.seed = settings.weight, settings.load(), seed

    def __call__(self, image: Tensor, reconstruction: Tensor, step: int) -> Tensor:
        """A scalar.

        Args:
            image, reconstruction: [B C I J K] in about [-1, 1].
            step: of the training, counted from 0.
        """
        seen = reconstruction.detach().requires_grad_()
        value = self.weight * self.distance(seen, image, keyed(self.seed, "perceptual", step))
        return with_gradient(value, torch.autograd.grad(value, seen)[0], reconstruction)


class AdversarialTerm(Asked):
    """Discriminators that are trained on the reconstructions of the very step whose autoencoder they judge.

    Both updates of a step are those of an alternating training with two optimizers: the autoencoder's gradient comes from the
    discriminators as they were before the step, and the discriminators' from the reconstructions as they are.

    Args:
        settings: of the term.
        image_channels: contrasts of the image.
        crop: voxels along I, J, K of the smallest volume in training.
        seed: decides initial weights.
    """

    def __init__(self, settings: Adversarial, image_channels: int, crop: Shape3, seed: int):
        self.settings, self.coarsest = settings, settings.coarsest(crop)
        with seeded(seed, "discriminator"):
            self.network: nn.Module = settings.build(image_channels)
        # moving average of the discriminators' loss, from that of ones that know nothing; a buffer, so that it is in checkpoints
        self.network.register_buffer("level", torch.tensor(2.0))

    def companion(self) -> Companion:
        """What the optimizer has to know."""
        return Companion("discriminator", self.network, self.settings.start, self.settings.learning_rate, (0.5, 0.9))

    def __call__(self, image: Tensor, reconstruction: Tensor, others: Tensor, model: Autoencoder) -> dict[str, Tensor]:
        """The weighted "adversarial" term, the loss of the "discriminator", and the "adaptive_weight" within the term.

        Args:
            image, reconstruction: [B C I J K] in about [-1, 1].
            others: sum of the other image terms, scalar.
            model: whose last layer balances them.
        """
        seen = reconstruction.detach().requires_grad_()
        device = image.device.type
        # oneDNN's bf16 weight gradients are wrong where few places are left, see `resolve_precision`
        narrow = torch.is_autocast_enabled(device) and (image.is_cuda or self.coarsest >= 3)
        with torch.autocast(device, enabled=narrow):
            scores, _ = self.network(torch.cat([image, seen]))
        real, fake = zip(*(score.float().chunk(2) for score in scores), strict=True)
        value = fooling(fake)
        slope = torch.autograd.grad(value, seen, retain_graph=True)[0]
        sound = value.isfinite() & slope.isfinite().all()  # discriminators that have run away are no reason to skip the autoencoder's step
        term = with_gradient(torch.where(sound, value, 0), torch.where(sound, slope, 0), reconstruction)
        adaptive = balance(others, term, model.last_layer.weight) if self.settings.adaptive else torch.ones_like(term)
        loss = hinge(real, fake)
        self._watch(loss.detach())
        return {"adversarial": self.settings.weight * adaptive * term, "discriminator": loss, "adaptive_weight": adaptive}

    def _watch(self, loss: Tensor) -> None:
        level = self.network.level
        level.copy_(torch.where(loss.isfinite(), level.lerp(loss, 1 / MEMORY), level))

    def concerns(self) -> list[str]:
        """What is wrong with the contest, one sentence each."""
        if self.network.level >= BEATEN:
            return []
        return [
            "the discriminator tells all reconstructions from images, so that its term teaches little: "
            "lower adversarial.learning_rate, or set a later adversarial.start."
        ]
