"""A watermark in the voxels, for the day when everything else that told where a volume comes from is gone.

Keyed spread spectrum in the discrete cosine transform. Each volume has a key of its own: a key that many volumes share is found, removed
and forged by averaging (Yang et al. 2024). It withstands carelessness, not somebody who has the key.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from medldm.errors import UserError
from medldm.provenance.code import CHIPS, PAYLOAD, most_likely, spread, threshold, words

SHELLS = 16  # of frequencies, in which the strength of a volume is measured
FOREGROUND = 0.08  # of the range above the lowest value
WAYS = 16  # in which a key may spread a mark; small volumes bear some of them better than others
CLEAR = 10.0  # score at half the resolution with which no further way is tried


@dataclass(frozen=True)
class ImageMark:
    """How a mark is put into a volume, and found.

    With the coefficients u of the band, their strength sigma (root mean square in shells of frequency), keyed signs s and a keyed assignment
    of coefficients to 1024 chips, chip j is a_j = sum over its coefficients of s_i u_i / sigma_i. A payload is 8 bytes, each a word c of 128
    chips. Where b_k = sum of a_j c_j over the chips of byte k, the volume changes inside of its foreground M by
    d = M A^T c (m - b) / (c^T A M A^T c), so that every b_k becomes m (after Malvar & Florencio 2003, improved spread spectrum).

    Half the resolution takes most of the band from a volume, and what is left beside the mark differs from way to way of spreading. So a key has
    16 ways, of which the clearest at half the resolution is taken (informed embedding, Cox, Miller & McKellips 1999), and reading tries all.

    Args:
        psnr: what the mark costs, in dB of the range of values over the whole volume; m follows from it.
        band: lowest and highest frequency, as a share of the highest that the grid holds; of those tried this one lets crops of 60,000 voxels pass
            half the resolution, cuts and shifts.
    """

    psnr: float = 40.1
    band: tuple[float, float] = (0.35, 0.67)

    def embed(self, image: np.ndarray, key: bytes, payload: bytes) -> np.ndarray:
        """The marked volume [I J K], float32, within the same range of values.

        Args:
            image: voxels [I J K], finite.
            key: of this volume alone, at least 16 bytes.
            payload: 8 bytes.

        Raises:
            UserError: the volume is constant, too small, or almost empty.
        """
        low, high = float(image.min()), float(image.max())
        shape = "x".join(map(str, image.shape))
        if not high > low:
            raise UserError(f"A volume of {shape} voxels that are all {low:g} cannot carry a watermark.")
        foreground, band = _foreground(image), _Band(self.band, image)
        if min(image.shape) < 2 or len(band.places) * foreground.mean() < CHIPS:
            raise UserError(f"A volume of {shape} voxels, {foreground.mean():.0%} of them not empty, has no room for a watermark of 64 bits.")
        energy = image.size * (high - low) ** 2 * 10 ** (-self.psnr / 10)
        best, clearest = None, -math.inf
        for way in range(WAYS):
            change = _change(image, foreground, _Spread(band, key, way), payload, energy)
            if change is None:
                continue
            marked = np.clip(image + change, low, high).astype(np.float32)
            clear = min(_Spread(_Band(self.band, half), key, way).score(payload) for half in _halves(marked))
            if clear > clearest:
                best, clearest = marked, clear
            if clear > CLEAR:
                break
        if best is None:
            raise UserError(f"A volume of {shape} voxels cannot carry a watermark at {self.psnr} dB.", "Allow a lower psnr.")
        return best

    def score(self, image: np.ndarray, key: bytes, payload: bytes) -> float:
        """How clearly a volume [I J K] carries the payload under the key, in the clearest of its ways; compare it with `limit`."""
        if not image.max() > image.min():
            return 0.0
        return max(spreading.score(payload) for spreading in self._ways(image, key))

    @staticmethod
    def limit(readings: int) -> float:
        """The score that a wrong key exceeds in any of so many readings with a probability of less than one in a million."""
        return threshold(WAYS * readings)

    def read(self, image: np.ndarray, key: bytes) -> bytes:
        """The 8 bytes that are most likely to be the payload of a volume [I J K] under a key; every volume gives some."""
        found = [(spreading, most_likely(spreading.chips)) for spreading in self._ways(image, key)]
        return max(found, key=lambda pair: pair[0].score(pair[1]))[1]

    def _ways(self, image: np.ndarray, key: bytes) -> Iterator["_Spread"]:
        band = _Band(self.band, image)
        return (_Spread(band, key, way) for way in range(WAYS))


class _Band:
    """The coefficients of one volume in the band, whitened: u / sigma."""

    def __init__(self, band: tuple[float, float], image: np.ndarray):
        self.shape = image.shape
        frequency = np.sqrt(sum(axis**2 for axis in np.ix_(*(np.arange(n) / n for n in self.shape)))).ravel()
        self.places = np.flatnonzero((frequency >= band[0]) & (frequency < band[1]))
        coefficients = fft.dctn(image.astype(np.float64), norm="ortho").ravel()[self.places]
        shell = ((frequency[self.places] - band[0]) / (band[1] - band[0]) * SHELLS).astype(int)
        power = np.bincount(shell, coefficients**2, SHELLS) / np.maximum(np.bincount(shell, minlength=SHELLS), 1)
        self.weights = 1 / np.sqrt(np.maximum(power, 1e-12 * power.max(initial=1e-300)))[shell]
        self.whitened = self.weights * coefficients


class _Spread:
    """The linear map A from voxels to chips in one way of a key, whitened as one volume asks for, and its transpose."""

    def __init__(self, band: _Band, key: bytes, way: int):
        self.band = band
        self.signs, self.chip = spread(key, f"image mark {way}" if way else "image mark", len(band.places))

    @property
    def chips(self) -> np.ndarray:
        """A x for the volume itself."""
        return np.bincount(self.chip, self.signs * self.band.whitened, CHIPS)

    def voxels(self, chips: np.ndarray) -> np.ndarray:
        """A^T of chips."""
        spectrum = np.zeros(math.prod(self.band.shape))
        spectrum[self.band.places] = self.signs * self.band.weights * chips[self.chip]
        return fft.idctn(spectrum.reshape(self.band.shape), norm="ortho")

    def score(self, payload: bytes) -> float:
        """z = sum of s_i c_j(i) u_i / sigma_i / sqrt(sum of (u_i / sigma_i)^2).

        Signs of a wrong key have nothing to do with the volume, so that P(z >= t) is at most 3.18 times that of a normal number, whatever the
        volume (Bentkus & Dzindzalieta 2015).
        """
        return float(self.chips @ words(payload).sum(0) / np.linalg.norm(self.band.whitened))


def _change(image: np.ndarray, foreground: np.ndarray, spreading: _Spread, payload: bytes, energy: float) -> np.ndarray | None:
    """What marks a volume, of at most this sum of squares; None where that is too little."""
    readers = [spreading.voxels(word) for word in words(payload)]  # A^T c, byte by byte
    patterns = np.stack([foreground * reader for reader in readers])
    gram = np.array([[(reader * pattern).sum() for pattern in patterns] for reader in readers])
    found = np.array([(reader * image).sum() for reader in readers])
    added, cancelled = (np.tensordot(np.linalg.solve(gram, wanted), patterns, 1) for wanted in (np.ones(PAYLOAD), found))
    # |m added - cancelled|^2 is the energy
    a, b, c = (added**2).sum(), (added * cancelled).sum(), (cancelled**2).sum() - energy
    if (root := b**2 - a * c) < 0 or (margin := (b + math.sqrt(root)) / a) <= 0:
        return None
    return margin * added - cancelled


def _halves(image: np.ndarray) -> Iterator[np.ndarray]:
    """A volume after a stay at half its resolution: as every other voxel, and as means of 8."""
    for means in (False, True):
        small = ndimage.zoom(image, 0.5, order=1, mode="nearest", grid_mode=means)
        yield ndimage.zoom(small, np.divide(image.shape, small.shape), order=1, mode="nearest", grid_mode=means)


def _foreground(image: np.ndarray) -> np.ndarray:
    """1 where a volume [I J K] is not empty, falling to 0 over some voxels, 0 elsewhere."""
    low = image.min()
    high = np.percentile(image[image > low], 99.5)  # of what is not air, however little that is
    inside = ndimage.gaussian_filter(image.astype(np.float64), 1) > low + FOREGROUND * (high - low)
    return ndimage.gaussian_filter(inside.astype(np.float64), 1) * inside
