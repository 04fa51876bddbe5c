"""The yardstick of `reconstruction.py`: a network trained end to end for one kind of measurement, which it contains (Aggarwal et al. 2019)."""

import copy
import math
from pathlib import Path

import torch
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medldm.diffusion.posteriors.refine import refine
from medldm.diffusion.restoration import Restoration
from medldm.files import atomic
from medldm.machine import cpu_has_bf16
from medldm.metrics.base import Images
from medldm.operators.acquisitions import Acquisition
from medldm.operators.base import LinearOperator, conjugate_gradients
from medldm.operators.classical import largest_eigenvalue
from medldm.randomness import keyed

TURNS, PRODUCTS = 5, 6
BATCH, RATE, WARM_UP = 2, 3e-4, 0.05
LEVELS, PENALTIES = (0.3, 0.1), (0.02, 0.02)  # first and last turn, to begin with


class Supervised(nn.Module):
    """x <- argmin |A x - y|^2 + p_k |x - F(x, l_k)|^2 in five turns, from the best linear estimate; weights of F, l and p are learnt for A.

    Args:
        acquisition: kind of measurements.
        restoration: a restorer, whose weights F begins with, and the anatomy that the linear estimate knows.
    """

    def __init__(self, acquisition: Acquisition, restoration: Restoration):
        super().__init__()
        self.acquisition, self.restoration = acquisition, copy.deepcopy(restoration)
        self.levels, self.penalties = (nn.Parameter(torch.linspace(*map(math.log, ends), TURNS)) for ends in (LEVELS, PENALTIES))

    def fit(self, images: Images, steps: int, path: Path) -> None:
        """Least squares on whole images, every time measured anew; weights are kept in a file, and read where it is there."""
        if path.is_file():
            self.load_state_dict(load_file(path))
            return
        optimizer = torch.optim.AdamW(self.parameters(), lr=RATE, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=WARM_UP)
        for step in track(range(steps), "supervised"):
            for index in torch.randint(len(images), (BATCH,), generator=keyed("supervised", step)).tolist():
                x = torch.from_numpy(images.image(index)).float()[None]
                operator, y = self.acquisition.measure(x, images.spacing(index), f"supervised-{images.cases[index].case}-{step}")
                ((self.improved(operator, y) - x).square().mean() / BATCH).backward()
            nn.utils.clip_grad_norm_(self.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        with atomic(path) as temporary:
            save_file(self.state_dict(), temporary)

    @torch.inference_mode()
    def forward(self, operator: LinearOperator, y: Tensor) -> Tensor:
        """The image [1 1 I J K]."""
        return refine(operator, y, self.improved(operator, y), self.acquisition.noise)

    def improved(self, operator: LinearOperator, y: Tensor) -> Tensor:
        """What is learnt."""
        back = operator.adjoint(y)
        with torch.no_grad():
            x = self.restoration.anatomy.prior(tuple(back.shape[2:]), self.acquisition.noise)(operator, y)
            mean, unit = self.restoration.mean_like(back), largest_eigenvalue(operator, back)
        for level, penalty in zip(self.levels.exp(), unit * self.penalties.exp(), strict=True):
            with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=cpu_has_bf16()):
                v = self.restoration.restorer(x, level[None], mean).float()
            x = conjugate_gradients(lambda d, p=penalty: operator.normal(d) + p * d, back + penalty * v, PRODUCTS, start=v)
        return x
