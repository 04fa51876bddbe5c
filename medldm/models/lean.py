"""An autoencoder whose wide layers never run at full resolution.

A pixel-unshuffle stem moves 2x2x2 voxels into channels, residual blocks work at half resolution and below, and a
pixel-shuffle head returns to full resolution with a few narrow convolutions (Shi et al. 2016, sub-pixel convolution).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.models.autoencoder import Autoencoder

GROUPS = 8
HEAD_CHANNELS = 16
LOG_VARIANCE_RANGE = (-20.0, 5.0)


def unshuffle(x: Tensor, r: int = 2) -> Tensor:
    """[B C I J K] -> [B C*r^3 I/r J/r K/r]: every r x r x r block of voxels becomes channels."""
    b, c, i, j, k = x.shape
    x = x.reshape(b, c, i // r, r, j // r, r, k // r, r)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, c * r**3, i // r, j // r, k // r)


def shuffle(x: Tensor, r: int = 2) -> Tensor:
    """The inverse of `unshuffle`."""
    b, c, i, j, k = x.shape
    x = x.reshape(b, c // r**3, r, r, r, i, j, k)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, c // r**3, i * r, j * r, k * r)


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); the second convolution starts at zero."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(GROUPS, channels), nn.Conv3d(channels, channels, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(GROUPS, channels), nn.Conv3d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B C I J K] -> [B C I J K]."""
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class Up(nn.Module):
    """norm, silu, pointwise convolution and pixel shuffle: twice the resolution."""

    def __init__(self, inside: int, outside: int, normalise: bool):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, inside) if normalise else None
        self.conv = nn.Conv3d(inside, outside * 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B C I J K] -> [B C' 2I 2J 2K]."""
        return shuffle(self.conv(F.silu(self.norm(x)) if self.norm else x))


class LeanAutoencoder(Autoencoder):
    """Gaussian (KL) autoencoder; level n works at 1/2^(n+1) of the resolution (Kingma & Welling 2014).

    Args:
        image_channels: contrasts of the image.
        label_count: structures coded together with the image.
        latent_channels: numbers per latent cell.
        widths: channels per level, multiples of 8; the number of levels sets the factor, 2^levels.
        blocks: residual blocks per level in the decoder (the encoder has one fewer in its first level).
    """

    def __init__(self, image_channels: int, label_count: int, latent_channels: int = 4, widths: tuple[int, ...] = (40, 96), blocks: int = 2):
        super().__init__(image_channels, label_count, latent_channels, factor=2 ** len(widths))
        self.widths, self.blocks = tuple(widths), blocks
        self.stem = nn.Conv3d(self.in_channels * 8, widths[0], 3, padding=1)
        encoder: list[nn.Module] = [ResidualBlock(widths[0]) for _ in range(max(1, blocks - 1))]
        decoder: list[nn.Module] = []
        for narrow, wide in zip(widths, widths[1:], strict=False):
            encoder += [nn.Conv3d(narrow, wide, 3, stride=2, padding=1), *(ResidualBlock(wide) for _ in range(blocks))]
            decoder = [*(ResidualBlock(wide) for _ in range(blocks)), Up(wide, narrow, normalise=False), *decoder]
        self.encoder = nn.Sequential(*encoder)
        self.to_latent = nn.Sequential(nn.GroupNorm(GROUPS, widths[-1]), nn.SiLU(), nn.Conv3d(widths[-1], 2 * latent_channels, 3, padding=1))
        self.from_latent = nn.Conv3d(latent_channels, widths[-1], 3, padding=1)
        self.decoder = nn.Sequential(*decoder, *(ResidualBlock(widths[0]) for _ in range(blocks)), Up(widths[0], HEAD_CHANNELS, normalise=True))
        self.refine = nn.Conv3d(HEAD_CHANNELS, HEAD_CHANNELS, 3, padding=1)
        self.head = nn.Conv3d(HEAD_CHANNELS, self.out_channels, 3, padding=1)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Autoencoder.posterior`."""
        mean, log_variance = self.to_latent(self.encoder(self.stem(unshuffle(x)))).float().chunk(2, dim=1)
        return mean, torch.exp(0.5 * log_variance.clamp(*LOG_VARIANCE_RANGE))

    def decode_raw(self, z: Tensor) -> Tensor:
        """See `Autoencoder.decode_raw`."""
        h = self.decoder(self.from_latent(z))
        h = h + self.refine(F.silu(h))
        return self.head(F.silu(h)).float()

    def matrix_parameters(self) -> list[nn.Parameter]:
        """Weights that Muon may take: inner convolutions, neither the stem nor what makes latents or voxels."""
        inner = [self.encoder, self.from_latent, self.decoder]
        return [p for module in inner for p in module.parameters() if p.ndim > 1]
