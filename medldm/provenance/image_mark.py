"""A watermark in the voxels, for the day when everything else that told where a volume comes from is gone.

Keyed spread spectrum in the discrete cosine transform. Each volume has a key of its own: a key that many volumes share is found, removed
and forged by averaging (Yang et al. 2024). It withstands carelessness, not somebody who has the key.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from medldm.errors import UserError
from medldm.provenance.code import CHIPS, PAYLOAD, most_likely, spread, words

SHELLS = 16  # of frequencies, in which the strength of a volume is measured
FOREGROUND = 0.08  # of the range above the lowest value


@dataclass(frozen=True)
class ImageMark:
    """How a mark is put into a volume, and found.

    With the coefficients u of the band, their strength sigma (root mean square in shells of frequency), keyed signs s and a keyed assignment
    of coefficients to 1024 chips, chip j is a_j = sum over its coefficients of s_i u_i / sigma_i. A payload is 8 bytes, each a word c of 128
    chips. Where b_k = sum of a_j c_j over the chips of byte k, the volume changes inside of its foreground M by
    d = M A^T c (m - b) / (c^T A M A^T c), so that every b_k becomes m (after Malvar & Florencio 2003, improved spread spectrum).

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
        foreground, spreading = _foreground(image), _Spread(self.band, key, image)
        if len(spreading.places) * foreground.mean() < CHIPS:
            raise UserError(f"A volume of {shape} voxels, {foreground.mean():.0%} of them not empty, has no room for a watermark of 64 bits.")
        readers = [spreading.voxels(word) for word in words(payload)]  # A^T c, byte by byte
        patterns = np.stack([foreground * reader for reader in readers])
        gram = np.array([[(reader * pattern).sum() for pattern in patterns] for reader in readers])
        found = np.array([(reader * image).sum() for reader in readers])
        added, cancelled = (np.tensordot(np.linalg.solve(gram, wanted), patterns, 1) for wanted in (np.ones(PAYLOAD), found))
        # |m added - cancelled|^2 is the energy that the PSNR allows
        energy = image.size * (high - low) ** 2 * 10 ** (-self.psnr / 10)
        a, b, c = (added**2).sum(), (added * cancelled).sum(), (cancelled**2).sum() - energy
        if (root := b**2 - a * c) < 0 or (margin := (b + math.sqrt(root)) / a) <= 0:
            raise UserError(f"A volume of {shape} voxels cannot carry a watermark at {self.psnr} dB.", "Allow a lower psnr.")
        return np.clip(image + margin * added - cancelled, low, high).astype(np.float32)

    def score(self, image: np.ndarray, key: bytes, payload: bytes) -> float:
        """How clearly a volume [I J K] carries the payload under the key; compare it with `code.threshold`.

        z = sum of s_i c_j(i) u_i / sigma_i / sqrt(sum of (u_i / sigma_i)^2). Signs of a wrong key have nothing to do with the volume, so
        that P(z >= t) is at most 3.18 times that of a normal number, whatever the volume (Bentkus & Dzindzalieta 2015).
        """
        if not image.max() > image.min():
            return 0.0
        spreading = _Spread(self.band, key, image)
        return float(spreading.chips(image) @ words(payload).sum(0) / np.linalg.norm(spreading.whitened(image)))

    def read(self, image: np.ndarray, key: bytes) -> bytes:
        """The 8 bytes that are most likely to be the payload of a volume [I J K] under a key; every volume gives some."""
        return most_likely(_Spread(self.band, key, image).chips(image))


class _Spread:
    """The linear map A from voxels to chips of one key, whitened as one volume asks for, and its transpose."""

    def __init__(self, band: tuple[float, float], key: bytes, image: np.ndarray):
        self.shape = image.shape
        frequency = np.sqrt(sum(axis**2 for axis in np.ix_(*(np.arange(n) / n for n in self.shape)))).ravel()
        self.places = np.flatnonzero((frequency >= band[0]) & (frequency < band[1]))
        shell = ((frequency[self.places] - band[0]) / (band[1] - band[0]) * SHELLS).astype(int)
        power = np.bincount(shell, self._band(image) ** 2, SHELLS) / np.maximum(np.bincount(shell, minlength=SHELLS), 1)
        self.weights = 1 / np.sqrt(np.maximum(power, 1e-12 * power.max(initial=1e-300)))[shell]
        self.signs, self.chip = spread(key, "image mark", len(self.places))

    def whitened(self, image: np.ndarray) -> np.ndarray:
        """u / sigma."""
        return self.weights * self._band(image)

    def chips(self, image: np.ndarray) -> np.ndarray:
        """A x."""
        return np.bincount(self.chip, self.signs * self.whitened(image), CHIPS)

    def voxels(self, chips: np.ndarray) -> np.ndarray:
        """A^T of chips."""
        spectrum = np.zeros(math.prod(self.shape))
        spectrum[self.places] = self.signs * self.weights * chips[self.chip]
        return fft.idctn(spectrum.reshape(self.shape), norm="ortho")

    def _band(self, image: np.ndarray) -> np.ndarray:
        return fft.dctn(image.astype(np.float64), norm="ortho").ravel()[self.places]


def _foreground(image: np.ndarray) -> np.ndarray:
    """1 where a volume [I J K] is not empty, falling to 0 over some voxels, 0 elsewhere."""
    low = image.min()
    high = np.percentile(image[image > low], 99.5)  # of what is not air, however little that is
    inside = ndimage.gaussian_filter(image.astype(np.float64), 1) > low + FOREGROUND * (high - low)
    return ndimage.gaussian_filter(inside.astype(np.float64), 1) * inside
