"""Likeness of two images of the same anatomy: PSNR, SSIM, MS-SSIM. Intensities in [-1, 1], so the data range is 2."""

import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

DATA_RANGE = 2.0
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio 10 log10(range^2 / mean squared error) in dB; infinite for equal images.

    Args:
        image: voxels in [-1, 1], any shape.
        reference: voxels of the same shape.
    """
    error = float(np.mean((np.asarray(image, dtype=np.float64) - np.asarray(reference, dtype=np.float64)) ** 2))
    return 10 * math.log10(DATA_RANGE**2 / error) if error else math.inf


def ssim(image: np.ndarray, reference: np.ndarray) -> float:
    """Structural similarity of two 3-D images in a uniform window of 7 voxels (Wang 2004; scikit-image), 1 for equal images.

    Args:
        image: voxels [I J K] in [-1, 1].
        reference: voxels [I J K].
    """
    from skimage.metrics import structural_similarity

    smallest = min(image.shape)
    window = min(7, smallest - 1 + smallest % 2)
    return float(structural_similarity(np.asarray(image, np.float64), np.asarray(reference, np.float64), data_range=DATA_RANGE, win_size=window))


def ms_ssim(image: np.ndarray | Tensor, reference: np.ndarray | Tensor) -> float:
    """Multi-scale structural similarity of two 3-D images [I J K] in [-1, 1]; see `ms_ssim_batch`."""
    a, b = (torch.as_tensor(x, dtype=torch.float32)[None, None] for x in (image, reference))
    return float(ms_ssim_batch(a, b)[0])


def scale_weights(smallest: int) -> list[float]:
    """The standard weights of as many scales as leave a whole window on the smallest axis, scaled to sum 1."""
    levels = 1
    while levels < len(SCALE_WEIGHTS) and smallest >> levels >= WINDOW:
        levels += 1
    total = sum(SCALE_WEIGHTS[:levels])
    return [weight / total for weight in SCALE_WEIGHTS[:levels]]


def ms_ssim_batch(a: Tensor, b: Tensor) -> Tensor:
    """Multi-scale structural similarity (Wang 2003), averaged over channels.

    MS-SSIM = ssim_M^w_M * prod_{m<M} cs_m^w_m, means over the image at scale m, each scale half as fine as the one before.

    Args:
        a: images [B C I J K] in [-1, 1].
        b: images of the same shape.

    Returns:
        One value per image [B]; 1 for equal images.
    """
    batch = a.shape[0]
    a, b = (x.reshape(-1, 1, *x.shape[2:]) for x in (a, b))
    weights = scale_weights(min(a.shape[2:]))
    value = torch.ones(len(a), dtype=a.dtype, device=a.device)
    for level, weight in enumerate(weights):
        last = level == len(weights) - 1
        similarity, contrast = _similarity(a, b)
        value = value * (similarity if last else contrast).clamp_min(0) ** weight
        if not last:
            a, b = F.avg_pool3d(a, 2), F.avg_pool3d(b, 2)
    return value.reshape(batch, -1).mean(dim=1)


def _similarity(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of luminance * contrast * structure, and of contrast * structure, per image."""
    c1, c2 = (K1 * DATA_RANGE) ** 2, (K2 * DATA_RANGE) ** 2
    mean_a, mean_b, aa, bb, ab = _blur(torch.cat([a, b, a * a, b * b, a * b])).chunk(5)
    contrast = (2 * (ab - mean_a * mean_b) + c2) / (aa - mean_a**2 + bb - mean_b**2 + c2)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return (luminance * contrast).mean(dim=(1, 2, 3, 4)), contrast.mean(dim=(1, 2, 3, 4))


def _blur(x: Tensor) -> Tensor:
    """Gaussian average [B 1 I J K] where the whole window lies inside the image, one axis after the other."""
    smallest = min(x.shape[2:])
    kernel = _gaussian(min(WINDOW, smallest - 1 + smallest % 2)).to(x)
    for axis in range(3):
        shape = [1] * 5
        shape[2 + axis] = -1
        x = F.conv3d(x, kernel.reshape(shape))
    return x


@cache
def _gaussian(size: int) -> Tensor:
    distance = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    kernel = torch.exp(-0.5 * (distance / SIGMA) ** 2)
    return kernel / kernel.sum()
