"""A discriminator that learns to tell crops from their reconstructions.

Distances between voxels are smallest for a mean of all that may be there, which is blurred; the adversarial term asks that
reconstructions look like images, patch by patch (Goodfellow et al. 2014; Isola et al. 2017).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.errors import UserError
from medldm.types import Shape3

GROUPS = 8
LARGEST_BALANCE = 1e4


@dataclass(frozen=True)
class Adversarial:
    """Settings of the patch-adversarial term; it acts on image channels alone.

    Discriminator n of `scales` halves the crop n * `layers` times and judges patches of 6 * 2^(n * layers) - 2 voxels
    (MONAI's multi-scale form of Wang et al. 2018). Its group normalisation depends on one crop, not on the batch beside it.

    Args:
        weight: of the term; on hippocampi 0.1 changed almost nothing, 0.5 took 0.4 dB for finer texture.
        start: step, counted from 0, from which it acts; by then the autoencoder should reconstruct. Earlier it costs nothing.
        scales: discriminators.
        layers: halvings by the first discriminator.
        channels: of a discriminator's first layer, a multiple of 4; they double with every further layer.
        learning_rate: peak, of the discriminators (AdamW with betas 0.5 and 0.9).
        adaptive: `weight` is relative to the gradient of the other image terms, see `balance`.
    """

    weight: float = 0.5
    start: int = 1000
    scales: int = 2
    layers: int = 1
    channels: int = 16
    learning_rate: float = 5e-4
    adaptive: bool = True

    def __post_init__(self):
        if not 0 < self.weight < math.inf or not 0 < self.learning_rate < math.inf:
            raise UserError("adversarial.weight and adversarial.learning_rate must be positive.", "Leave --adversarial away to train without.")
        if self.start < 0:
            raise UserError(f"adversarial.start is {self.start}; a step of at least 0 was expected.")
        if not 1 <= self.scales * self.layers <= 8 or self.scales < 1 or self.channels < 4 or self.channels % 4:
            raise UserError(
                f"adversarial.scales={self.scales}, layers={self.layers}, channels={self.channels} is no discriminator.",
                "Scales times layers lies between 1 and 8, channels is a multiple of 4.",
            )

    @property
    def smallest_crop(self) -> int:
        """Voxels that a crop needs along each axis: the last discriminator halves it to 2 cells, of which it makes 1."""
        return 2 ** (self.scales * self.layers + 1)

    def coarsest(self, crop: Sequence[int]) -> int:
        """Places along the shortest axis that the coarsest discriminator judges, of a crop of I, J, K voxels."""
        return min(crop) // 2 ** (self.scales * self.layers) - 1

    def check(self, crop: Shape3, steps: int) -> None:
        """See whether the discriminators fit a training.

        Args:
            crop: voxels along I, J, K of the smallest volume in it.
            steps: of the whole training.

        Raises:
            UserError: the crop is too small for them, or they would never start.
        """
        if self.start >= steps:
            raise UserError(f"adversarial.start is {self.start} in a training of {steps} steps.", "Set an earlier step, such as half of them.")
        if min(crop) < self.smallest_crop:
            raise UserError(
                f"A crop of {'x'.join(map(str, crop))} voxels is too small for adversarial.scales={self.scales} with "
                f"layers={self.layers}, which need {self.smallest_crop} along each axis.",
                "Lower adversarial.scales or adversarial.layers, or set a larger crop.",
            )

    def build(self, image_channels: int) -> nn.Module:
        """The discriminators: [B C I J K] -> (scores [B 1 i j k] of each, their features).

        Args:
            image_channels: contrasts of the image.
        """
        from monai.networks.nets import MultiScalePatchDiscriminator

        return MultiScalePatchDiscriminator(
            num_d=self.scales,
            num_layers_d=self.layers,
            spatial_dims=3,
            channels=self.channels,
            in_channels=image_channels,
            norm=("GROUP", {"num_groups": GROUPS}),
            minimum_size_im=self.smallest_crop,
        )


def hinge(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Loss of the discriminators, mean over scales of mean max(0, 1 - D(x)) + mean max(0, 1 + D(x^)) (Lim & Ye 2017)."""
    return torch.stack([F.relu(1 - a).mean() + F.relu(1 + b).mean() for a, b in zip(real, fake, strict=True)]).mean()


def fooling(fake: Sequence[Tensor]) -> Tensor:
    """Loss of what is judged, mean over scales of -mean D(x^) (Lim & Ye 2017)."""
    return -torch.stack([scores.mean() for scores in fake]).mean()


def balance(reconstruction: Tensor, adversarial: Tensor, last: nn.Parameter) -> Tensor:
    """|grad L_rec| / (|grad L_adv| + 1e-4) with respect to the last layer, at most 1e4 (Esser et al. 2021, eq. 7).

    Args:
        reconstruction: the other image terms, scalar.
        adversarial: the adversarial term, scalar.
        last: weight of the autoencoder's last layer.
    """
    norms = [torch.autograd.grad(term, last, retain_graph=True)[0].norm() for term in (reconstruction, adversarial)]
    return (norms[0] / (norms[1] + 1e-4)).clamp(max=LARGEST_BALANCE).detach()


def with_gradient(value: Tensor, gradient: Tensor, x: Tensor) -> Tensor:
    """A scalar that is `value` and whose gradient with respect to x is `gradient`.

    What a network says of x, and how it changes with x, is thus worked out once, however often it is differentiated further.
    """
    linear = (x * gradient.detach()).sum()
    return value.detach() + (linear - linear.detach())
