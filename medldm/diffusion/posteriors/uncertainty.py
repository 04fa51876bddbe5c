"""How far a reconstruction may be off, voxel by voxel, learnt from patients whose truth is known."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.errors import UserError
from medldm.operators.classical import gradient
from medldm.randomness import keyed, seeded

WINDOW, WIDE = 3, 7
AROUND = (3, 5, 9)  # voxels along a side, of edges and structure
BORDER = 2.0  # voxels
NORMAL_90 = 1.6449  # standard deviations on either side that hold 90 % of a normal law
COVERED = 0.9
MOST_VOXELS = 200_000
LEAST = 1e-5  # of a squared number, in images in [-1, 1]

WIDTH, STEPS, BATCH, RATE, DECAY = 32, 800, 4096, 3e-3, 1e-2  # of the fit: seconds
USUAL = 4.0  # standard deviations of a feature; beyond them it says no more


@dataclass(frozen=True)
class ErrorModel:
    """Variance of the error at each voxel, log v = n(f), n a small network of what tells hard places from easy ones (see `features`).

    n maximises the likelihood of normal errors on calibration cases, sum log v + e^2 / v (Nix & Weigend 1994); then v is scaled so
    that +- 1.645 sqrt(v) holds 90 % of their voxels.

    Args:
        network: n, of standardised features.
        mean, std: of the features [features].
        scale: of the standard deviation.
    """

    network: nn.Module
    mean: Tensor
    std: Tensor
    scale: float

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
        voxels = sum(truth.numel() for truth, *_ in cases)
        every = max(1, voxels // MOST_VOXELS)
        rows = torch.cat([features(*known).flatten(1).T[::every] for _, *known in cases])
        squares = torch.cat([(found - truth).square().flatten()[::every] for truth, found, _, _ in cases])
        mean, std = rows.mean(0), rows.std(0) + 1e-3
        network = _fitted((rows - mean) / std, squares)
        model = cls(network, mean, std, 1.0)
        ratio = float((squares.sqrt() / model._of(rows)).quantile(COVERED)) / NORMAL_90
        return cls(network, mean, std, ratio)

    def __call__(self, found: Tensor, estimates: Tensor, cleaned: Tensor) -> Tensor:
        """Standard deviation of the error [C I J K] of a reconstruction [C I J K]; arguments as in `features`."""
        return self._of(features(found, estimates, cleaned).flatten(1).T).reshape(found.shape)

    @torch.no_grad()
    def _of(self, rows: Tensor) -> Tensor:
        """Standard deviations [N] for features [N features]."""
        return self.scale * (self.network(((rows - self.mean) / self.std).clamp(-USUAL, USUAL))[:, 0] / 2).exp()


def error_network(features: int) -> nn.Sequential:
    """The untrained network [N features] -> log variance [N 1]."""
    with seeded("error model"):
        return nn.Sequential(nn.Linear(features, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, 1))


def _fitted(inputs: Tensor, squares: Tensor) -> nn.Module:
    """The network by Adam on random voxels; the same for the same cases."""
    network = error_network(inputs.shape[1])
    nn.init.constant_(network[-1].bias, float(squares.mean().log()))
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    generator = keyed("error model", "voxels")
    for _ in range(STEPS):
        chosen = torch.randint(len(inputs), (BATCH,), generator=generator)
        log = network(inputs[chosen].clamp(-USUAL, USUAL))[:, 0]
        loss = (log + squares[chosen] / log.exp()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


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
    """What goes with large errors [features C I J K].

    Logarithms of squares averaged over the neighbourhood, of edges, structure, other estimates' distance and what a denoiser would
    change; then the image itself, and how near each pair of borders is, from 1 at the border to 0.

    Args:
        found: the reconstruction [C I J K].
        estimates: that it was made of [N C I J K].
        cleaned: the reconstruction after denoising at several levels [M C I J K].
    """
    steep = gradient(found).square().sum(-1)
    edges = [near(steep, window) for window in AROUND]
    structure = [(near(found.square(), window) - near(found, window).square()).clamp(min=0) for window in AROUND]
    spread = [near((estimate - found).square()) for estimate in estimates]
    changed = [near((one - found).square(), window) for one in cleaned for window in (WINDOW, WIDE)]
    logs = (torch.stack([*edges, *structure, *spread, *changed]) + LEAST).log()
    borders = [torch.exp(-_border(found.shape[axis]) / BORDER).reshape([-1 if a == axis else 1 for a in range(4)]) for axis in (1, 2, 3)]
    return torch.cat([logs, found[None], *(b.to(found).expand_as(found)[None] for b in borders)])


def near(x: Tensor, window: int = WINDOW) -> Tensor:
    """Mean over a cube of voxels around each, borders repeated [C I J K]."""
    padded = F.pad(x[None], [window // 2] * 6, mode="replicate")
    return F.avg_pool3d(padded, window, stride=1)[0]


def _border(n: int) -> Tensor:
    """Voxels to the nearer end of an axis [n]."""
    at = torch.arange(n, dtype=torch.float32)
    return torch.minimum(at, n - 1 - at)
