"""MONAI's `AutoencoderKL` behind the same base."""

import torch
from torch import Tensor, nn

from medldm.errors import UserError
from medldm.models.autoencoder import Autoencoder
from medldm.models.tiling.parts import Conv, Layer, Norm, Residual, Upsample, Whole


class MonaiAutoencoder(Autoencoder):
    """MONAI's Gaussian autoencoder (Rombach et al. 2022, in three dimensions); its first level works at full resolution.

    Args:
        image_channels: contrasts of the image.
        label_count: structures coded together with the image.
        latent_channels: numbers per latent cell.
        channels: per level, multiples of `groups`; the factor is 2^(levels - 1).
        blocks: residual blocks per level.
        groups: of the group normalisation.
        attention: self-attention at the lowest level.
    """

    def __init__(
        self,
        image_channels: int,
        label_count: int,
        latent_channels: int = 4,
        channels: tuple[int, ...] = (32, 64, 64),
        blocks: int = 1,
        groups: int = 16,
        attention: bool = False,
    ):
        super().__init__(image_channels, label_count, latent_channels, factor=2 ** (len(channels) - 1))
        if any(c % groups for c in channels):
            raise UserError(f"channels={tuple(channels)}: each must be a multiple of groups={groups}.")
        self.channels, self.blocks, self.groups, self.attention = tuple(channels), blocks, groups, attention
        from monai.networks.nets import AutoencoderKL

        self.net = AutoencoderKL(
            spatial_dims=3,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            num_res_blocks=[blocks] * len(channels),
            channels=self.channels,
            attention_levels=[False] * (len(channels) - 1) + [attention],
            latent_channels=latent_channels,
            norm_num_groups=groups,
            with_encoder_nonlocal_attn=attention,
            with_decoder_nonlocal_attn=attention,
            use_flash_attention=True,
        )

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Autoencoder.posterior`."""
        mean, std = self.net.encode(x)
        return mean.float(), std.float()

    def decode_raw(self, z: Tensor) -> Tensor:
        """See `Autoencoder.decode_raw`."""
        return self.net.decode(z).float()

    def posterior_of(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """See `Autoencoder.posterior_of`."""
        mean, log_variance = self.net.quant_conv_mu(h), self.net.quant_conv_log_sigma(h).clamp(-30.0, 20.0)
        return mean.float(), torch.exp(log_variance / 2).float()

    def encoder_layers(self) -> list[Layer]:
        """See `Autoencoder.encoder_layers`."""
        return [_layer(block) for block in self.net.encoder.blocks]

    def decoder_layers(self) -> list[Layer]:
        """See `Autoencoder.decoder_layers`."""
        return [_layer(block) for block in [self.net.post_quant_conv, *self.net.decoder.blocks]]

    def matrix_parameters(self) -> list[nn.Parameter]:
        """Convolutions between the first and the last of encoder and decoder."""
        inner = [*self.net.encoder.blocks[1:-1], *self.net.decoder.blocks[1:-1]]
        return [p for module in inner for p in module.parameters() if p.ndim > 1]


def _layer(block: nn.Module) -> Layer:
    """A block of MONAI's encoder or decoder as a layer of fields."""
    kind = type(block).__name__
    if kind == "AEKLResBlock":
        shortcut = getattr(block.nin_shortcut, "conv", None)
        return Residual((block.norm1, block.conv1.conv), (block.norm2, block.conv2.conv), shortcut)
    if kind == "AEKLDownsample":
        return Conv(block.conv.conv, behind=True)
    if kind == "UpSample":
        return Upsample(block.postconv.conv)
    if kind == "SpatialAttentionBlock":
        return Whole(block)
    return Norm(block, silu=False) if isinstance(block, nn.GroupNorm) else Conv(block.conv)
