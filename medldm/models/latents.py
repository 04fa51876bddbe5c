"""Latents of a cohort: each volume is encoded at its own size, in a few windows, as posterior mean and standard deviation.

A window is a whole number of cells; nothing is padded, so no border is invented. It always contains the labelled structures, so
that what the conditions say of them stays true.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from medldm.models.autoencoder import Autoencoder
from medldm.types import Shape3

Window = tuple[slice, slice, slice]


def foreground(label: Tensor | None, shape: Shape3) -> list[tuple[int, int]]:
    """First and last-plus-one labelled voxel per axis; the centre voxel where nothing is labelled."""
    if label is None or not (label > 0).any():
        return [(n // 2, n // 2 + 1) for n in shape]
    where = (label[0] > 0).nonzero()
    return list(zip(where.amin(0).tolist(), (where.amax(0) + 1).tolist(), strict=True))


def grid_for(shapes: list[Shape3], boxes: list[list[tuple[int, int]]], factor: int, multiple: int) -> Shape3:
    """Cells that hold 95 % of the volumes whole and the labelled structures of all, as multiples of `multiple`.

    Args:
        shapes: voxels of the training volumes.
        boxes: their labelled extents, from `foreground`.
        factor: voxels per cell.
        multiple: of the result.
    """
    cells = []
    for axis in range(3):
        sizes = torch.tensor([shape[axis] // factor for shape in shapes], dtype=torch.float64)
        needed = max(-(-(box[axis][1] - box[axis][0]) // factor) for box in boxes)
        wanted = max(int(sizes.quantile(0.95, interpolation="lower")), min(needed, int(sizes.max())))
        cells.append(-(-wanted // multiple) * multiple)
    return tuple(cells)


def window(shape: Shape3, box: list[tuple[int, int]], factor: int, grid: Shape3, generator: torch.Generator | None) -> Window:
    """A window of whole cells around the labelled structures.

    Without a generator the largest one, as central as it can be; with one, sometimes a cell smaller, anywhere it fits.
    """
    slices = []
    for size, (low, high), cells in zip(shape, box, grid, strict=True):
        length = min(size // factor, cells) * factor
        smaller = length - factor
        if generator is not None and smaller >= max(high - low, factor) and torch.rand((), generator=generator) < 0.5:
            length = smaller
        first, last = max(0, high - length), min(low, size - length)
        if last < first:  # the structures are larger than the grid: keep their middle
            first = last = min(max((low + high - length) // 2, 0), size - length)
        centre = min(max((size - length) // 2, first), last)
        start = centre if generator is None else int(torch.randint(first, last + 1, (), generator=generator))
        slices.append(slice(start, start + length))
    return tuple(slices)


@torch.inference_mode()
def encode(autoencoder: Autoencoder, image: Tensor, label: Tensor | None, windows: list[Window]) -> dict[str, Tensor]:
    """Posterior mean and standard deviation of every window, as `mean_0`, `std_0`, `mean_1`, ...

    Args:
        autoencoder: in evaluation mode.
        image: [C I J K] in [-1, 1].
        label: label map [1 I J K], or None.
        windows: what to cut out.
    """
    x = autoencoder.join(image[None], None if label is None else label[None])
    device = autoencoder.latent_mean.device
    latents: dict[str, Tensor] = {}
    for number, where in enumerate(windows):
        mean, std = autoencoder.encode(x[(..., *where)].to(device))
        latents[f"mean_{number}"], latents[f"std_{number}"] = mean[0].cpu().contiguous(), std[0].cpu().contiguous()
    return latents


@dataclass(frozen=True)
class Statistics:
    """What the latents of a cohort are like, per channel [c], float64.

    Args:
        mean: of the posterior means over all cells.
        variance: of the posterior means over all cells.
        noise: mean variance of the posteriors, which a draw adds.
    """

    mean: Tensor
    variance: Tensor
    noise: Tensor

    @property
    def noise_share(self) -> Tensor:
        """Share of the variance of drawn latents that is posterior noise, and that no denoiser can know."""
        return self.noise / (self.variance + self.noise)

    def std(self, drawn: bool) -> Tensor:
        """Standard deviation of posterior means, or of draws."""
        return (self.variance + self.noise * drawn).sqrt()


def statistics(latents: Iterable[tuple[Tensor, Tensor]]) -> Statistics:
    """Statistics over posterior means and standard deviations [c i j k] of any size, one after the other (Chan et al. 1979)."""
    count, mean, square, noise = 0, torch.zeros(1), torch.zeros(1), torch.zeros(1)
    for z, std in latents:
        flat = z.double().flatten(1)
        total, own = count + flat.shape[1], flat.mean(1)
        shift = own - mean
        square = square + ((flat - own[:, None]) ** 2).sum(1) + shift**2 * count * flat.shape[1] / total
        mean, noise, count = mean + shift * flat.shape[1] / total, noise + std.double().pow(2).flatten(1).sum(1), total
    return Statistics(mean, square / max(1, count - 1), noise / max(1, count))


def weights_digest(autoencoder: Autoencoder) -> str:
    """SHA-256 of an autoencoder's weights without the statistics of its latents: whose latents these are."""
    digest = hashlib.sha256()
    for name, tensor in sorted(autoencoder.state_dict().items()):
        if name not in ("latent_mean", "latent_std"):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
