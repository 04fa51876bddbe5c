"""A denoiser of voxels that is shown a first estimate of the image, and knows the detail which that leaves out."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.errors import UserError
from medldm.models.autoencoder import pad_to_multiple
from medldm.models.shuffle import shuffle, unshuffle

FREQUENCIES = 4


class NoiseBlock(nn.Module):
    """x + conv(silu(conv(silu(x)) (1 + a))), a one number per channel made of the noise level; the second convolution starts at zero."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv3d(channels, channels, 3, padding=1), nn.Conv3d(channels, channels, 3, padding=1)
        self.gain = nn.Linear(width, channels)
        for parameter in (self.conv2.weight, self.conv2.bias, self.gain.weight, self.gain.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """[B C I J K] and [B width] -> [B C I J K]."""
        gain = 1 + self.gain(level)[:, :, None, None, None]
        return x + self.conv2(F.silu(self.conv1(F.silu(x)) * gain))


class Restorer(nn.Module):
    """E[x | x + s n, g] for noise levels s and a guide g, such as a linear reconstruction or the decoded latents of x.

    With r the deviation of x - g: x = g + r^2 / (r^2 + s^2) (noisy - g) + s r (r^2 + s^2)^(-1/2) F, so that the network F has to say only what
    the best linear estimate does not (Karras et al. 2022, table 1, around a guide). All wide layers run at half resolution.

    Args:
        image_channels: contrasts of the image, in [-1, 1].
        residual: r, root mean square of x - g over the training cases.
        width: channels of the blocks.
        blocks: residual blocks.
    """

    def __init__(self, image_channels: int, residual: float = 0.15, width: int = 64, blocks: int = 6):
        super().__init__()
        if image_channels < 1 or not 0 < residual < math.inf or width < 1 or blocks < 1:
            raise UserError(f"image_channels={image_channels}, residual={residual}, width={width}, blocks={blocks} must be positive.")
        self.image_channels, self.residual, self.width, self.blocks = image_channels, residual, width, blocks
        self.stem = nn.Conv3d(16 * image_channels, width, 3, padding=1)
        self.level = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.body = nn.ModuleList(NoiseBlock(width, width) for _ in range(blocks))
        self.head = nn.Conv3d(width, 8 * image_channels, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, noisy: Tensor, sigma: Tensor, guide: Tensor) -> Tensor:
        """Clean images.

        Args:
            noisy: images [B C I J K] of any size of at least 2.
            sigma: noise levels [B].
            guide: [B C I J K].
        """
        s = sigma.to(noisy.dtype).reshape(-1, 1, 1, 1, 1)
        whole = (s.square() + self.residual**2).sqrt()
        return guide + self.residual**2 / whole.square() * (noisy - guide) + s * self.residual / whole * self.network(noisy, sigma, guide)

    def network(self, noisy: Tensor, sigma: Tensor, guide: Tensor) -> Tensor:
        """F, about white and of variance 1 [B C I J K]."""
        s = sigma.to(noisy.dtype).reshape(-1, 1, 1, 1, 1)
        scaled = (noisy - guide) / (s.square() + self.residual**2).sqrt()
        padded, crop = pad_to_multiple(torch.cat([scaled, guide], 1), 2)
        h, level = self.stem(unshuffle(padded)), self.level(self._waves(sigma).to(noisy.dtype))
        for block in self.body:
            h = block(h, level)
        return shuffle(self.head(F.silu(h)))[(..., *crop)].to(noisy.dtype)

    def target(self, clean: Tensor, noisy: Tensor, sigma: Tensor, guide: Tensor) -> Tensor:
        """What F should be."""
        s = sigma.to(clean.dtype).reshape(-1, 1, 1, 1, 1)
        whole = (s.square() + self.residual**2).sqrt()
        return (clean - guide - self.residual**2 / whole.square() * (noisy - guide)) * whole / (s * self.residual)

    def matrix_parameters(self) -> list[nn.Parameter]:
        """Weights that Muon may take: convolutions of the blocks."""
        return [p for block in self.body for p in (block.conv1.weight, block.conv2.weight)]

    def residual_blocks(self) -> list[nn.Module]:
        """Modules that checkpointing computes again in the backward pass."""
        return list(self.body)

    @staticmethod
    def _waves(sigma: Tensor) -> Tensor:
        """The noise level as waves of its logarithm [B 2 x frequencies]."""
        angles = sigma.float().log()[:, None] * 2.0 ** torch.arange(-2, FREQUENCIES - 2, device=sigma.device)
        return torch.cat([angles.sin(), angles.cos()], 1)
