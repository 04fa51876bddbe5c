"""What networks are made of, as functions of fields. A network says what it is by a sequence of these."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.models.tiling.fields import Field, Stored
from medldm.models.tiling.layers import Convolution, Enlarged, Pointwise, Shuffled, Sum, Unshuffled, Upsampled
from medldm.models.tiling.streamer import Streamer

WHOLE = 12  # numbers per number that attention holds beside its input and output

#: A part of a network: the field that goes in, to the field that comes out.
Layer = Callable[[Field, Streamer], Field]


@dataclass(frozen=True)
class Conv:
    """A convolution with zeros around; with `behind` they lie only behind, as MONAI pads before it halves."""

    module: nn.Conv3d
    behind: bool = False

    def __call__(self, source: Field, streamer: Streamer) -> Field:
        """See `Layer`."""
        around = (0, 1) if self.behind else (int(self.module.padding[0]),) * 2
        return Convolution(source, self.module.weight, self.module.bias, self.module.stride[0], around)


@dataclass(frozen=True)
class Norm:
    """Group normalisation by the statistics of the whole field (Wu & He 2018), then SiLU where asked for.

    y = (x - mean) / sqrt(variance + eps) * weight + bias.
    """

    module: nn.GroupNorm
    silu: bool = True

    def __call__(self, source: Field, streamer: Streamer) -> Field:
        """See `Layer`."""
        moments = streamer.moments(source)
        if streamer.dry:
            return Pointwise(source, F.silu)
        mean, factor = moments.of_groups(self.module.num_groups, self.module.eps)
        scale = factor * self.module.weight.double()
        shift = self.module.bias.double() - mean * scale
        scale, shift = scale[..., None, None, None], shift[..., None, None, None]

        def function(x: Tensor) -> Tensor:
            wide = torch.promote_types(x.dtype, torch.float32)
            y = torch.addcmul(shift.to(wide), x.to(wide), scale.to(wide))
            return (F.silu(y, inplace=not torch.is_grad_enabled()) if self.silu else y).to(x.dtype)

        return Pointwise(source, function)


@dataclass(frozen=True)
class Silu:
    """x * sigmoid(x)."""

    def __call__(self, source: Field, streamer: Streamer) -> Field:
        """See `Layer`."""
        return Pointwise(source, F.silu)


@dataclass(frozen=True)
class PerCell:
    """A function of the channels of each cell, such as the nearest of some vectors; computed once.

    Args:
        function: see `Pointwise`.
        extra: see `Pointwise`.
    """

    function: Callable[[Tensor], Tensor]
    extra: int = 0

    def __call__(self, source: Field, streamer: Streamer) -> Field:
        """See `Layer`."""
        return streamer.store(Pointwise(source, self.function, self.extra))


@dataclass(frozen=True)
class Rescale:
    """scale * x + shift of the first channels; the others stay as they are.

    Args:
        channels: how many.
        scale, shift: numbers.
    """

    channels: int
    scale: float
    shift: float

    def __call__(self, source: Field, streamer: Streamer) -> Field:
        """See `Layer`."""
        return Pointwise(source, self.apply)

    def apply(self, x: Tensor) -> Tensor:
        """What it makes of x [B C I J K]."""
        first = x[:, : self.channels].mul(self.scale).add_(self.shift)
        return first if self.channels == x.shape[1] else torch.cat([first, x[:, self.channels :]], dim=1)


@dataclass(frozen=True)
class Residual:
    """shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x)))))).

    Args:
        first, second: normalisation, if there is one, and convolution.
        shortcut: a convolution of 1 x 1 x 1 where channels change.
    """

    first: tuple[nn.GroupNorm | None, nn.Conv3d]
    second: tuple[nn.GroupNorm | None, nn.Conv3d]
    shortcut: nn.Conv3d | None = None

    def __call__(self, source: Field, streamer: Streamer) -> Field:
        """See `Layer`."""
        x = streamer.keep(source)
        h = run(_activated(*self.first), x, streamer)
        if streamer.recompute < 2:
            h = streamer.store(h, release=False)  # the shortcut reads x once more
        h = run(_activated(*self.second), h, streamer)
        return streamer.store(Sum(Conv(self.shortcut)(x, streamer) if self.shortcut else x, h))


def _activated(norm: nn.GroupNorm | None, conv: nn.Conv3d) -> tuple[Layer, Layer]:
    return Norm(norm) if norm else Silu(), Conv(conv)


@dataclass(frozen=True)
class Refine:
    """x + conv(silu(x))."""

    module: nn.Conv3d

    def __call__(self, source: Field, streamer: Streamer) -> Field:
        """See `Layer`."""
        x = streamer.keep(source)
        return Sum(x, Conv(self.module)(Pointwise(x, F.silu), streamer))


@dataclass(frozen=True)
class Upsample:
    """Enlargement by 2, of the nearest neighbour or trilinear, and a convolution of 3 x 3 x 3."""

    module: nn.Conv3d
    trilinear: bool = False

    def __call__(self, source: Field, streamer: Streamer) -> Field:
        """See `Layer`."""
        source = source if isinstance(source, Stored) else streamer.store(source)
        if self.trilinear:
            return Conv(self.module)(Enlarged(source), streamer)
        enlarged = Upsampled(source, self.module.weight, self.module.bias)
        streamer.memory.take(sum(weight.numel() for weight in enlarged.weights.values()))
        return enlarged


@dataclass(frozen=True)
class Shuffle:
    """Channels to 2 x 2 x 2 places."""

    def __call__(self, source: Field, streamer: Streamer) -> Field:
        """See `Layer`."""
        return Shuffled(source)


@dataclass(frozen=True)
class Unshuffle:
    """2 x 2 x 2 places to channels."""

    def __call__(self, source: Field, streamer: Streamer) -> Field:
        """See `Layer`."""
        return Unshuffled(source)


@dataclass(frozen=True)
class Whole:
    """A module that needs everything at once, such as attention at the lowest resolution."""

    module: nn.Module

    def __call__(self, source: Field, streamer: Streamer) -> Field:
        """See `Layer`."""
        x = streamer.gather(source)
        numbers = source.numbers(source.shape[2])
        streamer.memory.work(WHOLE * numbers)
        streamer.memory.give(numbers)
        if x is None:
            stored = Stored(source.shape, streamer.memory)
            stored.adopt(0, source.shape[2], None)
            return stored
        return streamer.take(self.module(x))


def run(layers: Iterable[Layer], source: Field, streamer: Streamer) -> Field:
    """One layer after the other."""
    for layer in layers:
        source = layer(source, streamer)
    return source
