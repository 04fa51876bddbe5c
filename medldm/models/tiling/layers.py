"""Layers of a convolutional network as fields."""

from collections.abc import Callable, Iterable, Iterator
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from medldm.models.shuffle import shuffle, unshuffle
from medldm.models.tiling.fields import Field, Stored


class Pointwise(Field):
    """A function of each voxel.

    Args:
        source: its argument.
        function: [B C r J K] -> [B C r J K]; must not write into its argument.
        extra: numbers that it holds meanwhile beside a copy of argument and result.
    """

    def __init__(self, source: Field, function: Callable[[Tensor], Tensor], extra: int = 0):
        super().__init__(source.shape, source)
        self.function, self.extra = function, extra

    def read(self, start: int, stop: int) -> Tensor:
        """See `Field.read`."""
        return self.function(self.sources[0].read(start, stop))

    def workspace(self, rows: int) -> int:
        """See `Field.workspace`."""
        return max(self.sources[0].workspace(rows), 3 * self.numbers(rows) + self.extra)


class Sum(Field):
    """The sum of two fields of one shape."""

    def __init__(self, first: Field, second: Field):
        super().__init__(first.shape, first, second)

    def read(self, start: int, stop: int) -> Tensor:
        """See `Field.read`."""
        first = self.sources[0].read(start, stop)
        return first + self.sources[1].read(start, stop)

    def workspace(self, rows: int) -> int:
        """See `Field.workspace`."""
        first, second = self.sources
        return max(first.workspace(rows), self.numbers(rows) + max(second.workspace(rows), 2 * self.numbers(rows)))


class Rolling(Field):
    """Remembers the last rows that were read, so that the next slab does not compute its halo again."""

    def __init__(self, source: Field, keep: int):
        super().__init__(source.shape, source)
        self.keep, self.end, self.tail = keep, 0, None

    def read(self, start: int, stop: int) -> Tensor:
        """See `Field.read`."""
        if torch.is_grad_enabled():  # a checkpoint computes slabs again, in another order
            return self.sources[0].read(start, stop)
        known = 0 if self.tail is None or not self.end - self.tail.shape[2] <= start < self.end < stop else self.end - start
        rows = self.sources[0].read(start + known, stop)
        if known:
            rows = torch.cat([self.tail[:, :, -known:], rows], dim=2)
        self.tail, self.end = rows[:, :, -self.keep :].clone(), stop
        return rows

    def workspace(self, rows: int) -> int:
        """See `Field.workspace`."""
        return max(self.sources[0].workspace(rows), 2 * self.numbers(rows)) + self.numbers(self.keep)


class Convolution(Field):
    """A convolution with zeros around the source.

    Args:
        source: [B C I J K].
        weight: [C' C k k k].
        bias: [C'], or None.
        stride: along all axes.
        padding: zeros before and after, along all axes.
    """

    def __init__(self, source: Field, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: tuple[int, int] = (0, 0)):
        self.weight, self.bias, self.stride, self.padding = weight, bias, stride, padding
        self.kernel = weight.shape[2]
        sizes = [(n + sum(padding) - self.kernel) // stride + 1 for n in source.shape[2:]]
        lazy = self.kernel > stride and not isinstance(source, Stored)
        super().__init__((source.shape[0], len(weight), *sizes), Rolling(source, self.kernel - stride) if lazy else source)

    def read(self, start: int, stop: int) -> Tensor:
        """See `Field.read`."""
        (source,), (before, after) = self.sources, self.padding
        low, high = start * self.stride - before, (stop - 1) * self.stride - before + self.kernel
        rows = source.read(max(low, 0), min(high, source.shape[2]))
        missing = max(-low, 0), max(high - source.shape[2], 0)
        if before != after:
            rows = F.pad(rows, (before, after, before, after, *missing))
        elif any(missing):
            rows = F.pad(rows, (0, 0, 0, 0, *missing))
        side = before if before == after else 0
        return F.conv3d(rows, self.weight, self.bias, self.stride, (0, side, side))

    def workspace(self, rows: int) -> int:
        """See `Field.workspace`: the library's convolutions may copy what they read and write."""
        (source,) = self.sources
        wanted = rows * self.stride + self.kernel - self.stride
        return max(source.workspace(wanted), 2 * source.numbers(wanted) + 2 * self.numbers(rows))


class Shuffled(Field):
    """Channels to places: [B C r^3 I J K] -> [B C rI rJ rK] (Shi et al. 2016)."""

    def __init__(self, source: Field, r: int = 2):
        b, c, *sizes = source.shape
        super().__init__((b, c // r**3, *(r * n for n in sizes)), source)
        self.r = r

    def read(self, start: int, stop: int) -> Tensor:
        """See `Field.read`."""
        first = start // self.r
        rows = shuffle(self.sources[0].read(first, -(-stop // self.r)), self.r)
        return rows[:, :, start - first * self.r : stop - first * self.r]

    def workspace(self, rows: int) -> int:
        """See `Field.workspace`."""
        wanted = rows // self.r + 2
        return max(self.sources[0].workspace(wanted), 2 * self.numbers(wanted * self.r))


class Unshuffled(Field):
    """Places to channels: the inverse of `Shuffled`."""

    def __init__(self, source: Field, r: int = 2):
        b, c, *sizes = source.shape
        super().__init__((b, c * r**3, *(n // r for n in sizes)), source)
        self.r = r

    def read(self, start: int, stop: int) -> Tensor:
        """See `Field.read`."""
        return unshuffle(self.sources[0].read(start * self.r, stop * self.r), self.r)

    def workspace(self, rows: int) -> int:
        """See `Field.workspace`."""
        return max(self.sources[0].workspace(rows * self.r), 2 * self.numbers(rows))


class Upsampled(Field):
    """Nearest-neighbour enlargement by 2 followed by a convolution of 3 x 3 x 3, without ever making the enlargement.

    Neighbouring voxels of the enlargement are equal, so that the 3 weights along an axis act as 2: w1 and w2 + w3 on even voxels,
    w1 + w2 and w3 on odd ones. Each of the 8 kinds of voxel is a convolution of 2 x 2 x 2 of the source: 8 products in place of 27.

    Args:
        source: [B C I J K].
        weight: [C' C 3 3 3].
        bias: [C'], or None.
    """

    def __init__(self, source: Field, weight: Tensor, bias: Tensor | None):
        b, _, *sizes = source.shape
        super().__init__((b, len(weight), *(2 * n for n in sizes)), source)
        self.weights, self.bias = {kind: _merged(weight, kind) for kind in product((0, 1), repeat=3)}, bias

    def read(self, start: int, stop: int) -> Tensor:
        """See `Field.read`."""
        (source,) = self.sources
        first, last = start // 2, -(-stop // 2)
        low, high = first - 1, last + 1
        rows = source.read(max(low, 0), min(high, source.shape[2]))
        rows = F.pad(rows, (1, 1, 1, 1, max(-low, 0), max(high - source.shape[2], 0)))
        whole = interleaved(self._kinds(rows))
        return whole[:, :, start - 2 * first : stop - 2 * first]

    def _kinds(self, rows: Tensor) -> Iterator[Tensor]:
        """The eight kinds of voxels, one after the other, of rows with a border of one voxel."""
        sizes = [n - 2 for n in rows.shape[2:]]
        for kind, weight in self.weights.items():
            window = rows[(..., *(slice(p, p + n + 1) for p, n in zip(kind, sizes, strict=True)))]
            yield F.conv3d(window, weight, self.bias)

    def workspace(self, rows: int) -> int:
        """See `Field.workspace`."""
        (source,) = self.sources
        wanted = rows // 2 + 3
        return max(source.workspace(wanted), 3 * source.numbers(wanted) + self.numbers(rows + 2) * 5 // 4)


class Enlarged(Field):
    """Trilinear enlargement by 2: along an axis 1/4 and 3/4 of two neighbours, beyond the border the last voxel again."""

    def __init__(self, source: Field):
        super().__init__((*source.shape[:2], *(2 * n for n in source.shape[2:])), source)

    def read(self, start: int, stop: int) -> Tensor:
        """See `Field.read`."""
        (source,) = self.sources
        low = max((start - 1) // 2, 0)
        rows = source.read(low, min(stop // 2 + 1, source.shape[2]))
        return F.interpolate(rows, scale_factor=2.0, mode="trilinear")[:, :, start - 2 * low : stop - 2 * low]

    def workspace(self, rows: int) -> int:
        """See `Field.workspace`."""
        (source,) = self.sources
        wanted = rows // 2 + 2
        return max(source.workspace(wanted), 2 * source.numbers(wanted) + self.numbers(2 * wanted))


def interleaved(kinds: Iterable[Tensor]) -> Tensor:
    """Eight [B C i j k] of even and odd places, in the order 000, 001, ..., 111, as one [B C 2i 2j 2k]."""
    if torch.is_grad_enabled():  # writing in place would keep a copy of the whole for each kind
        return shuffle(torch.stack(list(kinds), dim=2).flatten(1, 2))
    whole: Tensor | None = None
    for (p, q, r), part in zip(product((0, 1), repeat=3), kinds, strict=True):
        if whole is None:
            whole = part.new_empty(*part.shape[:2], *(2 * n for n in part.shape[2:]))
        whole[:, :, p::2, q::2, r::2] = part
    assert whole is not None
    return whole


def _merged(weight: Tensor, kind: tuple[int, ...]) -> Tensor:
    """The 2 x 2 x 2 weights that 3 x 3 x 3 weights amount to on one kind of voxel."""
    for axis, odd in enumerate(kind, start=2):
        first, second, third = weight.split(1, dim=axis)
        weight = torch.cat([first + second, third] if odd else [first, second + third], dim=axis)
    return weight
