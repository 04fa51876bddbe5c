"""Detail in voxels: a denoiser and the measurements take turns until they agree."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from medldm.operators.base import LinearOperator, conjugate_gradients

PRODUCTS = 12


def plug_and_play(
    restore: Callable[[Tensor, Tensor], Tensor], operator: LinearOperator, y: Tensor, start: Tensor, level: float, penalty: float, turns: int
) -> Iterator[Tensor]:
    """ADMM with a denoiser in place of the prior's proximal step (Venkatakrishnan et al. 2013).

    x <- argmin |A x - y|^2 + p |x - v + u|^2,  v <- restore(x + u, l),  u <- u + x - v.

    With the best denoiser of a Gaussian image it finds the mode for noise of standard deviation l sqrt(p). A level about as large as the
    errors of the start, well above the noise of the measurements, gave the best images: what is wrong with them is no white noise.

    Args:
        restore: E[x | x + l n], of noisy images [B C I J K] and levels [B].
        operator: A.
        y: measurements.
        start: first images [B C I J K].
        level: l, for which the denoiser is asked.
        penalty: p.
        turns: of both.

    Yields:
        x [B C I J K] after each turn.
    """
    back, levels = operator.adjoint(y), torch.full((len(start),), level, device=start.device)
    x = v = start
    u = torch.zeros_like(start)
    for _ in range(turns):
        x = conjugate_gradients(lambda d: operator.normal(d) + penalty * d, back + penalty * (v - u), PRODUCTS, 1e-5, start=v)
        v = restore(x + u, levels)
        u = u + x - v
        yield x
