"""Calibrated fusion: the linear combination of several reconstructions that was best, frequency by frequency, on patients set aside for it."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medldm.errors import UserError
from medldm.operators.spectra import BINS, bins

SMOOTHING = 1.0  # bins
RIDGE = 1e-3  # relative to the mean power of the estimates in a bin
FEW = 20.0  # coefficients of a bin that count as much as what all bins say
GROUPS = 2  # not measured, measured
FLOOR = 1e-9  # of the largest power of all, where a bin holds hardly any


@dataclass
class Fusion:
    """x = m + F^-1 sum_i a_i(f) F (u_i - m), with weights by group and frequency fitted to cases whose truth is known.

    The weights of a bin solve the ridge regression of the true coefficients on those of the estimates, from cross-spectra
    summed over calibration cases and smoothed over neighbouring bins (a Wiener filter with several inputs; Wiener 1949). The fewer
    coefficients a bin has, the more its weights are drawn to those that are best for all bins of the group together. Frequencies that
    were measured and others are told apart: at the first the measurements know best, at the others the prior. See `spectra.bins`.

    Args:
        weights: a [groups bins bins bins estimates].
    """

    weights: Tensor

    @classmethod
    def fit(cls, cases: Iterable[tuple[Tensor, Tensor, Tensor | None]], ridge: float = RIDGE) -> "Fusion":
        """Weights from calibration cases: others than the models were trained on and than will be judged.

        Args:
            cases: truth [I J K], estimates [N I J K], both without the mean m; group of each frequency [I J K], whole numbers in centred
                order, or None for one group.
            ridge: of the regression, relative to the power of the estimates.

        Raises:
            UserError: there is no case.
        """
        found = [_cross_spectra(*case) for case in cases]
        if not found:
            raise UserError("Fusion needs at least one calibration case.", "Keep some patients aside for it, such as the split val.")
        sums, counts = (torch.stack(parts).sum(0) for parts in zip(*found, strict=True))
        groups, (estimates, _) = len(counts) // BINS**3, sums.shape[:2]
        sums, counts = sums.permute(2, 0, 1).reshape(groups, -1, estimates, 1 + estimates), counts.reshape(groups, -1)
        even = torch.full((groups, 1, estimates), 1 / estimates, dtype=torch.float64)
        overall = _weights(sums.sum(1, keepdim=True), counts.sum(1, keepdim=True), even, ridge)
        weights = _weights(sums, counts, overall.expand(-1, BINS**3, -1), ridge)
        return cls(weights.reshape(groups, BINS, BINS, BINS, estimates))

    def __call__(self, estimates: Tensor, groups: Tensor | None = None) -> Tensor:
        """The fused image [I J K] without the mean.

        Args:
            estimates: [N I J K] without the mean, in the order of the calibration.
            groups: as in `fit`.
        """
        places, _ = _places(estimates.shape[1:], groups)
        gains = self.weights.flatten(0, 3).to(estimates.device)[places.flatten()].T.reshape(estimates.shape)
        spectrum = (torch.fft.fftn(estimates.double(), dim=(1, 2, 3)) * gains).sum(0)
        return torch.fft.ifftn(spectrum).real.to(estimates.dtype)


def _weights(sums: Tensor, counts: Tensor, centre: Tensor, ridge: float) -> Tensor:
    """argmin_a sum |t - a u|^2 + (ridge + few / count) power |a - c|^2 in each bin [groups bins N].

    Args:
        sums: products of estimates with truth and estimates [groups bins N 1 + N].
        counts: coefficients in each bin [groups bins].
        centre: c [groups bins N].
        ridge: the least there is, relative to the power of the estimates.
    """
    squares, products = sums[..., 1:], sums[..., 0]
    power = squares.diagonal(dim1=2, dim2=3).mean(2)
    damping = (ridge + FEW / counts.clamp(min=1)) * power + FLOOR * power.max().clamp(min=1e-30)
    matrix = squares + damping[..., None, None] * torch.eye(squares.shape[-1], dtype=torch.float64)
    return torch.linalg.solve(matrix, products + damping[..., None] * centre)


def _cross_spectra(truth: Tensor, estimates: Tensor, groups: Tensor | None) -> tuple[Tensor, Tensor]:
    """Products of estimates' coefficients with those of the truth and of estimates, summed over bins [N, 1 + N, bins]; their number [bins]."""
    places, number = _places(truth.shape, groups)
    spectra = torch.fft.fftn(torch.cat([truth[None], estimates]).double(), dim=(1, 2, 3), norm="ortho").flatten(1)
    cross = torch.einsum("in,jn->ijn", spectra[1:].conj(), spectra).real
    sums = torch.zeros(len(estimates), len(estimates) + 1, number * BINS**3, dtype=torch.float64)
    sums.index_add_(2, places.flatten(), cross)
    counts = torch.bincount(places.flatten(), minlength=number * BINS**3).double()
    smooth = _smoothed(torch.cat([sums.flatten(0, 1), counts[None]]).reshape(-1, number, BINS, BINS, BINS)).flatten(1)
    return smooth[:-1].reshape(sums.shape), smooth[-1]


def _places(shape: torch.Size, groups: Tensor | None) -> tuple[Tensor, int]:
    """The flat bin of each frequency in the order of fftn [I J K], and the number of groups.

    Weights of a frequency and of its opposite are equal, so that fused images are real: where one of the two is measured, both count as such.
    """
    places = bins(tuple(shape))
    if groups is None:
        return places, 1
    own = torch.fft.ifftshift(groups).long()
    opposite = own.flip((0, 1, 2)).roll((1, 1, 1), (0, 1, 2))
    return torch.maximum(own, opposite) * BINS**3 + places, GROUPS


def _smoothed(sums: Tensor) -> Tensor:
    """Sums [N groups bins bins bins] with those of neighbouring bins, by a Gaussian along each axis; frequency 0 is a mirror."""
    reach = torch.arange(-2, 3, dtype=torch.float64)
    kernel = torch.exp(-(reach**2) / (2 * SMOOTHING**2))
    flat = sums.flatten(0, 1)[:, None]
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = len(kernel)
        padding = [0, 0, 0]
        padding[axis] = 2
        flat = F.conv3d(F.pad(flat, [p for n in reversed(padding) for p in (n, n)], mode="replicate"), kernel.reshape(shape))
    return flat[:, 0].reshape(sums.shape)
