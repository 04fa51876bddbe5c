"""Contrasts and label maps of one session on one grid, by their positions in space."""

import numpy as np
import torch
from scipy import ndimage

from medldm.volume import Volume


def aligned(volume: Volume, grid: Volume) -> tuple[Volume, float]:
    """Interpolate a volume at the voxel centres of another, at any angle between the two.

    Images: linear interpolation, smoothed before where the grid is coarser than the volume (Cardoso et al. 2015), and the
    lowest value of the channel outside its field of view. Label maps: the label with the largest linearly interpolated
    share, ties to the smaller label; background outside.

    Args:
        volume: voxels [C I J K].
        grid: a volume whose shape and affine the result gets.

    Returns:
        The volume on the grid, and the share of the grid's voxels that lie in the field of view of the volume.
    """
    index = np.linalg.solve(volume.affine, grid.affine)  # voxel of the grid -> voxel of the volume
    matrix, offset = index[:3, :3], index[:3, 3]
    sigma = np.sqrt(np.maximum(np.abs(matrix).max(1) ** 2 - 1, 0) / (8 * np.log(2)))
    inside = _inside(matrix, offset, volume.shape, grid.shape)
    data = np.zeros((len(volume.data), *grid.shape), np.float32)
    for channel, result in zip(volume.data.numpy(), data, strict=True):
        if volume.unit == "label":
            _label_wise(channel, matrix, offset, result)
            result[~inside] = 0
        else:
            smooth = ndimage.gaussian_filter(channel, sigma, mode="nearest") if sigma.any() else channel
            _linear(smooth, matrix, offset, result)
            result[~inside] = channel.min()
    return Volume(torch.from_numpy(data), grid.affine.copy(), volume.unit), float(inside.mean())


def _linear(values: np.ndarray, matrix: np.ndarray, offset: np.ndarray, result: np.ndarray) -> None:
    ndimage.affine_transform(values, matrix, offset, output_shape=result.shape, output=result, order=1, mode="nearest")


def _inside(matrix: np.ndarray, offset: np.ndarray, source: tuple[int, ...], target: tuple[int, ...]) -> np.ndarray:
    """Where the grid lies in the voxels of the source, these half a voxel wide to each side [I J K]."""
    i, j, k = np.ogrid[: target[0], : target[1], : target[2]]
    inside = np.ones(target, bool)
    for (a, b, c), shift, count in zip(matrix, offset, source, strict=True):
        at = a * i + b * j + c * k + shift
        inside &= (at >= -0.5 - 1e-6) & (at <= count - 0.5 + 1e-6)
    return inside


def _label_wise(labels: np.ndarray, matrix: np.ndarray, offset: np.ndarray, result: np.ndarray) -> None:
    """Fill `result`, which is 0; each label is interpolated only where it can have a share, so that many small ones are as cheap as a few."""
    values, codes = np.unique(labels, return_inverse=True)
    boxes = ndimage.find_objects(codes.reshape(labels.shape).astype(np.int32) + 1)
    best = np.zeros_like(result)
    _linear((labels == 0).astype(np.float32), matrix, offset, best)
    back = np.linalg.inv(matrix)
    for value, box in zip(values, boxes, strict=True):
        ends = np.array(np.meshgrid(*[(b.start - 1, b.stop) for b in box], indexing="ij")).reshape(3, -1)
        corners = back @ (ends - offset[:, None])
        low = np.clip(np.floor(corners.min(1)), 0, result.shape).astype(int)
        high = np.clip(np.ceil(corners.max(1)) + 1, 0, result.shape).astype(int)
        if value == 0 or (high <= low).any():
            continue
        reach = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        wide = tuple(slice(max(0, b.start - 1), b.stop + 1) for b in box)
        share = np.zeros(high - low, np.float32)
        start = np.array([w.start for w in wide])
        _linear((labels[wide] == value).astype(np.float32), matrix, offset + matrix @ low - start, share)
        larger = share > best[reach]
        result[reach][larger] = value
        best[reach][larger] = share[larger]
