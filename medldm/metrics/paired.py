"""Likeness of two images of the same anatomy: PSNR, NMSE, HFEN, SSIM, MS-SSIM. Intensities in [-1, 1], so the data range is 2."""

import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from medldm.errors import UserError

DATA_RANGE = 2.0
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03
TINY = 1e-9  # of a filtered image that is constant but for rounding


def psnr(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio 10 log10(range^2 / mean squared error) in dB; infinite for equal images.

    Args:
        image: voxels in [-1, 1], any shape.
        reference: voxels of the same shape.
        mask: of the same shape; only voxels where it is not 0 count.

    Raises:
        UserError: the shapes differ, a voxel that counts is not finite, or the mask is empty; so do the others here.
    """
    a, b = _counting(image, reference, mask)
    error = float(np.mean((a - b) ** 2))
    return 10 * math.log10(DATA_RANGE**2 / error) if error else math.inf


def nmse(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Normalised mean squared error sum (x - r)^2 / sum (r + 1)^2 (Zbontar et al. 2018, eq. 17), where -1 is no signal; nan without any.

    Arguments as in `psnr`.
    """
    a, b = _counting(image, reference, mask)
    energy = float(((b + 1) ** 2).sum())
    return float(((a - b) ** 2).sum()) / energy if energy else math.nan


def hfen(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
    """High-frequency error norm |LoG x - LoG r| / |LoG r| of two 3-D images (Ravishankar & Bresler 2011); nan for a constant reference.

    LoG is the Laplacian of a Gaussian of 1.5 voxels. Arguments as in `psnr`; the mask counts the filtered voxels.
    """
    _counting(image, reference, mask)
    a, b = (_laplacian(np.asarray(x, dtype=np.float64)) for x in (image, reference))
    a, b = _counting(a, b, mask)
    norm = float(np.linalg.norm(b))
    return float(np.linalg.norm(a - b)) / norm if norm > TINY * math.sqrt(b.size) else math.nan


def ssim(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Structural similarity of two 3-D images in a uniform window of 7 voxels (Wang 2004; scikit-image), 1 for equal images.

    Args:
        image: voxels [I J K] in [-1, 1].
        reference: voxels [I J K].
        mask: [I J K]; the mean is over windows whose middle voxel it holds, those that cross the border of the image included.
    """
    from skimage.metrics import structural_similarity

    _counting(image, reference, mask)
    smallest = min(image.shape)
    window = min(7, smallest - 1 + smallest % 2)
    value, every = structural_similarity(
        np.asarray(image, np.float64), np.asarray(reference, np.float64), data_range=DATA_RANGE, win_size=window, full=True
    )
    return float(value) if mask is None else float(every[mask != 0].mean())


def ms_ssim(image: np.ndarray | Tensor, reference: np.ndarray | Tensor, mask: np.ndarray | None = None) -> float:
    """Multi-scale structural similarity of two 3-D images [I J K] in [-1, 1]; see `ms_ssim_batch`."""
    _counting(np.asarray(image), np.asarray(reference), mask)
    a, b = (torch.as_tensor(x, dtype=torch.float32)[None, None] for x in (image, reference))
    inside = None if mask is None else torch.as_tensor(mask != 0, dtype=torch.float32)[None, None]
    return float(ms_ssim_batch(a, b, inside)[0])


def _laplacian(x: np.ndarray) -> np.ndarray:
    """LoG of an image; what the cut-off kernel makes of a constant is taken away."""
    return ndimage.gaussian_laplace(x, SIGMA) - x * ndimage.gaussian_laplace(np.ones((1, 1, 1)), SIGMA)


def _counting(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The voxels that count, float64."""
    a, b = np.asarray(image, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.shape != b.shape or (mask is not None and mask.shape != a.shape):
        shapes = [x.shape for x in (a, b, mask) if x is not None]
        raise UserError(f"Images of different grids cannot be compared ({' and '.join(map(str, shapes))}).", "Resample one to the other.")
    if mask is not None:
        a, b = a[mask != 0], b[mask != 0]
    if not a.size:
        raise UserError("Images without voxels, or with an empty mask, cannot be compared.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise UserError("Images with voxels that are not finite (NaN or infinite) cannot be compared.", "Repair them, or mask these voxels.")
    return a, b


def scale_weights(smallest: int) -> list[float]:
    """The standard weights of as many scales as leave a whole window on the smallest axis, scaled to sum 1."""
    levels = 1
    while levels < len(SCALE_WEIGHTS) and smallest >> levels >= WINDOW:
        levels += 1
    total = sum(SCALE_WEIGHTS[:levels])
    return [weight / total for weight in SCALE_WEIGHTS[:levels]]


def ms_ssim_batch(a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Multi-scale structural similarity (Wang 2003), averaged over channels.

    MS-SSIM = ssim_M^w_M * prod_{m<M} cs_m^w_m, means over the image at scale m, each scale half as fine as the one before.

    Args:
        a: images [B C I J K] in [-1, 1].
        b: images of the same shape.
        mask: [B 1 I J K] of 0 and 1; windows count by the share of their middle voxel that lies inside.

    Returns:
        One value per image [B]; 1 for equal images, nan where no window's middle lies inside the mask.
    """
    batch, channels = a.shape[:2]
    a, b = (x.reshape(-1, 1, *x.shape[2:]) for x in (a, b))
    inside = torch.ones_like(a) if mask is None else mask.expand(-1, channels, -1, -1, -1).reshape(a.shape)
    weights = scale_weights(min(a.shape[2:]))
    value = torch.ones(len(a), dtype=a.dtype, device=a.device)
    for level, weight in enumerate(weights):
        last = level == len(weights) - 1
        similarity, contrast = _similarity(a, b, inside)
        value = value * (similarity if last else contrast).clamp_min(0) ** weight
        if not last:
            a, b, inside = (F.avg_pool3d(x, 2) for x in (a, b, inside))
    return value.reshape(batch, -1).mean(dim=1)


def _similarity(a: Tensor, b: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of luminance * contrast * structure, and of contrast * structure, per image."""
    c1, c2 = (K1 * DATA_RANGE) ** 2, (K2 * DATA_RANGE) ** 2
    mean_a, mean_b, aa, bb, ab = _blur(torch.cat([a, b, a * a, b * b, a * b])).chunk(5)
    contrast = (2 * (ab - mean_a * mean_b) + c2) / (aa - mean_a**2 + bb - mean_b**2 + c2)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    cut = [(n - m) // 2 for n, m in zip(a.shape[2:], contrast.shape[2:], strict=True)]
    weight = inside[(..., *(slice(c, c + m) for c, m in zip(cut, contrast.shape[2:], strict=True)))]
    total = weight.sum(dim=(1, 2, 3, 4))
    return (luminance * contrast * weight).sum(dim=(1, 2, 3, 4)) / total, (contrast * weight).sum(dim=(1, 2, 3, 4)) / total


def _blur(x: Tensor) -> Tensor:
    """Gaussian average [B 1 I J K] where the whole window lies inside the image, one axis after the other.

    Shifted sums: a convolution of one channel is ten times slower in oneDNN.
    """
    smallest = min(x.shape[2:])
    kernel = _gaussian(min(WINDOW, smallest - 1 + smallest % 2)).tolist()
    for axis in (2, 3, 4):
        length = x.shape[axis] - len(kernel) + 1
        total = x.narrow(axis, 0, length) * kernel[0]
        for shift, weight in enumerate(kernel[1:], 1):
            total.add_(x.narrow(axis, shift, length), alpha=weight)
        x = total
    return x


@cache
def _gaussian(size: int) -> Tensor:
    distance = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    kernel = torch.exp(-0.5 * (distance / SIGMA) ** 2)
    return kernel / kernel.sum()
