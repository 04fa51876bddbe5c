"""Terms of the autoencoder's loss. All take and give float32; all but the Dice term are means over voxels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class AutoencoderLoss:
    """Weights of the terms; the image term |r - x| has weight 1.

    Args:
        gradient: of the L1 distance between forward differences along I, J, K.
        cross_entropy: of the class logits against the label map.
        dice: of 1 - soft Dice of the foreground structures over the batch.
        kl: of the divergence from N(0, 1) per latent number.
    """

    gradient: float = 1.0
    cross_entropy: float = 0.5
    dice: float = 0.1
    kl: float = 3e-4

    def __call__(self, decoded: Tensor, image: Tensor, label: Tensor | None, mean: Tensor, std: Tensor) -> dict[str, Tensor]:
        """The weighted terms by name; their sum is the loss.

        Args:
            decoded: image channels and class logits [B C' I J K].
            image: [B C I J K].
            label: label map [B 1 I J K], or None in image-only mode.
            mean, std: posterior of the latents [B c i j k].
        """
        reconstruction, logits = decoded[:, : image.shape[1]], decoded[:, image.shape[1] :]
        terms = {
            "image": (reconstruction - image).abs().mean(),
            "gradient": self.gradient * gradient_l1(reconstruction, image),
            "kl": self.kl * kl_from_normal(mean, std).mean(),
        }
        if label is not None:
            terms["cross_entropy"] = self.cross_entropy * F.cross_entropy(logits, label[:, 0].long())
            terms["dice"] = self.dice * (1 - soft_dice(logits, label))
        return terms


def gradient_l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean over I, J, K of the mean absolute difference between the forward differences of a and b [B C I J K]."""
    difference = a - b
    return torch.stack([difference.diff(dim=axis).abs().mean() for axis in (2, 3, 4)]).mean()


def kl_from_normal(mean: Tensor, std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(0, 1)) = (mean^2 + std^2 - log std^2 - 1) / 2 per element (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean**2 + std**2 - 2 * std.log() - 1)


def soft_dice(logits: Tensor, label: Tensor, smooth: float = 1.0) -> Tensor:
    """Mean soft Dice of the foreground classes over the batch (Milletari et al. 2016).

    Args:
        logits: [B K+1 I J K], background first.
        label: [B 1 I J K] with values 0..K.
        smooth: voxels added to both sums, so that an absent structure scores 1 when it is not predicted.
    """
    probability = logits.softmax(1)[:, 1:]
    truth = F.one_hot(label[:, 0].long(), logits.shape[1]).movedim(-1, 1)[:, 1:].to(probability.dtype)
    axes = (0, 2, 3, 4)
    overlap = 2 * (probability * truth).sum(axes) + smooth
    return (overlap / (probability.sum(axes) + truth.sum(axes) + smooth)).mean()
