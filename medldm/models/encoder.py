"""A small 3-D residual encoder whose features are learnt from a cohort itself, without labels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.errors import UserError
from medldm.models.feature_net import FeatureNet

GROUPS = 8


class NormedBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))); the second convolution starts at zero.

    Group normalisation, as features should depend little on the gain of a scanner.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(GROUPS, channels), nn.Conv3d(channels, channels, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(GROUPS, channels), nn.Conv3d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B C I J K] -> [B C I J K]."""
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class FeatureEncoder(FeatureNet):
    """Maps at 1/2, 1/2, 1/4 and 1/8 of the resolution; the first layer sees every voxel and leaves half the grid, so no wide layer is large.

    Args:
        channels: contrasts of the image.
        widths: channels from half resolution downwards, multiples of 8.
        blocks: residual blocks per resolution.
    """

    def __init__(self, channels: int, widths: tuple[int, ...] = (32, 64, 128), blocks: int = 1):
        super().__init__("selfsupervised_3d", 3, channels)
        if not widths or any(w < GROUPS or w % GROUPS for w in widths) or blocks < 1:
            raise UserError(f"widths={tuple(widths)}, blocks={blocks}: multiples of {GROUPS} and at least one block are needed.")
        self.widths, self.blocks = tuple(widths), blocks
        self.stem = nn.Conv3d(channels, widths[0], 4, stride=2, padding=1)
        self.stages = nn.ModuleList()
        for narrow, wide in zip((0, *widths), widths, strict=False):
            down = [nn.GroupNorm(GROUPS, narrow), nn.SiLU(), nn.Conv3d(narrow, wide, 3, stride=2, padding=1)] if narrow else []
            self.stages.append(nn.Sequential(*down, *(NormedBlock(wide) for _ in range(blocks))))

    @property
    def factor(self) -> int:
        """Voxels per cell of the coarsest level along each axis."""
        return 2 ** len(self.widths)

    @property
    def features(self) -> int:
        """Length of `vector`."""
        return self.widths[0] + sum(self.widths)

    def levels(self, x: Tensor) -> list[Tensor]:
        """See `FeatureNet.levels`."""
        found = [self.stem(x)]
        for stage in self.stages:
            found.append(stage(found[-1]))
        return [F.silu(level) for level in found]

    def pooled(self, levels: list[Tensor]) -> Tensor:
        """Means over places of every level, one after the other: the fine ones know texture, the coarse ones anatomy."""
        return torch.cat([level.flatten(2).float().mean(2) for level in levels], 1)

    def matrix_parameters(self) -> list[nn.Parameter]:
        """Weights that Muon may take: all convolutions but the first."""
        return [p for p in self.stages.parameters() if p.ndim > 1]

    def residual_blocks(self) -> list[nn.Module]:
        """Modules that checkpointing computes again in the backward pass."""
        return [module for module in self.modules() if isinstance(module, NormedBlock)]
