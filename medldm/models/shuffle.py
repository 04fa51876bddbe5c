"""Places to channels and back."""

from torch import Tensor


def unshuffle(x: Tensor, r: int = 2) -> Tensor:
    """[B C I J K] -> [B C*r^3 I/r J/r K/r]: every r x r x r block of voxels becomes channels."""
    b, c, i, j, k = x.shape
    x = x.reshape(b, c, i // r, r, j // r, r, k // r, r)
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, c * r**3, i // r, j // r, k // r)


def shuffle(x: Tensor, r: int = 2) -> Tensor:
    """The inverse of `unshuffle`."""
    b, c, i, j, k = x.shape
    x = x.reshape(b, c // r**3, r, r, r, i, j, k)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, c // r**3, i * r, j * r, k * r)
