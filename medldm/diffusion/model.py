"""A latent diffusion model: autoencoder, denoiser and what to ask it for. The content of a diffusion run."""

import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from medldm.diffusion.conditions.base import Value
from medldm.diffusion.denoiser import Denoiser
from medldm.diffusion.population import Population
from medldm.diffusion.samplers.base import Sampler, at
from medldm.diffusion.steering import Steering
from medldm.errors import UserError
from medldm.models.autoencoder import Autoencoder
from medldm.models.grain import Grain
from medldm.randomness import keyed
from medldm.run import load_model
from medldm.types import Denoise, Shape3

#: Conditions' names of the field of view, in latent cells along i, j, k.
EXTENT = ("extent_i", "extent_j", "extent_k")
#: How many times as long as the grid of the training a field of view may be along an axis.
BEYOND = 1.25


class LatentDiffusion(nn.Module):
    """What turns noise and conditions into volumes.

    Args:
        autoencoder: with the whitening of its latents in its buffers.
        denoiser: of whitened latents.
        population: joint distribution of conditions and field of view in the training cohort.
        grid: cells i, j, k of the latents; smaller fields of view lie in its middle.
        spacing: millimetres per voxel along I, J, K.
        labels: label value -> structure name.
        units: covariate -> unit.
        grain: the noise that decoding leaves out, or None.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        denoiser: Denoiser,
        population: Population,
        grid: Shape3,
        spacing: tuple[float, float, float],
        labels: dict[int, str],
        units: dict[str, str],
        grain: Grain | None = None,
    ):
        super().__init__()
        self.autoencoder, self.denoiser, self.population, self.grain = autoencoder, denoiser, population, grain
        self.grid, self.spacing = tuple(grid), tuple(spacing)
        self.labels, self.units = {int(value): name for value, name in labels.items()} if autoencoder.label_count else {}, units

    def ask(self, seed: int, index: int, fixed: dict[str, Value]) -> tuple[dict[str, Value], Shape3]:
        """Conditions and field of view (cells i, j, k) of sample `index`: as fixed, the rest drawn from the population."""
        drawn = self.population.draw(keyed(seed, "conditions", index), fixed)
        extent = tuple(min(int(drawn.pop(name)), cells) for name, cells in zip(EXTENT, self.grid, strict=True))
        return drawn, extent

    def noise(self, seed: int, index: int) -> Tensor:
        """Starting noise [c i j k] of sample `index`, whatever the batch."""
        return torch.randn(self.autoencoder.latent_channels, *self.grid, generator=keyed(seed, "noise", index))

    @torch.no_grad()
    def sample(
        self, noise: Tensor, asked: list[dict[str, Value]], extents: list[Shape3], sampler: Sampler, guidance: float, steering: Steering | None = None
    ) -> Tensor:
        """Whitened latents [B c i j k].

        Args:
            noise: the state at t = 1 [B c i j k].
            asked: conditions per sample.
            extents: fields of view per sample, in cells.
            sampler: the solver.
            guidance: strength of the conditions.
            steering: moves label volumes to what is asked for; None leaves them to the conditions alone.
        """
        denoise = self.bound(noise, asked, extents, guidance)
        if steering is not None and self.labels:
            volumes = [[values.get(f"volume_{name}") for name in self.labels.values()] for values in asked]
            wanted = torch.tensor([[torch.nan if v is None else v for v in row] for row in volumes], device=noise.device)
            denoise = steering.inform(denoise, [partial(self.volumes, extent=extent) for extent in extents], wanted)
        return sampler.sample(denoise, self.denoiser.process, noise)

    @torch.no_grad()
    def noise_of(self, z: Tensor, asked: list[dict[str, Value]], extents: list[Shape3], guidance: float = 1.0, steps: int = 50) -> Tensor:
        """The noise [B c i j k] that the flow turns into latents, found by running it backwards (Song et al. 2021, DDIM inversion).

        The first step takes the noise in the latents, which nobody knows, for none.

        Args:
            z: whitened latents [B c i j k].
            asked, extents: conditions and fields of view, as for `sample`.
            guidance: strength of the conditions.
            steps: of equal length between t = 0 and t = 1.
        """
        denoise, process = self.bound(z, asked, extents, guidance), self.denoiser.process
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)[1:]
        x = float(process.signal(times[0])) * z
        for t, to in zip(times, times[1:], strict=False):
            x = process.move(x, denoise(x, at(t, x)), t, to)
        return x

    def bound(self, like: Tensor, asked: list[dict[str, Value]], extents: list[Shape3], guidance: float = 1.0) -> Denoise:
        """The denoiser for the conditions and fields of view of a batch [B c i j k]."""
        codes = torch.stack([self.denoiser.encode(values) for values in asked]).to(like.device)
        valid = torch.zeros_like(like[:, :1])
        for row, extent in zip(valid, extents, strict=True):
            row[(slice(None), *middle(extent, tuple(like.shape[2:])))] = 1
        return self.denoiser.bind(self.denoiser.context(codes, valid), guidance)

    def room(self, extent: Shape3) -> Shape3:
        """The grid for a field of view, both in cells: the model's, or one that is larger by what is missing, for its network has no size of its own.

        Raises:
            UserError: more than a quarter of the model's grid is missing along an axis.
        """
        step = self.denoiser.net.multiple
        i, j, k = (max(n, -(-cells // step) * step) for cells, n in zip(extent, self.grid, strict=True))
        if any(cells > BEYOND * n for cells, n in zip(extent, self.grid, strict=True)):
            asked, known = (" x ".join(str(n * self.autoencoder.factor) for n in cells) for cells in (extent, self.grid))
            raise UserError(f"{asked} voxels are more than {BEYOND} times those that the model knows, {known}.", "Crop, or train on images as large.")
        return i, j, k

    def volumes(self, z: Tensor, extent: Shape3) -> Tensor:
        """Expected volume in mm3 of every label in the decoded latent [c i j k], differentiable."""
        decoded = self.autoencoder.decode(z[(None, slice(None), *middle(extent, self.grid))])
        probability = decoded[0, self.autoencoder.image_channels :].softmax(0)
        return probability[list(self.labels)].sum((1, 2, 3)) * math.prod(self.spacing)

    def affine(self, shape: tuple[int, ...]) -> np.ndarray:
        """Voxel index -> RAS+ mm [4 4] of a decoded volume of I, J, K voxels, whose middle is the origin."""
        affine = np.diag([*self.spacing, 1.0])
        affine[:3, 3] = -0.5 * np.array(self.spacing) * (np.array(shape) - 1)
        return affine

    @torch.no_grad()
    def decode(self, z: Tensor, extent: Shape3) -> tuple[Tensor, Tensor | None]:
        """Image [C I J K] in [-1, 1] and label map [1 I J K] of one latent [c i j k], cut to its field of view."""
        image, label = self.autoencoder.split(self.autoencoder.decode(z[(None, slice(None), *middle(extent, self.grid))]))
        return image[0], None if label is None else label[0]


def load_diffusion(root: Path, fix: str = "Give a run of train-diffusion.") -> LatentDiffusion:
    """The diffusion model of a run.

    Args:
        root: its folder.
        fix: what the user is told to do where it holds another one.

    Raises:
        UserError: it holds another model, or none.
    """
    model = load_model(root)
    if not isinstance(model, LatentDiffusion):
        raise UserError(f"{root} holds a {type(model).__name__}, not a diffusion model.", fix)
    return model


def middle(extent: Shape3, grid: Shape3) -> tuple[slice, slice, slice]:
    """Slices of `extent` cells in the middle of a grid."""
    return tuple(slice(start := (n - size) // 2, start + size) for size, n in zip(extent, grid, strict=True))


def place(z: Tensor, grid: Shape3) -> tuple[Tensor, Tensor]:
    """A latent [c i j k] in the middle of a grid of zeros, and its field of view [1 i j k]."""
    where = (slice(None), *middle(z.shape[1:], grid))
    placed, valid = z.new_zeros(len(z), *grid), z.new_zeros(1, *grid)
    placed[where], valid[where] = z, 1
    return placed, valid
