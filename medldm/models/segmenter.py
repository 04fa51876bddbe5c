"""A network that finds the structures of an image, for downstream tests and for label maps that are missing."""

import torch
from torch import Tensor, nn

from medldm.errors import UserError
from medldm.models.autoencoder import pad_to_multiple


class Segmenter(nn.Module):
    """MONAI's residual 3-D U-Net with instance normalisation (Kerfoot et al. 2018).

    Args:
        image_channels: contrasts of the image.
        label_count: structures, background left out.
        widths: channels at 1/2, 1/4, 1/8 ... of the resolution.
        blocks: convolutions per residual unit.

    Raises:
        UserError: a number is out of its range.
    """

    def __init__(self, image_channels: int, label_count: int, widths: tuple[int, ...] = (32, 64, 128), blocks: int = 2):
        super().__init__()
        if len(widths) < 2 or min(widths) < 1 or blocks < 1 or label_count < 1:
            found = f"widths={tuple(widths)}, blocks={blocks}, {label_count} labels"
            raise UserError(f"{found}: at least two widths, one block and one label are needed.")
        from monai.networks.nets import UNet

        self.image_channels, self.label_count, self.widths, self.blocks = image_channels, label_count, tuple(widths), blocks
        steps = (2,) * (len(widths) - 1)
        self.net = UNet(3, image_channels, label_count + 1, widths, steps, num_res_units=blocks, norm="INSTANCE")

    @property
    def factor(self) -> int:
        """Voxels per cell of the coarsest level along each axis."""
        return 2 ** (len(self.widths) - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B C I J K] of whole cells to logits [B 1 + labels I J K], background first."""
        return self.net(x)

    @torch.no_grad()
    def probabilities(self, image: Tensor) -> Tensor:
        """Share of each class at each voxel [B 1 + labels I J K] of images [B C I J K] of any size, in about [-1, 1]."""
        padded, crop = pad_to_multiple(image, self.factor)
        return self(padded)[(..., *crop)].float().softmax(1)

    def matrix_parameters(self) -> list[nn.Parameter]:
        """Weights that Muon may take: all convolutions but those that read images and write logits."""
        weights = [p for p in self.net.parameters() if p.ndim > 2]
        return [p for p in weights if p.shape[1] > self.image_channels and min(p.shape[:2]) > self.label_count + 1]
