"""Activations too large to hold, computed exactly and on demand, a few rows of the first axis at a time.

A `Field` is the output of a layer. Reading rows of it reads the rows of its source that they depend on: for a convolution a few more
on each side, so that nothing is blended and no seam arises. What is read again and again is kept in a `Stored` field, in slabs that
are dropped as soon as nobody needs them.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

Shape5 = tuple[int, int, int, int, int]

CHUNKS = 32


class Field(ABC):
    """An activation [B C I J K] that is read by rows of I.

    Args:
        shape: B, C, I, J, K.
        sources: what it is computed from.
    """

    def __init__(self, shape: Shape5, *sources: "Field"):
        self.shape, self.sources = shape, sources

    @abstractmethod
    def read(self, start: int, stop: int) -> Tensor:
        """Rows start..stop of I, [B C stop-start J K]; inside the field."""

    @abstractmethod
    def workspace(self, rows: int) -> int:
        """Numbers that are held at once, at most, while so many rows are read, without stored ones."""

    def numbers(self, rows: int) -> int:
        """Numbers in so many rows, at most all there are."""
        b, c, i, j, k = self.shape
        return b * c * min(rows, i) * j * k


class Stored(Field):
    """An activation in memory, in chunks along I that are given up one by one.

    Chunks are few and large, whatever the slabs that fill them: many small ones, freed among others, would leave the allocator
    with holes.

    Args:
        shape: B, C, I, J, K.
        memory: what keeps count.
        home: where the chunks lie; by default where they were computed.
    """

    def __init__(self, shape: Shape5, memory: "Memory", home: torch.device | None = None):
        super().__init__(shape)
        self.memory, self.home = memory, home
        self.length = -(-shape[2] // CHUNKS)
        self.chunks: dict[int, tuple[int, Tensor | None]] = {}  # first row -> row behind the last, voxels
        self.device: torch.device | None = None
        self.moments = Moments()

    def put(self, start: int, stop: int, slab: Tensor | None) -> None:
        """Keep the next rows; None where only memory is counted."""
        if slab is not None and torch.is_grad_enabled():
            return self.adopt(start, stop, slab)  # a copy would hide the slab from what goes back through it
        for first in range(start - start % self.length, stop, self.length):
            end = min(first + self.length, self.shape[2])
            if first not in self.chunks:
                self.adopt(first, end, None if slab is None else self._empty(slab, end - first))
            chunk = self.chunks[first][1]
            low, high = max(start, first), min(stop, end)
            if slab is not None and chunk is not None:
                chunk[:, :, low - first : high - first] = slab[:, :, low - start : high - start]

    def adopt(self, start: int, stop: int, chunk: Tensor | None) -> None:
        """Keep a tensor of rows start..stop as it is."""
        self.memory.take(self.numbers(stop - start) if self.home is None else 0)
        self.chunks[start] = stop, chunk

    def _empty(self, slab: Tensor, rows: int) -> Tensor:
        self.device = slab.device
        shape = (*slab.shape[:2], rows, *slab.shape[3:])
        return torch.empty(shape, dtype=slab.dtype, device=self.home or slab.device, pin_memory=self.home is not None and slab.is_cuda)

    def drop(self, stop: int) -> None:
        """Give up chunks that end before row `stop`."""
        for first in [first for first, (end, _) in self.chunks.items() if end <= stop]:
            end, _ = self.chunks.pop(first)
            self.memory.give(self.numbers(end - first) if self.home is None else 0)

    def read(self, start: int, stop: int) -> Tensor:
        """See `Field.read`; a view where one chunk holds the rows."""
        parts = [
            chunk[:, :, max(start - first, 0) : stop - first]
            for first, (end, chunk) in self.chunks.items()
            if chunk is not None and first < stop and end > start
        ]
        if sum(part.shape[2] for part in parts) != stop - start:
            raise RuntimeError(f"rows {start}..{stop} of a stored activation were given up too early")
        rows = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        return rows if self.home is None or self.device is None else rows.to(self.device, non_blocking=True)

    def workspace(self, rows: int) -> int:
        """See `Field.workspace`."""
        return self.numbers(rows)


@dataclass
class Memory:
    """Numbers that are held where computing happens, now and at most."""

    held: int = 0
    peak: int = 0

    def take(self, numbers: int) -> None:
        """Count numbers that are kept."""
        self.held += numbers
        self.peak = max(self.peak, self.held)

    def work(self, numbers: int) -> None:
        """Count numbers that are needed for a moment."""
        self.peak = max(self.peak, self.held + numbers)

    def give(self, numbers: int) -> None:
        """Count numbers that are given up."""
        self.held -= numbers


@dataclass
class Moments:
    """Mean and variance per sample and channel, merged over slabs in float64 (Chan, Golub & LeVeque 1979).

    Args:
        count: voxels seen.
        mean, variance: [B C].
    """

    count: int = 0
    mean: Tensor | float = 0.0
    variance: Tensor | float = 0.0

    def add(self, mean: Tensor | None, variance: Tensor | None, count: int) -> None:
        """Merge with the moments of `count` other voxels; None in a dry run."""
        if mean is None or variance is None:
            return
        total = self.count + count
        share, shift = count / total, mean.double() - self.mean
        self.variance = (1 - share) * self.variance + share * variance.double() + share * (1 - share) * shift**2
        self.mean, self.count = self.mean + share * shift, total

    def of_groups(self, groups: int, eps: float) -> tuple[Tensor, Tensor]:
        """Mean and 1 / sqrt(variance + eps) of groups of channels, spread over the channels [B C]."""
        b, c = self.mean.shape
        mean, variance = self.mean.reshape(b, groups, -1), self.variance.reshape(b, groups, -1)
        middle = mean.mean(2, keepdim=True)
        spread = (variance + (mean - middle) ** 2).mean(2, keepdim=True)
        return middle.expand_as(mean).reshape(b, c), torch.rsqrt(spread + eps).expand_as(mean).reshape(b, c)
