"""Networks for denoisers: adapters that turn MONAI's networks into (x, t, vector) -> prediction."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from medldm.errors import UserError


class DenoisingNet(nn.Module, ABC):
    """A network that reads a noisy latent with its field of view and a context vector.

    Args:
        latent_channels: channels of the latent; one more, the field of view, comes in.
        width: length of the context vector.
    """

    def __init__(self, latent_channels: int, width: int):
        super().__init__()
        self.latent_channels, self.width = latent_channels, width

    @property
    @abstractmethod
    def multiple(self) -> int:
        """Latent sizes along i, j, k must be multiples of this."""

    @abstractmethod
    def forward(self, x: Tensor, t: Tensor, vector: Tensor) -> Tensor:
        """x [B c+1 i j k], t [B] in [0, 1], vector [B D] -> [B c i j k]."""

    def matrix_parameters(self) -> list[nn.Parameter]:
        """Weights that Muon may take; none unless a network says otherwise."""
        return []

    def residual_blocks(self) -> list[nn.Module]:
        """Modules that checkpointing computes again in the backward pass instead of keeping what is inside; none unless one says so."""
        return []


class UNet(DenoisingNet):
    """MONAI's `DiffusionModelUNet` in three dimensions, with scaled-dot-product attention.

    Args:
        latent_channels: channels of the latent.
        channels: per level, multiples of `groups`; each further level halves the grid.
        attention: per level, whether it has self-attention.
        blocks: residual blocks per level.
        head_channels: channels per attention head.
        width: length of the context vector.
        groups: of the group normalisation. Time and conditions enter as one number per channel in front of a normalisation,
            which takes away its mean per group: with as many groups as channels nothing of them is left.
    """

    def __init__(
        self,
        latent_channels: int,
        channels: tuple[int, ...] = (64, 128),
        attention: tuple[bool, ...] = (False, True),
        blocks: int = 1,
        head_channels: int = 32,
        width: int = 128,
        groups: int = 4,
    ):
        super().__init__(latent_channels, width)
        if len(attention) != len(channels):
            raise UserError(f"attention has {len(attention)} entries, channels {len(channels)}.", "Give one of each per level.")
        attends = [*attention[:-1], True]  # the middle block attends in any case, at the width of the last level
        heads = [min(c, head_channels) if has else c for c, has in zip(channels, attends, strict=True)]
        if any(c % groups or c % head for c, head in zip(channels, heads, strict=True)):
            raise UserError(
                f"channels={tuple(channels)}: multiples of groups={groups} were expected, with attention of head_channels={head_channels} too."
            )
        self.channels, self.attention, self.blocks = tuple(channels), tuple(attention), blocks
        self.head_channels, self.groups = head_channels, groups
        from monai.networks.nets import DiffusionModelUNet

        self.net = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=latent_channels + 1,
            out_channels=latent_channels,
            num_res_blocks=blocks,
            channels=self.channels,
            attention_levels=self.attention,
            num_head_channels=heads,
            norm_num_groups=groups,
            num_class_embeds=1,
            use_flash_attention=True,
        )
        # The class embedding is MONAI's door for a vector that is added to the time embedding; it is a table by default.
        embedding = channels[0] * 4
        self.net.class_embedding = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))

    @property
    def multiple(self) -> int:
        """See `DenoisingNet.multiple`."""
        return 2 ** (len(self.channels) - 1)

    def forward(self, x: Tensor, t: Tensor, vector: Tensor) -> Tensor:
        """See `DenoisingNet.forward`."""
        return self.net(x, timesteps=1000 * t.float(), class_labels=vector)

    def matrix_parameters(self) -> list[nn.Parameter]:
        """Convolutions and attention projections between the first and the last convolution."""
        inner = [self.net.down_blocks, self.net.middle_block, self.net.up_blocks]
        named = [(name, p) for module in inner for name, p in module.named_parameters()]
        return [p for name, p in named if p.ndim > 1 and "time_emb_proj" not in name]

    def residual_blocks(self) -> list[nn.Module]:
        """See `DenoisingNet.residual_blocks`."""
        return [module for module in self.net.modules() if type(module).__name__ == "DiffusionUNetResnetBlock"]
