"""MONAI's `AutoencoderKL` behind the same base."""

import math

import torch
from torch import Tensor, nn

from medldm.errors import UserError
from medldm.models.autoencoder import Autoencoder
from medldm.models.tiling.parts import Conv, Layer, Norm, Rescale, Residual, Upsample, Whole

UPSAMPLING = ("nearest", "trilinear")


class MonaiAutoencoder(Autoencoder):
    """MONAI's Gaussian autoencoder (Rombach et al. 2022, in three dimensions); its first level works at full resolution.

    With channels [64, 128, 256], blocks 2, groups 32, trilinear upsampling and intensities [0, 1] it is the autoencoder of MAISI
    (Guo et al. 2024). `load_weights` says which settings a file needs.

    Args:
        image_channels: contrasts of the image.
        label_count: structures coded together with the image.
        latent_channels: numbers per latent cell.
        channels: per level, multiples of `groups`; the factor is 2^(levels - 1).
        blocks: residual blocks per level, or one number for all.
        groups: of the group normalisation.
        attention: self-attention per level, or at the lowest level if true.
        middle_attention: self-attention between the lowest level and the latents; by default where a level has some.
        upsampling: what stands before the convolutions that enlarge: "nearest" (MONAI) or "trilinear" (MAISI).
        intensities: range of the image that the network itself works in. The image stays in [-1, 1] outside; it is mapped in
            front of the encoder and back behind the decoder, labels are not. [0, 1] for weights that were trained so.

    Raises:
        UserError: settings contradict each other.
    """

    def __init__(
        self,
        image_channels: int,
        label_count: int,
        latent_channels: int = 4,
        channels: tuple[int, ...] = (32, 64, 64),
        blocks: int | tuple[int, ...] = 1,
        groups: int = 16,
        attention: bool | tuple[bool, ...] = False,
        middle_attention: bool | None = None,
        upsampling: str = "nearest",
        intensities: tuple[float, float] = (-1.0, 1.0),
    ):
        super().__init__(image_channels, label_count, latent_channels, factor=2 ** (len(channels) - 1))
        self.channels, self.groups, self.upsampling = tuple(channels), groups, upsampling
        self.blocks = blocks if isinstance(blocks, int) else tuple(blocks)
        self.attention = attention if isinstance(attention, bool) else tuple(attention)
        self.middle_attention, self.intensities = middle_attention, tuple(intensities)
        self._check()
        self.net = self._network()
        low, high = self.intensities
        self.inward = Rescale(image_channels, (high - low) / 2, (high + low) / 2)
        self.outward = Rescale(image_channels, 2 / (high - low), -(high + low) / (high - low))
        self.rescales = self.intensities != (-1.0, 1.0)

    def _network(self) -> nn.Module:
        from monai.networks.nets import AutoencoderKL

        levels = len(self.channels)
        attention = (*[False] * (levels - 1), self.attention) if isinstance(self.attention, bool) else self.attention
        middle = any(attention) if self.middle_attention is None else self.middle_attention
        net = AutoencoderKL(
            spatial_dims=3,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            num_res_blocks=self.blocks if isinstance(self.blocks, tuple) else [self.blocks] * levels,
            channels=self.channels,
            attention_levels=attention,
            latent_channels=self.latent_channels,
            norm_num_groups=self.groups,
            with_encoder_nonlocal_attn=middle,
            with_decoder_nonlocal_attn=middle,
            use_flash_attention=True,
        )
        for block in net.decoder.blocks:
            if type(block).__name__ == "UpSample":
                block.upsample_non_trainable.mode = self.upsampling
        return net

    def _check(self) -> None:
        """Settings that MONAI would refuse with a traceback, or take and fail later."""
        levels = len(self.channels)
        if self.groups < 1 or not levels or any(c < 1 or c % self.groups for c in self.channels):
            raise UserError(f"channels={self.channels}: at least one level, each a multiple of groups={self.groups}, was expected.")
        per_level = self.blocks if isinstance(self.blocks, tuple) else (self.blocks,) * levels
        if len(per_level) != levels or min(per_level) < 1:
            raise UserError(f"blocks={self.blocks}: one number, or one of at least 1 for each of {levels} levels, was expected.")
        if isinstance(self.attention, tuple) and len(self.attention) != levels:
            raise UserError(f"attention={self.attention}: true, false, or one of them for each of {levels} levels was expected.")
        if self.upsampling not in UPSAMPLING:
            raise UserError(f"upsampling={self.upsampling!r} is none of {', '.join(UPSAMPLING)}.")
        if len(self.intensities) != 2 or not all(map(math.isfinite, self.intensities)) or self.intensities[0] >= self.intensities[1]:
            raise UserError(f"intensities={self.intensities}: two numbers, the lower one first, were expected.")

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Autoencoder.posterior`."""
        mean, std = self.net.encode(self.inward.apply(x) if self.rescales else x)
        return mean.float(), std.float()

    def decode_raw(self, z: Tensor) -> Tensor:
        """See `Autoencoder.decode_raw`."""
        decoded = self.net.decode(z).float()
        return self.outward.apply(decoded) if self.rescales else decoded

    def posterior_of(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """See `Autoencoder.posterior_of`."""
        mean, log_variance = self.net.quant_conv_mu(h), self.net.quant_conv_log_sigma(h).clamp(-30.0, 20.0)
        return mean.float(), torch.exp(log_variance / 2).float()

    def encoder_layers(self) -> list[Layer]:
        """See `Autoencoder.encoder_layers`."""
        layers = [_layer(block) for block in self.net.encoder.blocks]
        return [self.inward, *layers] if self.rescales else layers

    def decoder_layers(self) -> list[Layer]:
        """See `Autoencoder.decoder_layers`."""
        layers = [_layer(block) for block in [self.net.post_quant_conv, *self.net.decoder.blocks]]
        return [*layers, self.outward] if self.rescales else layers

    def matrix_parameters(self) -> list[nn.Parameter]:
        """Convolutions between the first and the last of encoder and decoder."""
        inner = [*self.net.encoder.blocks[1:-1], *self.net.decoder.blocks[1:-1]]
        return [p for module in inner for p in module.parameters() if p.ndim > 1]

    @property
    def last_layer(self) -> nn.Conv3d:
        """See `Autoencoder.last_layer`."""
        return self.net.decoder.blocks[-1].conv

    def residual_blocks(self) -> list[nn.Module]:
        """See `Autoencoder.residual_blocks`."""
        return [module for module in self.net.modules() if type(module).__name__ == "AEKLResBlock"]


def _layer(block: nn.Module) -> Layer:
    """A block of MONAI's encoder or decoder as a layer of fields."""
    kind = type(block).__name__
    if kind == "AEKLResBlock":
        shortcut = getattr(block.nin_shortcut, "conv", None)
        return Residual((block.norm1, block.conv1.conv), (block.norm2, block.conv2.conv), shortcut)
    if kind == "AEKLDownsample":
        return Conv(block.conv.conv, behind=True)
    if kind == "UpSample":
        return Upsample(block.postconv.conv, trilinear=block.upsample_non_trainable.mode == "trilinear")
    if kind == "SpatialAttentionBlock":
        return Whole(block)
    return Norm(block, silu=False) if isinstance(block, nn.GroupNorm) else Conv(block.conv)
