"""The last step in voxels: an image that agrees with the measurements as far as their noise allows, and stays near to what was given."""

import torch
from torch import Tensor

from medldm.errors import UserError
from medldm.operators.base import LinearOperator, conjugate_gradients, inner
from medldm.operators.classical import coloured

HALVINGS = 20
RANGE = (1e-6, 1e6)  # of the prior's variance relative to that of the noise
CHANCE, LARGEST = 4.0, 1.1  # standard deviations of the mean square of so much noise; residual over the noise that is never left
EXACT = 2000  # iterations of conjugate gradients where there is no noise, at most
CLOSE = 0.01  # of the residual that is looked for


def refine(operator: LinearOperator, y: Tensor, x: Tensor, noise: float, spectrum: Tensor | None = None, iterations: int = 30) -> Tensor:
    """argmin |A u - y|^2 / s^2 + |u - x|^2_{P^-1}, with P scaled until the residual is that of the noise (Morozov 1966).

    u = x + P A* (A P A* + s^2)^(-1) (y - A x), solved in the image as (P^(1/2) A* A P^(1/2) + s^2) v = P^(1/2) A* (y - A x). An image whose
    residual is no larger than chance makes that of the noise comes back as it is: noise would be all that is let in. Without noise the measurements
    are met exactly, by the nearest image.

    Args:
        operator: A.
        y: measurements [B ...].
        x: images [B C I J K].
        noise: s, standard deviation of y's noise, of real and imaginary part each; 0 for none.
        spectrum: P up to a factor: power of the error of x at each frequency [C I J K], not centred; white by default.
        iterations: of conjugate gradients for each factor that is tried.

    Raises:
        UserError: the noise is negative or no number.
    """
    if not noise >= 0:
        raise UserError(f"noise={noise} must be at least 0.")
    if noise == 0:
        return x + operator.pseudo_inverse(y - operator(x), EXACT, 1e-7)
    colour = coloured(torch.ones_like(x[0]) if spectrum is None else (spectrum / spectrum.mean()).sqrt().to(x))
    right = colour(operator.adjoint(y - operator(x)))
    goal = noise**2 * operator.count(y)
    low, high = (torch.full((len(x),), bound, dtype=torch.float64, device=x.device).log() for bound in RANGE)
    chance = min(1 + CHANCE * (2 / operator.count(y)) ** 0.5, LARGEST**2)
    found, done = x, misfit(operator, y, x) <= chance * goal
    for _ in range(HALVINGS):
        if bool(done.all()):
            break
        middle = (low + high) / 2
        ridge = (noise**2 / middle.exp()).to(x.dtype).reshape(-1, 1, 1, 1, 1)  # P is `middle` times the noise's variance at unit scale
        step = conjugate_gradients(lambda v, r=ridge: colour(operator.normal(colour(v))) + r * v, right, iterations, 1e-5)
        tried = x + colour(step)
        residual = misfit(operator, y, tried)
        found = torch.where(done.reshape(-1, 1, 1, 1, 1), found, tried)
        low, high = torch.where(residual > goal, middle, low), torch.where(residual > goal, high, middle)
        done = done | ((residual - goal).abs() <= 2 * CLOSE * goal)
    return found


def misfit(operator: LinearOperator, y: Tensor, x: Tensor) -> Tensor:
    """|A x - y|^2 of each image [B], float64."""
    residual = operator(x) - y
    return inner(residual, residual)


def residual_ratio(operator: LinearOperator, y: Tensor, x: Tensor, noise: float) -> Tensor:
    """Root mean square of A x - y over the noise's standard deviation [B]; 1 where an image explains the measurements and no more.

    Without noise, |A x - y| / |y|.
    """
    if noise > 0:
        return (misfit(operator, y, x) / (noise**2 * operator.count(y))).sqrt()
    return (misfit(operator, y, x) / inner(y, y).clamp(min=1e-300)).sqrt()
