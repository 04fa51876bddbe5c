"""What a decoder leaves out: noise whose strength follows intensity and edges, and whose spectrum is that of residuals.

A decoder gives the mean of the images that a latent may stand for, which is smoother than any of them. A sample of p(x | z) is
x = D(z) + s(D(z)) g with the deviation s of residuals at an intensity and a steepness, and g stationary Gaussian noise of their power spectrum.
"""

from collections.abc import Iterable

import torch
from torch import Generator, Tensor, nn

INTENSITIES = 16  # bins over [-1, 1]
STEEPNESSES = 6  # bins of the gradient per voxel, each twice as steep as the one before
GENTLEST = 0.02  # gradient per voxel up to which an image is flat
FREQUENCIES = 8  # bins along each axis, from 0 to half a cycle per voxel
BINS = INTENSITIES * STEEPNESSES
TILE = 128  # voxels along each axis after which noise repeats; it is correlated over few


class Grain(nn.Module):
    """Noise that is added to decoded images.

    Args:
        channels: contrasts of the image.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.register_buffer("strength", torch.zeros(channels, INTENSITIES, STEEPNESSES))
        self.register_buffer("spectrum", torch.ones(channels, *(FREQUENCIES,) * 3))

    @torch.no_grad()
    def fit(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> "Grain":
        """Learn from images [C I J K] and what the decoder makes of their latents, of any size; see the module's docstring.

        Args:
            pairs: image, decoded image, both in [-1, 1].
        """
        squares, counts = (torch.zeros(self.strength.shape, dtype=torch.float64) for _ in range(2))
        power, places = (torch.zeros(self.spectrum.shape, dtype=torch.float64) for _ in range(2))
        for image, decoded in pairs:
            for channel, (x, mean) in enumerate(zip(image.double(), decoded.double(), strict=True)):
                residual, where = x - mean, _bins(mean)
                own, number = (_sums(where, values, BINS) for values in (residual.square(), torch.ones_like(residual)))
                squares[channel] += own.reshape(INTENSITIES, STEEPNESSES)
                counts[channel] += number.reshape(INTENSITIES, STEEPNESSES)
                deviation = (own / number.clamp(min=1)).sqrt()[where]
                unit = torch.where(deviation > 0, residual / deviation.clamp(min=1e-12), 0)
                found = torch.fft.fftn(unit).abs().square() / unit.numel()
                index = _frequency_bins(unit.shape)
                power[channel] += _sums(index, found, FREQUENCIES**3).reshape(power[channel].shape)
                places[channel] += _sums(index, torch.ones_like(found), FREQUENCIES**3).reshape(power[channel].shape)
        deviations = (squares / counts.clamp(min=1)).sqrt()
        self.strength.copy_(torch.stack([_filled(d, n > 0) for d, n in zip(deviations, counts, strict=True)]))
        self.spectrum.copy_(torch.stack([_filled(p, n > 0) for p, n in zip(power / places.clamp(min=1), places, strict=True)]))
        return self

    def facts(self) -> dict[str, list]:
        """Strength and spectrum as plain values."""
        return {"strength": self.strength.tolist(), "spectrum": self.spectrum.tolist()}

    @classmethod
    def of(cls, facts: dict[str, list]) -> "Grain":
        """The inverse of `facts`."""
        grain = cls(len(facts["strength"]))
        grain.strength.copy_(torch.tensor(facts["strength"]))
        grain.spectrum.copy_(torch.tensor(facts["spectrum"]))
        return grain

    @torch.no_grad()
    def forward(self, decoded: Tensor, generator: Generator, amount: float = 1.0) -> Tensor:
        """Decoded images [C I J K] with noise, in [-1, 1].

        Args:
            decoded: in [-1, 1].
            generator: draws the noise.
            amount: of the noise; 1 is that of real images, 0 none.
        """
        if not amount:
            return decoded
        size = tuple(min(n, TILE) for n in decoded.shape[1:])
        white = torch.randn(self.channels, *size, generator=generator)
        index = _frequency_bins(size)
        shaped = [torch.fft.ifftn(torch.fft.fftn(w) * s.cpu().flatten()[index].sqrt()).real for w, s in zip(white, self.spectrum, strict=True)]
        noise = torch.stack([part / part.std().clamp(min=1e-12) for part in shaped])
        for axis, n in enumerate(decoded.shape[1:], 1):
            noise = noise.index_select(axis, torch.arange(n) % size[axis - 1])
        return (decoded + amount * self.deviation(decoded) * noise.to(decoded)).clamp(-1, 1)

    def deviation(self, decoded: Tensor) -> Tensor:
        """Standard deviation of the noise at each voxel of [C I J K], linear between the middles of the bins."""
        fields = []
        for strength, mean in zip(self.strength, decoded, strict=True):
            i, j = _place(mean)
            a, b = i.floor().long().clamp(max=INTENSITIES - 2), j.floor().long().clamp(max=STEEPNESSES - 2)
            u, v = i - a, j - b
            low, high = (strength[a, c] * (1 - u) + strength[a + 1, c] * u for c in (b, b + 1))
            fields.append(low * (1 - v) + high * v)
        return torch.stack(fields).to(decoded)


def _place(mean: Tensor) -> tuple[Tensor, Tensor]:
    """Where voxels [I J K] stand among the bins of intensity and of steepness; whole numbers are the middles of bins."""
    slopes = [torch.gradient(mean, dim=axis)[0] if n > 1 else torch.zeros_like(mean) for axis, n in enumerate(mean.shape)]
    steepness = torch.stack(slopes).square().sum(0).sqrt()
    steps = (steepness / GENTLEST).clamp(min=1e-6).log2() + 0.5
    return ((mean + 1) / 2 * INTENSITIES - 0.5).clamp(0, INTENSITIES - 1), steps.clamp(0, STEEPNESSES - 1)


def _bins(mean: Tensor) -> Tensor:
    """The nearest bin of each voxel [I J K], as a place in the flat table."""
    i, j = (part.round().long() for part in _place(mean))
    return i * STEEPNESSES + j


def _frequency_bins(shape: tuple[int, ...]) -> Tensor:
    """Which entry of a flat spectrum each frequency of a volume belongs to [I J K]."""
    axes = [(torch.fft.fftfreq(n).abs() * 2 * FREQUENCIES).floor().clamp(max=FREQUENCIES - 1).long() for n in shape]
    return (axes[0][:, None, None] * FREQUENCIES + axes[1][None, :, None]) * FREQUENCIES + axes[2]


def _sums(index: Tensor, values: Tensor, length: int) -> Tensor:
    return torch.zeros(length, dtype=values.dtype).index_add_(0, index.flatten(), values.flatten())


def _filled(values: Tensor, known: Tensor) -> Tensor:
    """A table with entries that nothing is known of taken from the nearest that is known."""
    if not known.any():
        return values
    places, there = torch.stack(torch.meshgrid(*map(torch.arange, values.shape), indexing="ij"), -1), known.nonzero()
    nearest = torch.cdist(places.reshape(-1, values.ndim).double(), there.double()).argmin(1)
    return values[known][nearest].reshape(values.shape)
