"""Runs a network over fields: decides what is stored, what is computed again, and when memory is given up."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from medldm.models.tiling.fields import Field, Memory, Moments, Stored

INFLATES = 4  # a field this many times larger than what it is computed from is rather computed again than stored
MARGIN = 4  # rows below the last one written that may still be read, at any resolution


@dataclass
class Streamer:
    """How a network is run by slabs.

    Without gradients the peak is about one activation of the widest level and the shortcut beside it. With gradients each slab is
    computed again on the way back (checkpoints, Chen et al. 2016); then all stored activations stay, and nothing else.

    Args:
        rows: of I per slab, at every resolution.
        recompute: 0 stores whatever is read twice; 1 computes fields again that are much larger than their sources, such as an
            enlargement; 2 also the first convolution of a residual block.
        home: where stored activations lie; by default where they are computed.
        dry: count memory, compute nothing.
    """

    rows: int
    recompute: int = 1
    home: torch.device | None = None
    dry: bool = False
    memory: Memory = field(default_factory=Memory)

    def take(self, x: Tensor) -> Stored:
        """A tensor [B C I J K] as a field."""
        stored = Stored(tuple(x.shape), self.memory)
        stored.adopt(0, x.shape[2], x)
        return stored

    def store(self, source: Field, release: bool = True) -> Stored:
        """Compute a field once and keep it.

        Args:
            source: the field.
            release: give up on the way what it is computed from.
        """
        stored = Stored(source.shape, self.memory, self.home)
        for start, stop, slab, mean, variance in self._slabs(source, release):
            stored.put(start, stop, slab)
            stored.moments.add(mean, variance, stop - start)
        return stored

    def keep(self, source: Field) -> Field:
        """The field in a form that can be read several times: stored, unless computing it again is cheap."""
        if isinstance(source, Stored):
            return source
        inflates = source.numbers(source.shape[2]) >= INFLATES * sum(one.numbers(one.shape[2]) for one in stored_below(source))
        return source if self.recompute >= 1 and inflates else self.store(source)

    def gather(self, source: Field) -> Tensor | None:
        """The whole field as a tensor [B C I J K]; None in a dry run."""
        self.memory.take(source.numbers(source.shape[2]))
        whole: Tensor | None = None
        parts: list[Tensor] = []
        for start, stop, slab, _, _ in self._slabs(source, release=True):
            if slab is not None and torch.is_grad_enabled():
                parts.append(slab)
            elif slab is not None:
                whole = slab.new_empty(source.shape) if whole is None else whole
                whole[:, :, start:stop] = slab
        return torch.cat(parts, dim=2) if parts else whole

    def moments(self, source: Field) -> Moments:
        """Statistics of the whole field."""
        if isinstance(source, Stored) and source.moments.count:
            return source.moments
        moments = Moments()
        for start, stop, _, mean, variance in self._slabs(source, release=False):
            moments.add(mean, variance, stop - start)
        return moments

    def _slabs(self, source: Field, release: bool) -> Iterator[tuple[int, int, Tensor | None, Tensor | None, Tensor | None]]:
        """Start, stop, voxels, mean and variance of all slabs of a field."""
        total, behind = source.shape[2], stored_below(source)
        for start in range(0, total, self.rows):
            stop = min(start + self.rows, total)
            self.memory.work(source.workspace(stop - start) + source.numbers(self.rows))  # and the slab before, until it is replaced
            if self.dry:
                yield start, stop, None, None, None
            elif torch.is_grad_enabled():
                yield start, stop, *checkpoint(_slab, source, start, stop, use_reentrant=False)
            else:
                yield start, stop, *_slab(source, start, stop)
            for one in behind if release and not torch.is_grad_enabled() else ():
                one.drop(one.shape[2] if stop == total else stop * one.shape[2] // total - MARGIN)


def _slab(source: Field, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
    slab = source.read(start, stop)
    variance, mean = torch.var_mean(slab.to(torch.promote_types(slab.dtype, torch.float32)), dim=(2, 3, 4), correction=0)
    return slab, mean, variance


def stored_below(source: Field) -> list[Stored]:
    """The stored fields that a field is computed from, each once."""
    if isinstance(source, Stored):
        return [source]
    return list(dict.fromkeys(one for below in source.sources for one in stored_below(below)))
