"""Frequencies of grids of any size, in common bins."""

import torch
from torch import Tensor

from medldm.types import Shape3

BINS = 12  # per axis, from frequency 0 to the highest


def bins(shape: Shape3) -> Tensor:
    """The bin of each frequency [I J K], in the order of fftn: one number below BINS^3 made of the three axes' |f|.

    Bins are shares of the highest frequency of each axis, so that images of any size can be used together.

    Args:
        shape: voxels I, J, K.
    """
    i, j, k = (((torch.fft.fftfreq(n).abs() * 2 * BINS).long()).clamp(max=BINS - 1) for n in shape)
    return (i[:, None, None] * BINS + j[None, :, None]) * BINS + k


def lowest(count: int) -> Tensor:
    """True for the bins that are among the first `count` along every axis [BINS^3]."""
    return (torch.cartesian_prod(*[torch.arange(BINS)] * 3) < count).all(1)


def power(x: Tensor) -> Tensor:
    """Mean power |F x|^2 of an image [C I J K] in each bin [C BINS^3], orthonormal; nan in bins without a frequency."""
    spectrum = torch.fft.fftn(x.double(), dim=(-3, -2, -1), norm="ortho").abs().square()
    places = bins(x.shape[1:]).flatten()
    sums = torch.zeros(len(x), BINS**3, dtype=torch.float64).index_add_(1, places, spectrum.flatten(1))
    counts = torch.bincount(places, minlength=BINS**3)
    return sums / torch.where(counts > 0, counts, torch.nan)
