"""The yardstick of `reconstruction.py`: a 3-D U-Net of MONAI trained for one kind of measurement alone, from linear estimates to images."""

from pathlib import Path

import torch
from monai.networks.nets import UNet
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medldm.diffusion.posteriors.refine import refine
from medldm.files import atomic
from medldm.machine import cpu_has_bf16
from medldm.metrics.base import Images
from medldm.models.autoencoder import pad_to_multiple
from medldm.operators.acquisitions import Acquisition
from medldm.operators.anatomy import Anatomy
from medldm.operators.base import LinearOperator
from medldm.randomness import keyed, seeded

WIDTHS, FACTOR = (32, 64, 128), 4
DRAWS = 3  # masks or noises of each training image
BATCH, CROP, RATE = 4, 32, 2e-3


class Supervised:
    """x^ = refine(l + U(l)), l the best linear estimate of measurements of one kind.

    Args:
        acquisition: that kind.
        anatomy: what the linear estimate knows.
    """

    def __init__(self, acquisition: Acquisition, anatomy: Anatomy):
        self.acquisition, self.anatomy = acquisition, anatomy
        with seeded(0, "supervised"):
            self.network: nn.Module = UNet(3, 1, 1, WIDTHS, (2,) * (len(WIDTHS) - 1), num_res_units=2)

    def train(self, images: Images, steps: int, path: Path) -> None:
        """Least squares on draws of every image; weights are kept in a file, and read where it is there."""
        if path.is_file():
            self.network.load_state_dict(load_file(path))
            return
        pairs = [self._pair(images, index, draw) for index in track(range(len(images)), "linear estimates") for draw in range(DRAWS)]
        size = [min(CROP, min(pair.shape[axis] for pair in pairs)) // FACTOR * FACTOR for axis in (1, 2, 3)]
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=RATE, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.05)
        self.network.train()
        for step in track(range(steps), "supervised"):
            batch = _crops(pairs, size, step)
            loss = (self._improved(batch[:, :1]) - batch[:, 1:]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        with atomic(path) as temporary:
            save_file(self.network.state_dict(), temporary)

    @torch.inference_mode()
    def __call__(self, operator: LinearOperator, y: Tensor) -> Tensor:
        """The image [1 1 I J K]."""
        self.network.eval()
        padded, crop = pad_to_multiple(self._linear(operator, y), FACTOR)
        return refine(operator, y, self._improved(padded)[(..., *crop)], self.acquisition.noise)

    def _improved(self, linear: Tensor) -> Tensor:
        with torch.autocast(linear.device.type, dtype=torch.bfloat16, enabled=cpu_has_bf16()):
            return linear + self.network(linear).float()

    def _linear(self, operator: LinearOperator, y: Tensor) -> Tensor:
        shape = tuple(operator.adjoint(y).shape[2:])
        return self.anatomy.prior(shape, self.acquisition.noise)(operator, y)

    @torch.inference_mode()
    def _pair(self, images: Images, index: int, draw: int) -> Tensor:
        """Linear estimate and truth [2 I J K]."""
        x = torch.from_numpy(images.image(index)).float()[None]
        operator, y = self.acquisition.measure(x, images.spacing(index), f"supervised-{images.cases[index].case}-{draw}")
        return torch.cat([self._linear(operator, y)[0], x[0]]).clone()


def _crops(pairs: list[Tensor], size: list[int], step: int) -> Tensor:
    """A batch of random places of random pairs [B 2 I J K]."""
    generator = keyed("supervised", step)
    batch = []
    for which in torch.randint(len(pairs), (BATCH,), generator=generator).tolist():
        start = [int(torch.randint(n - length + 1, (), generator=generator)) for n, length in zip(pairs[which].shape[1:], size, strict=True)]
        batch.append(pairs[which][(slice(None), *(slice(s, s + n) for s, n in zip(start, size, strict=True)))])
    return torch.stack(batch)
