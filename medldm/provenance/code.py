"""What both watermarks have in common: 64 bits as 1024 chips, and chips under a key of one volume."""

import hashlib
import hmac
import math

import numpy as np
from scipy import linalg, stats

PAYLOAD = 8  # bytes
LENGTH = 128  # chips per byte
CHIPS = PAYLOAD * LENGTH
LEAST_KEY = 16  # bytes


def identity(secret: bytes, *what: object) -> bytes:
    """The 8 bytes that name a volume: its payload, and what its key follows from.

    Args:
        secret: of whoever signs.
        what: texts and numbers that tell this volume from all others.
    """
    return hmac.digest(secret, repr(("identity", *what)).encode(), hashlib.sha256)[:PAYLOAD]


def key_of(secret: bytes, name: bytes) -> bytes:
    """The watermark key of the volume with this name. No two volumes share one: averaging many of them would find it (Yang et al. 2024)."""
    return hmac.digest(secret, b"key" + name, hashlib.sha256)


def words(payload: bytes) -> np.ndarray:
    """The chips of each byte, 0 in those of the other bytes [8 1024].

    A byte is one of the 256 rows of a Hadamard matrix of 128 and their negatives: the first-order Reed-Muller code, of which any two words
    differ in at least 64 places.

    Args:
        payload: 8 bytes.
    """
    if len(payload) != PAYLOAD:
        raise ValueError(f"a payload of {len(payload)} bytes; {PAYLOAD} are needed")
    values = np.frombuffer(payload, np.uint8)
    rows = linalg.hadamard(LENGTH)[values % LENGTH] * np.where(values < LENGTH, 1.0, -1.0)[:, None]
    return (np.eye(PAYLOAD)[:, :, None] * rows).reshape(PAYLOAD, CHIPS)


def most_likely(chips: np.ndarray) -> bytes:
    """The payload whose words agree best with noisy chips [1024]; any chips give one."""
    likeness = chips.reshape(PAYLOAD, LENGTH) @ linalg.hadamard(LENGTH)
    rows = np.abs(likeness).argmax(1)
    negative = np.take_along_axis(likeness, rows[:, None], 1)[:, 0] < 0
    return bytes((rows + LENGTH * negative).astype(np.uint8))


def spread(key: bytes, purpose: str, places: int) -> tuple[np.ndarray, np.ndarray]:
    """Sign (+1, -1) and chip (0 ... 1023) of each of so many places, as the key has them for a purpose."""
    if len(key) < LEAST_KEY:
        raise ValueError(f"a key of {len(key)} bytes; at least {LEAST_KEY} are needed")
    seed = hmac.digest(key, purpose.encode(), hashlib.sha256)
    draws = np.random.Generator(np.random.Philox(key=int.from_bytes(seed[:16], "little")))
    return 1 - 2 * draws.integers(0, 2, places), draws.permutation(places) % CHIPS


def threshold(trials: int, false_alarms: float = 1e-6) -> float:
    """The score that a wrong key exceeds in any of so many readings with less than this probability.

    t with trials * P(z >= t) <= trials * 3.18 P(g >= t) = false_alarms, where g is normal: a sum of random signs with weights of norm 1 has no
    heavier tail (Bentkus & Dzindzalieta 2015, theorem 1.1: c = 1 / (4 P(g >= sqrt 2))).
    """
    return float(stats.norm.isf(4 * stats.norm.sf(math.sqrt(2)) * false_alarms / trials))
