"""Where all randomness comes from: a generator for every key, so that a draw depends on what it is for and on nothing that ran before."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def keyed(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by the key, such as (seed, "noise", step); equal keys give equal draws on any machine.

    Args:
        key: integers and words that say what the draws are for.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def permutation(size: int, *key: int | str) -> list[int]:
    """A permutation of range(size), decided by the key."""
    return torch.randperm(size, generator=keyed(*key)).tolist()


@contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """Initial weights decided by the key; torch's own generator is put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(keyed(*key).initial_seed())
        yield
