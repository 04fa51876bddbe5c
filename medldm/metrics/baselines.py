"""What a model has to beat: plain linear coders."""

import numpy as np


def dct_lowpass(image: np.ndarray, kept_fraction: float) -> np.ndarray:
    """Code an image by its lowest frequencies: the linear coder to compare an autoencoder with at the same rate.

    Orthonormal DCT-II of the whole volume; kept are the round(kept_fraction * voxels) coefficients, at least one, of smallest
    frequency radius sqrt(sum_a (k_a / n_a)^2) with k_a the frequency index and n_a the length of axis a (Ahmed 1974).

    Args:
        image: voxels [I J K].
        kept_fraction: coefficients kept per voxel, in (0, 1].

    Returns:
        The decoded image [I J K], float64; it may leave the image's range a little.
    """
    from scipy.fft import dctn, idctn

    coefficients = dctn(np.asarray(image, dtype=np.float64), norm="ortho")
    axes = [np.arange(n) / n for n in image.shape]
    radius = sum(grid**2 for grid in np.meshgrid(*axes, indexing="ij"))
    kept = max(1, round(kept_fraction * image.size))
    lowest = np.argsort(radius, axis=None, kind="stable")[:kept]
    mask = np.zeros(image.size, dtype=bool)
    mask[lowest] = True
    return idctn(coefficients * mask.reshape(image.shape), norm="ortho")
