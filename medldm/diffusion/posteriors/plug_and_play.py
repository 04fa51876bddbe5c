"""Detail in voxels: a restorer and the measurements take turns, from coarse to fine noise levels."""

from collections.abc import Callable

import torch
from torch import Tensor

from medldm.operators.base import LinearOperator, conjugate_gradients, white_noise

PRODUCTS = 12


def plug_and_play(
    restore: Callable[[Tensor, Tensor], Tensor],
    operator: LinearOperator,
    y: Tensor,
    noise: float,
    start: Tensor,
    levels: Tensor,
    strength: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """x <- argmin |A u - y|^2 / s^2 + |u - restore(x, l)|^2 / (strength l^2), for falling levels l (Zhang et al. 2021, DPIR).

    With a generator, noise of the next level is added after each turn (Zhu et al. 2023, DiffPIR): the results are then draws, roughly
    of the posterior.

    Args:
        restore: E[x | x + l n], of noisy images [B C I J K] and levels [B].
        operator: A.
        y: measurements.
        noise: s, standard deviation of y's noise; a hundredth of the last level at least.
        start: first images [B C I J K].
        levels: falling, of the first one the error of the start.
        strength: more trusts the measurements more.
        generator: of added noise; None for none.
    """
    x, back = start, operator.adjoint(y)
    variance = max(noise, float(levels[-1]) / 100) ** 2
    for number, level in enumerate(levels):
        clean = restore(x, level.expand(len(x)))
        ridge = variance / (strength * float(level) ** 2)
        x = conjugate_gradients(lambda v, r=ridge: operator.normal(v) + r * v, back + ridge * clean, PRODUCTS, 1e-5, start=clean)
        if generator is not None and number + 1 < len(levels):
            x = x + float(levels[number + 1]) * white_noise(x, generator)
    return x


def falling(first: float, last: float, count: int) -> Tensor:
    """Levels that fall by one factor [count], float64."""
    return torch.logspace(torch.tensor(first).log10().item(), torch.tensor(last).log10().item(), count, dtype=torch.float64)
