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
WINDOW = 3
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
    def fit(cls, cases: Sequence[tuple[Tensor, Tensor, Tensor]]) -> "ErrorModel":
        """From calibration cases: others than will be judged.

        Args:
            cases: truth [C I J K], reconstruction [C I J K], estimates that it was made of [N C I J K].

        Raises:
            UserError: there is no case.
        """
        if not cases:
            raise UserError("An error model needs at least one calibration case.", "Keep some patients aside for it, such as the split val.")
        rows = torch.cat([features(found, estimates).flatten(1).T for _, found, estimates in cases]).double()
        errors = torch.cat([(found - truth).double().square().flatten() for truth, found, _ in cases])
        every = max(1, len(rows) // MOST_VOXELS)
        some, wanted = rows[::every].numpy(), errors[::every].numpy()
        variance = np.full(len(some), wanted.mean())
        for _ in range(ROUNDS):
            weights, _ = nnls(some / variance[:, None], wanted / variance)
            variance = np.maximum(some @ weights, 1e-3 * wanted.mean())
        ratio = float(torch.quantile((errors[::every].sqrt() / torch.from_numpy(variance).sqrt()), COVERED)) / NORMAL_90
        return cls(torch.from_numpy(weights * ratio**2))

    def __call__(self, found: Tensor, estimates: Tensor) -> Tensor:
        """Standard deviation of the error [C I J K] of a reconstruction [C I J K] made of estimates [N C I J K]."""
        return torch.einsum("f,fcijk->cijk", self.weights.to(found), features(found, estimates)).clamp(min=1e-12).sqrt()


def features(found: Tensor, estimates: Tensor) -> Tensor:
    """What goes with large errors [features C I J K]: 1, edges, structure nearby, and how far each estimate is from the result.

    Squares, averaged over 3 x 3 x 3 voxels, so that the model is a sum of variances.
    """
    edges = gradient(found).square().sum(-1)
    structure = (near(found.square()) - near(found).square()).clamp(min=0)
    spread = near((estimates - found).square().flatten(0, 1)).reshape(estimates.shape)
    return torch.cat([torch.stack([torch.ones_like(found), near(edges), structure]), spread])


def near(x: Tensor) -> Tensor:
    """Mean over a window of 3 x 3 x 3 voxels around each, borders repeated [C I J K]."""
    padded = F.pad(x[None], [WINDOW // 2] * 6, mode="replicate")
    return F.avg_pool3d(padded, WINDOW, stride=1)[0]
