"""How far a reconstruction may be off, voxel by voxel, learnt from patients whose truth is known."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import nnls
from torch import Tensor

from medldm.errors import UserError
from medldm.operators.classical import gradient

ROUNDS = 4
WINDOW, WIDE = 3, 7
BORDER = 2.0  # voxels
NORMAL_90 = 1.6449  # standard deviations on either side that hold 90 % of a normal law
COVERED = 0.9
MOST_VOXELS = 200_000


@dataclass(frozen=True)
class ErrorModel:
    """Variance of the error at each voxel, v = sum_i c_i f_i with c_i >= 0, of what tells hard places from easy ones (see `features`).

    The c_i maximise the likelihood of normal errors on calibration cases (least squares with the weights 1 / v^2, solved again and again);
    then v is scaled so that +- 1.645 sqrt(v) holds 90 % of their voxels.

    Args:
        weights: c [features].
    """

    weights: Tensor

    @classmethod
    def fit(cls, cases: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]) -> "ErrorModel":
        """From calibration cases: others than will be judged.

        Args:
            cases: truth [C I J K], reconstruction [C I J K], estimates that it was made of [N C I J K], cleaned versions of it [M C I J K].

        Raises:
            UserError: there is no case.
        """
        if not cases:
            raise UserError("An error model needs at least one calibration case.", "Keep some patients aside for it, such as the split val.")
        rows = torch.cat([features(*known).flatten(1).T for _, *known in cases]).double()
        errors = torch.cat([(found - truth).double().square().flatten() for truth, found, _, _ in cases])
        every = max(1, len(rows) // MOST_VOXELS)
        some, wanted = rows[::every].numpy(), errors[::every].numpy()
        variance = np.full(len(some), wanted.mean())
        for _ in range(ROUNDS):
            weights, _ = nnls(some / variance[:, None], wanted / variance)
            variance = np.maximum(some @ weights, 1e-3 * wanted.mean())
        ratio = float(torch.quantile((errors[::every].sqrt() / torch.from_numpy(variance).sqrt()), COVERED)) / NORMAL_90
        return cls(torch.from_numpy(weights * ratio**2))

    def __call__(self, found: Tensor, estimates: Tensor, cleaned: Tensor) -> Tensor:
        """Standard deviation of the error [C I J K] of a reconstruction [C I J K]; arguments as in `features`."""
        return torch.einsum("f,fcijk->cijk", self.weights.to(found), features(found, estimates, cleaned)).clamp(min=1e-12).sqrt()


def trust(error: Tensor, std: Tensor) -> tuple[float, float]:
    """Share of voxels inside their 90 % interval, and correlation of absolute error and standard deviation.

    Args:
        error: of a reconstruction, any shape.
        std: what it was said to be, of the same shape.
    """
    size = error.abs()
    covered = float((size < NORMAL_90 * std).float().mean())
    return covered, float(torch.corrcoef(torch.stack([size.flatten(), std.flatten()]))[0, 1])


def features(found: Tensor, estimates: Tensor, cleaned: Tensor) -> Tensor:
    """What goes with large errors [features C I J K]: 1, edges, structure nearby, other estimates' distance, what a denoiser would change, borders.

    Squares, averaged over the neighbourhood, so that the model is a sum of variances.

    Args:
        found: the reconstruction [C I J K].
        estimates: that it was made of [N C I J K].
        cleaned: the reconstruction after denoising at several levels [M C I J K].
    """
    edges = near(gradient(found).square().sum(-1))
    structure = (near(found.square()) - near(found).square()).clamp(min=0)
    spread = [near((estimate - found).square()) for estimate in estimates]
    changed = [near((one - found).square(), window) for one in cleaned for window in (WINDOW, WIDE)]
    borders = [torch.exp(-_border(found.shape[axis]) / BORDER).reshape([-1 if a == axis else 1 for a in range(4)]) for axis in (1, 2, 3)]
    return torch.stack([torch.ones_like(found), edges, structure, *spread, *changed, *(b.to(found).expand_as(found) for b in borders)])


def near(x: Tensor, window: int = WINDOW) -> Tensor:
    """Mean over a cube of voxels around each, borders repeated [C I J K]."""
    padded = F.pad(x[None], [window // 2] * 6, mode="replicate")
    return F.avg_pool3d(padded, window, stride=1)[0]


def _border(n: int) -> Tensor:
    """Voxels to the nearer end of an axis [n]."""
    at = torch.arange(n, dtype=torch.float32)
    return torch.minimum(at, n - 1 - at)
