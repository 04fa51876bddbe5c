"""A watermark in the noise that a sample begins with.

The signs of the noise spell the payload under a key, its sizes are drawn as always (Yang et al. 2024, Gaussian Shading). Without the key
the noise is Gaussian, and so the samples are those of the unmarked model; with it, and a sampler that can be run backwards, the noise that
is found again tells.
"""

import numpy as np
import torch
from torch import Tensor

from medldm.provenance.code import most_likely, spread, words

PURPOSE = "latent mark"


def marked(noise: Tensor, key: bytes, payload: bytes) -> Tensor:
    """Noise of the same sizes, whose signs spell the payload.

    e_i = |noise_i| s_i c_j(i) with the keyed signs s, the keyed chips j and the words c of the payload: for s independent of everything
    else, e is distributed as the noise is.

    Args:
        noise: standard normal, of any shape.
        key: of this sample alone, at least 16 bytes.
        payload: 8 bytes.
    """
    signs, chip = spread(key, PURPOSE, noise.numel())
    wanted = torch.from_numpy(signs * words(payload).sum(0)[chip]).reshape(noise.shape)
    return noise.abs() * wanted.to(noise)


def score(noise: Tensor, key: bytes, payload: bytes, known: Tensor | None = None) -> float:
    """How clearly noise carries the payload under the key: z = sum of sign(noise_i) s_i c_j(i) / sqrt(n), see `code.threshold`.

    Args:
        noise: as found again, of the shape of the marked noise.
        key, payload: what is looked for.
        known: 1 where the noise could be found, and 0 elsewhere; everywhere by default.
    """
    found, chip = _despread(noise, key, known)
    return float((found * words(payload).sum(0)[chip]).sum() / np.sqrt(max(np.abs(found).sum(), 1)))


def read(noise: Tensor, key: bytes, known: Tensor | None = None) -> bytes:
    """The 8 bytes that noise spells most likely under a key; any noise spells some."""
    found, chip = _despread(noise, key, known)
    return most_likely(np.bincount(chip, found, len(words(bytes(8))[0])))


def _despread(noise: Tensor, key: bytes, known: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    signs, chip = spread(key, PURPOSE, noise.numel())
    inside = 1 if known is None else known.expand(noise.shape)
    return (noise.sign() * inside).flatten().cpu().numpy() * signs, chip
