"""Terms of the autoencoder's loss. All take and give float32; all but the Dice term are means over voxels."""

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from medldm.errors import UserError

WINDOW, DATA_RANGE = 7, 2.0  # of SSIM


@dataclass(frozen=True)
class AutoencoderLoss:
    """Weights of the terms; the image term |r - x| has weight 1.

    Args:
        gradient: of the L1 distance between forward differences along I, J, K.
        cross_entropy: of the class logits against the label map.
        dice: of 1 - soft Dice of the foreground structures over the batch.
        kl: of the divergence from N(0, 1) per latent number; not where latents are quantised.
        squared: of the mean squared error.
        spectral: of the L1 distance between amplitudes of the Fourier transform.
        ssim: of 1 - SSIM in windows of 7 voxels.
        free_bits: divergence in nats per latent number below which a channel is not pressed (Kingma et al. 2016, eq. 15).
        kl_warm_up: steps over which the weight of the divergence grows from nothing.
        commitment: of the mean squared distance between latents and their codes, where latents are quantised
            (van den Oord et al. 2017, eq. 3; only the encoder feels it).
    """

    gradient: float = 1.0
    cross_entropy: float = 0.5
    dice: float = 0.1
    kl: float = 3e-4
    squared: float = 0.0
    spectral: float = 0.0
    ssim: float = 0.0
    free_bits: float = 0.0
    kl_warm_up: int = 0
    commitment: float = 0.25

    def __post_init__(self):
        wrong = [f.name for f in fields(self) if not 0 <= getattr(self, f.name) < math.inf]
        if wrong:
            raise UserError(f"loss.{wrong[0]} is {getattr(self, wrong[0])}; a number of at least 0 was expected.")

    def __call__(
        self,
        decoded: Tensor,
        image: Tensor,
        label: Tensor | None,
        mean: Tensor,
        std: Tensor,
        step: int | None = None,
        quantised: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The weighted terms by name; their sum is the loss.

        Args:
            decoded: image channels and class logits [B C' I J K].
            image: [B C I J K].
            label: label map [B 1 I J K], or None in image-only mode.
            mean, std: posterior of the latents [B c i j k].
            step: of the training, counted from 0; None is after the warm-up.
            quantised: the codes nearest to `mean`, where latents are quantised; `std` is 0 then and has no divergence.
        """
        reconstruction, logits = decoded[:, : image.shape[1]], decoded[:, image.shape[1] :]
        warm = 1.0 if step is None or not self.kl_warm_up else min(1.0, step / self.kl_warm_up)
        terms = {
            "image": (reconstruction - image).abs().mean(),
            "gradient": self.gradient * gradient_l1(reconstruction, image),
        }
        if quantised is None:
            terms["kl"] = self.kl * warm * pressed(kl_from_normal(mean, std), self.free_bits)
        else:
            terms["commitment"] = self.commitment * F.mse_loss(mean, quantised.detach())
        further = {"squared": F.mse_loss, "spectral": spectral_l1, "ssim": one_minus_ssim}
        terms |= {name: getattr(self, name) * distance(reconstruction, image) for name, distance in further.items() if getattr(self, name)}
        if label is not None:
            terms["cross_entropy"] = self.cross_entropy * F.cross_entropy(logits, label[:, 0].long())
            terms["dice"] = self.dice * (1 - soft_dice(logits, label))
        return terms


def gradient_l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean over I, J, K of the mean absolute difference between the forward differences of a and b [B C I J K]."""
    difference = a - b
    return torch.stack([difference.diff(dim=axis).abs().mean() for axis in (2, 3, 4)]).mean()


def spectral_l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the amplitudes of the orthonormal Fourier transforms of a and b [B C I J K].

    It asks for as much fine detail as there is, wherever it lies, and so speaks against blur.
    """
    spectra = [torch.fft.rfftn(x.float(), dim=(2, 3, 4), norm="ortho").abs() for x in (a, b)]
    return (spectra[0] - spectra[1]).abs().mean()


def one_minus_ssim(a: Tensor, b: Tensor) -> Tensor:
    """1 - SSIM of a and b [B C I J K] with values in [-1, 1], mean over uniform windows of 7 voxels (Wang et al. 2004, eq. 13).

    Window sums go axis by axis: in backward a seventh of the time that a convolution with all 343 voxels takes.
    """
    c1, c2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2
    a, b = a.float(), b.float()
    mean_a, mean_b, aa, bb, ab = window_means(torch.cat([a, b, a * a, b * b, a * b], dim=1)).chunk(5, dim=1)
    variance, covariance = aa - mean_a**2 + bb - mean_b**2, ab - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((mean_a**2 + mean_b**2 + c1) * (variance + c2))
    return 1 - likeness.mean()


def window_means(x: Tensor) -> Tensor:
    """Means of x [B C I J K] over all whole windows of 7 x 7 x 7 voxels, or as many as the shortest axis holds."""
    size = min(WINDOW, *x.shape[2:])
    for window in ((size, 1, 1), (1, size, 1), (1, 1, size)):
        x = F.avg_pool3d(x, window, stride=1)
    return x


def pressed(divergence: Tensor, free_bits: float) -> Tensor:
    """Mean over channels of max(free_bits, mean divergence of the channel), for [B c i j k]."""
    return divergence.mean() if not free_bits else divergence.mean((0, 2, 3, 4)).clamp(min=free_bits).mean()


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
