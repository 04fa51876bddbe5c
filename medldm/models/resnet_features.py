"""Residual networks of others as feature networks: MedicalNet, RadImageNet and torchvision's ImageNet weights from local files.

The networks are MONAI's (He et al. 2016); what differs from the original code of the weights is put right here:
MedicalNet's third and fourth stages are dilated, not strided (Chen et al. 2019, section 3.2), and shortcuts without
parameters pass gradients on.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.errors import UserError
from medldm.models.feature_net import FeatureNet

#: (kind of block, blocks per stage) -> depth.
DEPTHS = {
    ("basic", (1, 1, 1, 1)): 10, ("basic", (2, 2, 2, 2)): 18, ("basic", (3, 4, 6, 3)): 34, ("bottleneck", (3, 4, 6, 3)): 50,
    ("bottleneck", (3, 4, 23, 3)): 101, ("bottleneck", (3, 8, 36, 3)): 152, ("bottleneck", (3, 24, 36, 3)): 200,
}  # fmt: skip
STEMS = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
HEADS = ("fc.", "conv_seg.")
IMAGENET_CLASSES = 1000
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEAST_SPREAD = 1e-3
WIDEST = 256  # channels of the stem, where known networks have 64; a hostile file could ask for any


class ResNetFeatures(FeatureNet):
    """A frozen residual network; its maps are those of the stem and of the four stages.

    Intensities: MedicalNet's networks see volumes of mean 0 and standard deviation 1 (its own data loader), RadImageNet's three equal
    channels in [-1, 1] (its own example), ImageNet's three equal channels in [0, 1] less the mean over the standard deviation of ImageNet.

    Args:
        weights: state of the network, by torchvision's names, or with MedicalNet's prefix `module.` or RadImageNet's `backbone.`.

    Raises:
        UserError: the weights are not of a residual network of a known depth.
    """

    def __init__(self, weights: Mapping[str, Tensor]):
        state = {key.removeprefix("module."): value for key, value in weights.items()}
        head = state.get("fc.weight")
        state = {_torchvision_name(key): value for key, value in state.items() if not key.startswith(HEADS)}
        stem, block, blocks = state.get("conv1.weight"), "bottleneck" if "layer1.0.conv3.weight" in state else "basic", _blocks(state)
        depth = DEPTHS.get((block, blocks))
        if stem is None or depth is None:
            raise UserError(f"It holds no residual network of a known depth (stages of {blocks} blocks).")
        dimensions = stem.ndim - 2
        if len(stem) > WIDEST or (dimensions, stem.shape[1]) not in ((3, 1), (2, 3)):
            raise UserError(f"Its first convolution is {tuple(stem.shape)}; one channel in 3-D or three in 2-D were expected, to {WIDEST} at most.")
        imagenet = dimensions == 2 and head is not None and len(head) == IMAGENET_CLASSES
        source = "medicalnet" if dimensions == 3 else "imagenet" if imagenet else "radimagenet"
        super().__init__(f"{source}_resnet{depth}", dimensions, channels=1)
        self.imagenet = imagenet
        self.net = _network(state, block, blocks, dimensions)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "ResNetFeatures":
        """Stays as it is: statistics of the normalisation are part of the weights."""
        return super().train(False)

    def prepare(self, x: Tensor, like: Tensor) -> Tensor:
        """See `FeatureNet.prepare`."""
        if self.dimensions == 3:
            mean, std = like.mean((1, 2, 3, 4), keepdim=True), like.std((1, 2, 3, 4), keepdim=True)
            return (x - mean) / std.clamp(min=LEAST_SPREAD)
        return x

    def levels(self, x: Tensor) -> list[Tensor]:
        """See `FeatureNet.levels`."""
        if self.dimensions == 2:
            x = x.expand(-1, 3, -1, -1)
            if self.imagenet:
                mean, std = (torch.tensor(values, device=x.device).reshape(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
                x = ((x + 1) / 2 - mean) / std
        net = self.net
        found = [net.act(net.bn1(net.conv1(x)))]
        for stage in (nn.Sequential(net.maxpool, net.layer1), net.layer2, net.layer3, net.layer4):
            found.append(stage(found[-1]))
        return found


class PaddedShortcut(nn.Module):
    """Every `stride`-th place and further channels of zeros (He et al. 2016, option A)."""

    def __init__(self, stride: int, planes: int):
        super().__init__()
        self.stride, self.planes = stride, planes

    def forward(self, x: Tensor) -> Tensor:
        """[B C ...] -> [B planes .../stride]."""
        x = x[(..., *(slice(None, None, self.stride) for _ in x.shape[2:]))]
        return F.pad(x, [0, 0] * (x.ndim - 2) + [0, self.planes - x.shape[1]])


def _network(state: dict[str, Tensor], block: str, blocks: tuple[int, ...], dimensions: int) -> nn.Module:
    from monai.networks.nets.resnet import ResNet

    width = len(state["conv1.weight"])
    net = ResNet(
        block,
        list(blocks),
        [width, 2 * width, 4 * width, 8 * width],
        spatial_dims=dimensions,
        n_input_channels=state["conv1.weight"].shape[1],
        conv1_t_stride=2,
        shortcut_type="B" if any("downsample" in key for key in state) else "A",
        feed_forward=False,
        bias_downsample="layer2.0.downsample.0.bias" in state,
    )
    try:
        missing, further = net.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UserError(f"Its shapes do not fit a residual network ({' '.join(str(error).split())[:200]}).") from error
    if unfit := further + [key for key in missing if not key.endswith("num_batches_tracked")]:
        raise UserError(f"{len(unfit)} of its weights do not fit, such as {unfit[0][:60]!r}.")
    for stage, dilation in ((net.layer1, 1), (net.layer2, 1), (net.layer3, 2), (net.layer4, 4)):
        _put_right(stage, dilation if dimensions == 3 else 1)
    return net


def _put_right(stage: nn.Sequential, dilation: int) -> None:
    """Shortcuts that pass gradients on; dilation in the place of the stride where it is above 1."""
    first = stage[0]
    if first.downsample is not None and not isinstance(first.downsample, nn.Sequential):
        first.downsample = PaddedShortcut(first.stride, first.downsample.keywords["planes"])
    if dilation == 1:
        return
    for module in stage.modules():
        if isinstance(module, nn.Conv3d):
            module.stride = (1, 1, 1)
            if module.kernel_size == (3, 3, 3):
                module.dilation = module.padding = (dilation,) * 3
        elif isinstance(module, PaddedShortcut):
            module.stride = 1


def _torchvision_name(key: str) -> str:
    """RadImageNet keeps the stages of torchvision's network by their position."""
    if not key.startswith("backbone."):
        return key
    position, _, rest = key.removeprefix("backbone.").partition(".")
    return f"{STEMS.get(position, position)}.{rest}"


def _blocks(state: dict[str, Tensor]) -> tuple[int, ...]:
    """Blocks of each of the four stages."""
    names = {tuple(key.split(".")[:2]) for key in state if key.startswith("layer")}
    return tuple(sum(stage == f"layer{n}" for stage, _ in names) for n in (1, 2, 3, 4))
