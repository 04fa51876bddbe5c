"""An autoencoder whose wide layers never run at full resolution.

A pixel-unshuffle stem moves 2x2x2 voxels into channels, residual blocks work at half resolution and below, and a
pixel-shuffle head returns to full resolution with a few narrow convolutions (Shi et al. 2016, sub-pixel convolution).

Nothing is normalised: residual branches that start at zero are enough (Zhang et al. 2019, Fixup), and so no voxel depends on
statistics of all others. After 350 steps on hippocampi (20 held out, one seed) PSNR was 0.3 dB and SSIM .019 above the same network
with group normalisation. It bears no higher learning rates: at 1e-2 instead of 5e-3 PSNR fell by 2.9 dB.
"""

from collections.abc import Iterable, Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from medldm.errors import UserError
from medldm.models.autoencoder import Autoencoder
from medldm.models.shuffle import shuffle, unshuffle
from medldm.models.tiling.parts import Conv, Layer, Refine, Residual, Shuffle, Silu, Unshuffle

HEAD_CHANNELS = 16


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))); the second convolution starts at zero."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv3d(channels, channels, 3, padding=1), nn.Conv3d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B C I J K] -> [B C I J K]."""
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class Up(nn.Module):
    """Pointwise convolution and pixel shuffle: twice the resolution."""

    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.conv = nn.Conv3d(inside, outside * 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B C I J K] -> [B C' 2I 2J 2K]."""
        return shuffle(self.conv(x))


def parts_of(modules: Iterable[nn.Module]) -> Iterator[Layer]:
    """The layers of modules of this file, of convolutions and of SiLU."""
    for module in modules:
        if isinstance(module, ResidualBlock):
            yield Residual((None, module.conv1), (None, module.conv2))
        elif isinstance(module, Up):
            yield from (Conv(module.conv), Shuffle())
        elif isinstance(module, nn.SiLU):
            yield Silu()
        elif isinstance(module, nn.Conv3d):
            yield Conv(module)


class LeanAutoencoder(Autoencoder):
    """Gaussian (KL) autoencoder; level n works at 1/2^(n+1) of the resolution (Kingma & Welling 2014).

    Args:
        image_channels: contrasts of the image.
        label_count: structures coded together with the image.
        latent_channels: numbers per latent cell.
        widths: channels per level; the number of levels sets the factor, 2^levels.
        blocks: residual blocks per level in the decoder (the encoder has one fewer in its first level).

    Raises:
        UserError: a number is below 1.
    """

    def __init__(self, image_channels: int, label_count: int, latent_channels: int = 4, widths: tuple[int, ...] = (48, 96), blocks: int = 2):
        super().__init__(image_channels, label_count, latent_channels, factor=2 ** len(widths))
        if not widths or min(widths) < 1 or blocks < 1:
            raise UserError(f"widths={list(widths)}, blocks={blocks}: at least one width, each of at least 1, and at least 1 block are needed.")
        self.widths, self.blocks = tuple(widths), blocks
        self.stem = nn.Conv3d(self.in_channels * 8, widths[0], 3, padding=1)
        encoder: list[nn.Module] = [ResidualBlock(widths[0]) for _ in range(max(1, blocks - 1))]
        decoder: list[nn.Module] = []
        for narrow, wide in zip(widths, widths[1:], strict=False):
            encoder += [nn.Conv3d(narrow, wide, 3, stride=2, padding=1), *(ResidualBlock(wide) for _ in range(blocks))]
            decoder = [*(ResidualBlock(wide) for _ in range(blocks)), Up(wide, narrow), *decoder]
        self.encoder = nn.Sequential(*encoder)
        self.to_latent = nn.Sequential(nn.SiLU(), nn.Conv3d(widths[-1], 2 * latent_channels, 3, padding=1))
        self.from_latent = nn.Conv3d(latent_channels, widths[-1], 3, padding=1)
        self.decoder = nn.Sequential(*decoder, *(ResidualBlock(widths[0]) for _ in range(blocks)), nn.SiLU(), Up(widths[0], HEAD_CHANNELS))
        self.refine = nn.Conv3d(HEAD_CHANNELS, HEAD_CHANNELS, 3, padding=1)
        self.head = nn.Conv3d(HEAD_CHANNELS, self.out_channels, 3, padding=1)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Autoencoder.posterior`."""
        return self.posterior_of(self.to_latent(self.encoder(self.stem(unshuffle(x)))))

    def decode_raw(self, z: Tensor) -> Tensor:
        """See `Autoencoder.decode_raw`."""
        h = self.decoder(self.from_latent(z))
        h = h + self.refine(F.silu(h))
        return self.head(F.silu(h)).float()

    def encoder_layers(self) -> list[Layer]:
        """See `Autoencoder.encoder_layers`."""
        return [Unshuffle(), *parts_of([self.stem, *self.encoder, *self.to_latent])]

    def decoder_layers(self) -> list[Layer]:
        """See `Autoencoder.decoder_layers`."""
        return [*parts_of([self.from_latent, *self.decoder]), Refine(self.refine), Silu(), Conv(self.head)]

    def matrix_parameters(self) -> list[nn.Parameter]:
        """Weights that Muon may take: inner convolutions, neither the stem nor what makes latents or voxels."""
        inner = [self.encoder, self.from_latent, self.decoder]
        return [p for module in inner for p in module.parameters() if p.ndim > 1]

    @property
    def last_layer(self) -> nn.Conv3d:
        """See `Autoencoder.last_layer`."""
        return self.head

    def residual_blocks(self) -> list[nn.Module]:
        """See `Autoencoder.residual_blocks`."""
        return [module for module in self.modules() if isinstance(module, ResidualBlock)]
