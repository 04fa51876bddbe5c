"""Reconstruction without a network: what every learned prior has to beat, and where it starts from."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from medldm.errors import UserError
from medldm.operators.base import LinearOperator, conjugate_gradients
from medldm.operators.ct import ParallelCT

SPACE = (-3, -2, -1)
TINY = 1e-12
POWER_STEPS = 12
#: Settings of methods, and the least that each may be.
LEAST = {"weight": 0.0, "noise": 0.0, "level": 0.0, "penalty": 0.0, "iterations": 1, "products": 1, "turns": 1}


@dataclass(frozen=True)
class Classical(ABC):
    """An estimate of images [B C I J K] from measurements. UserError where a setting is out of its range."""

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            if not least <= getattr(self, name, least) < math.inf:
                raise UserError(f"{type(self).__name__}: {name}={getattr(self, name)} must be at least {least:g}, and finite.")

    @abstractmethod
    def __call__(self, operator: LinearOperator, y: Tensor) -> Tensor:
        """The estimate.

        Args:
            operator: what measured.
            y: measurements [B ...].
        """


@dataclass(frozen=True)
class ZeroFilled(Classical):
    """A* y: for orthonormal measurements such as k-space, what is missing counts as zero."""

    def __call__(self, operator: LinearOperator, y: Tensor) -> Tensor:
        """See `Classical`."""
        return operator.adjoint(y)


@dataclass(frozen=True)
class Tikhonov(Classical):
    """argmin |A x - y|^2 + w |x|^2; with coils it is regularised SENSE (Pruessmann et al. 2001).

    Args:
        weight: w, relative to the largest eigenvalue of A* A, at least 0.
        iterations: of conjugate gradients.
    """

    weight: float = 1e-3
    iterations: int = 60

    def __call__(self, operator: LinearOperator, y: Tensor) -> Tensor:
        """See `Classical`."""
        right = operator.adjoint(y)
        weight = self.weight * largest_eigenvalue(operator, right)
        return conjugate_gradients(lambda x: operator.normal(x) + weight * x, right, self.iterations, 1e-6)


@dataclass(frozen=True)
class TotalVariation(Classical):
    """argmin |A x - y|^2 / 2 + w sum_v |grad x|_v, isotropic (Rudin, Osher & Fatemi 1992), by ADMM (Goldstein & Osher 2009).

    Args:
        weight: w, relative to the largest eigenvalue of A* A.
        iterations: of ADMM; the objective is then within 1e-3 of its minimum for the operators here.
        products: with A* A in each iteration, from where the last one stopped.
        spacing: voxel sizes along I, J, K in any unit; differences are taken relative to the smallest.
    """

    weight: float = 0.01
    iterations: int = 60
    products: int = 6
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def scales(self) -> tuple[float, ...]:
        """Factors of differences along I, J, K."""
        return tuple(min(self.spacing) / s for s in self.spacing)

    def __call__(self, operator: LinearOperator, y: Tensor) -> Tensor:
        """See `Classical`."""
        right = operator.adjoint(y)
        eigenvalue = largest_eigenvalue(operator, right)
        weight, scales = max(self.weight, TINY) * eigenvalue, self.scales
        x = conjugate_gradients(operator.normal, right, self.products)
        # a penalty at which one shrinking moves gradients by about their own size, whatever the unit of x
        penalty = weight / gradient(x, scales).abs().square().sum(-1).mean().sqrt().clamp(min=TINY)
        split = gradient(x, scales)
        dual = torch.zeros_like(split)
        for _ in range(self.iterations):
            x = conjugate_gradients(
                lambda v: operator.normal(v) + penalty * divergence(gradient(v, scales), scales),
                right + penalty * divergence(split - dual, scales),
                self.products,
                start=x,
            )
            moved = gradient(x, scales)
            split = _shrunk(moved + dual, weight / penalty)
            dual = dual + moved - split
        return x

    def objective(self, operator: LinearOperator, y: Tensor, x: Tensor) -> Tensor:
        """What is minimised, for each member of a batch [B]."""
        weight = self.weight * largest_eigenvalue(operator, operator.adjoint(y))
        misfit = (operator(x) - y).abs().square().flatten(1).sum(1) / 2
        return misfit + weight * _lengths(gradient(x, self.scales)).flatten(1).sum(1)


@dataclass(frozen=True)
class Wavelet(Classical):
    """argmin |A x - y|^2 / 2 + w |W x|_1 in orthonormal wavelets, by FISTA with random shifts (Beck & Teboulle 2009; Figueiredo & Nowak 2003).

    Args:
        weight: w, relative to the largest eigenvalue of A* A and to the unit of x.
        iterations: of FISTA.
        levels: of the transform; fewer where the shortest axis has not room for them.
        family: of PyWavelets, such as db4 or haar.
    """

    weight: float = 0.01
    iterations: int = 60
    levels: int = 3
    family: str = "db4"

    def __call__(self, operator: LinearOperator, y: Tensor) -> Tensor:
        """See `Classical`."""
        right = operator.adjoint(y)
        step = 1 / largest_eigenvalue(operator, right)
        x = ahead = step * right  # least squares would blow up what is hardly measured, and these steps are slow to forget it
        momentum, generator = 1.0, torch.Generator().manual_seed(0)
        for _ in range(self.iterations):
            shift = [int(torch.randint(2**self.levels, (1,), generator=generator)) for _ in SPACE]
            moved = (ahead - step * (operator.normal(ahead) - right)).roll(shift, SPACE)
            before, x = x, self._shrunk(moved).roll([-s for s in shift], SPACE)
            last, momentum = momentum, (1 + math.sqrt(1 + 4 * momentum**2)) / 2
            ahead = x + (last - 1) / momentum * (x - before)
        return x

    def _shrunk(self, x: Tensor) -> Tensor:
        import pywt

        levels = min(self.levels, pywt.dwtn_max_level(x.shape[-3:], self.family))  # beyond, coefficients describe the border
        details = pywt.wavedecn(x.cpu().numpy(), self.family, mode="periodization", level=levels, axes=SPACE)
        shrunk = [details[0]] + [{key: pywt.threshold(band, self.weight, "soft") for key, band in level.items()} for level in details[1:]]
        back = pywt.waverecn(shrunk, self.family, mode="periodization", axes=SPACE)
        return torch.from_numpy(back[tuple(slice(n) for n in x.shape)]).to(x)


@dataclass(frozen=True)
class Sirt(Classical):
    """x <- x + C A* R (y - A x), with R and C the inverses of row and column sums (Gilbert 1972); for measurements that do not subtract.

    Args:
        iterations: the fewer, the smoother.
        lowest: no value below it; None for no bound.
    """

    iterations: int = 60
    lowest: float | None = None

    def __call__(self, operator: LinearOperator, y: Tensor) -> Tensor:
        """See `Classical`."""
        columns = operator.adjoint(torch.ones_like(y)).clamp(min=TINY)
        rows = operator(torch.ones_like(columns)).clamp(min=TINY)
        x = torch.zeros_like(columns)
        for _ in range(self.iterations):
            x = x + operator.adjoint((y - operator(x)) / rows) / columns
            x = x if self.lowest is None else x.clamp(min=self.lowest)
        return x


@dataclass(frozen=True)
class AboveAir(Classical):
    """A method for x + 1, which is 0 in air where images in [-1, 1] are -1; for methods that take air as nothing.

    Args:
        method: such as `Sirt` with no value below 0.
    """

    method: Classical

    def __call__(self, operator: LinearOperator, y: Tensor) -> Tensor:
        """See `Classical`."""
        return self.method(operator, y + operator(torch.ones_like(operator.adjoint(y)))) - 1


@dataclass(frozen=True)
class FilteredBackprojection(Classical):
    """Inverse Radon transform of parallel beams, ramp filter in space (Kak & Slaney 1988, eq. 3.61), with a Hann window.

    Args:
        cutoff: frequency at which the window is 0, relative to the detector's highest, which it may exceed; 0 for a plain ramp.
    """

    cutoff: float = 0.0

    def __call__(self, operator: LinearOperator, y: Tensor) -> Tensor:
        """Only of `ParallelCT`, with angles spread evenly over half a turn."""
        if not isinstance(operator, ParallelCT):
            raise TypeError("Filtered back-projection inverts parallel beams.")
        bins, width = operator.bins, operator.bin_width
        length = 2 * bins
        at = torch.arange(length, dtype=torch.float64)
        at = torch.where(at > bins, at - length, at)
        kernel = torch.where(at % 2 == 1, -1 / (math.pi * at.clamp(min=TINY).where(at > 0, at.clamp(max=-TINY)) * width) ** 2, 0.0)
        kernel[0] = 1 / (4 * width**2)
        ramp = torch.fft.rfft(kernel).real
        if self.cutoff:
            ramp = ramp * torch.where((f := torch.fft.rfftfreq(length) * 2 / self.cutoff) < 1, 0.5 + 0.5 * torch.cos(math.pi * f), 0.0)
        spectrum = torch.fft.rfft(y, n=length, dim=3) * ramp.to(y)[:, None]
        filtered = torch.fft.irfft(spectrum, n=length, dim=3)[:, :, :, :bins] * width
        # a ray's weights in a voxel sum to its length there, a voxel's area over the bin width when summed over the bins
        area = operator.spacing[0] * operator.spacing[1] / width
        return operator.adjoint(filtered) * math.pi / operator.views / area


@dataclass(frozen=True)
class GaussianPrior(Classical):
    """The mean of x given y, where x is Gaussian with a known mean and a stationary covariance: a linear filter that knows the anatomy's average.

    x = m + C^(1/2) u, (C^(1/2) A* A C^(1/2) / s^2 + 1) u = C^(1/2) A* (y - A m) / s^2.

    Args:
        mean: m [C I J K].
        spectrum: power of x - m at each frequency of the orthonormal transform, not centred [C I J K].
        noise: s > 0, standard deviation of the noise in y (of real and imaginary part each, where y is complex).
        iterations: of conjugate gradients.
    """

    mean: Tensor
    spectrum: Tensor
    noise: float
    iterations: int = 60

    def __call__(self, operator: LinearOperator, y: Tensor) -> Tensor:
        """See `Classical`."""
        mean = self.mean.to(y.real.dtype).expand(len(y), *self.mean.shape)
        colour = coloured(self.spectrum.to(mean).sqrt())
        right = colour(operator.adjoint(y - operator(mean))) / self.noise**2
        found = conjugate_gradients(lambda u: colour(operator.normal(colour(u))) / self.noise**2 + u, right, self.iterations, 1e-6)
        return mean + colour(found)


def coloured(gain: Tensor) -> Callable[[Tensor], Tensor]:
    """A filter that multiplies each frequency of real images by a real gain [C I J K], which is even in frequency."""
    return lambda x: torch.fft.ifftn(torch.fft.fftn(x, dim=SPACE) * gain, dim=SPACE).real.to(x.dtype)


def gradient(x: Tensor, scales: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Tensor:
    """Forward differences along I, J, K [... 3], 0 at the far border."""
    parts = []
    for axis, scale in zip(SPACE, scales, strict=True):
        moved = torch.diff(x, dim=axis, append=x.narrow(axis, x.shape[axis] - 1, 1))
        parts.append(moved * scale)
    return torch.stack(parts, -1)


def divergence(g: Tensor, scales: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Tensor:
    """The adjoint of `gradient`, minus the divergence."""
    total = torch.zeros_like(g[..., 0])
    for number, (axis, scale) in enumerate(zip(SPACE, scales, strict=True)):
        part = g[..., number] * scale
        n = part.shape[axis]
        inside = part.narrow(axis, 0, n - 1)
        zero = torch.zeros_like(part.narrow(axis, 0, 1))
        total = total + torch.cat([zero, inside], axis) - torch.cat([inside, zero], axis)
    return total


def largest_eigenvalue(operator: LinearOperator, like: Tensor) -> float:
    """Of A* A, by power iteration from a fixed start (von Mises & Pollaczek-Geiringer 1929)."""
    x = torch.randn(like[:1].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like)
    size = 1.0
    for _ in range(POWER_STEPS):
        x = operator.normal(x / x.norm().clamp(min=TINY))
        size = float(x.norm())
    return size


def _lengths(g: Tensor) -> Tensor:
    return g.abs().square().sum(-1).sqrt()


def _shrunk(g: Tensor, by: Tensor | float) -> Tensor:
    """Vectors shortened by `by`, to zero at least."""
    length = _lengths(g)[..., None]
    return g * (1 - by / length.clamp(min=TINY)).clamp(min=0)
