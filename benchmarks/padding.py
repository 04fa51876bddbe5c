"""What padding a volume to a common grid costs an autoencoder, and why: normalisation statistics or content?

    python benchmarks/padding.py --run out/hippocampus/autoencoder --cohort out/hippocampus/cohort [--cases 20]

Every held-out volume, cut to whole cells, is reconstructed alone, and in a grid of the largest sizes that is filled in four ways: as it comes, with
group normalisation by the statistics of the volume's own cells, and by `reconstruct(x, sizes)`. PSNR within the volume, against alone.
The lean network normalises nothing, so its own statistics change nothing.
"""

import argparse
import statistics
from collections import defaultdict
from pathlib import Path
from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.cohort import Cohort
from medldm.metrics.base import Images
from medldm.metrics.paired import psnr
from medldm.models.autoencoder import Autoencoder
from medldm.run import load_model

FILLS = ("reflect", "replicate", "lowest", "mean")


def own_statistics(model: nn.Module, share: list[float]) -> None:
    """Let group normalisation take mean and variance over that share of each axis alone."""

    def forward(norm: nn.GroupNorm, x: Tensor) -> Tensor:
        inside = x[(..., *(slice(0, round(n * part)) for n, part in zip(x.shape[2:], share, strict=True)))]
        groups = inside.reshape(len(x), norm.num_groups, -1)
        each = x.shape[1] // norm.num_groups
        mean, variance = (v.repeat_interleave(each, 1)[..., None, None, None] for v in (groups.mean(-1), groups.var(-1, unbiased=False)))
        return (x - mean) / (variance + norm.eps).sqrt() * norm.weight[:, None, None, None] + norm.bias[:, None, None, None]

    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = MethodType(forward, module)


def filled(x: Tensor, contrasts: int, grid: list[int], how: str) -> Tensor:
    """x [1 C I J K], contrasts first, at the origin of a grid; label channels are padded by background where a value fills the image."""
    pads = [edge for have, want in reversed(list(zip(x.shape[2:], grid, strict=True))) for edge in (0, want - have)]
    if how in ("reflect", "replicate"):
        return F.pad(x, pads, mode=how)
    image, label = x[:, :contrasts], x[:, contrasts:]
    return torch.cat([F.pad(image, pads, value=float(image.min() if how == "lowest" else image.mean())), F.pad(label, pads)], dim=1)


def main() -> None:
    """Print the table and the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=20)
    options = parser.parse_args()
    images = Images(Cohort.load(options.cohort).split("test"))
    model, changed = load_model(options.run), load_model(options.run)
    volumes = []
    for index in range(min(len(images), options.cases)):
        label = torch.from_numpy(images.label(index))[None, None] if model.label_count else None
        x = model.join(torch.from_numpy(images.image(index))[None], label)
        volumes.append(x[(..., *(slice(0, n // model.factor * model.factor) for n in x.shape[2:]))])
    largest = [max(x.shape[axis] for x in volumes) for axis in (2, 3, 4)]
    losses = defaultdict(list)
    with torch.inference_mode():
        for x in volumes:
            grid = [min(most, 2 * have - model.factor) for most, have in zip(largest, x.shape[2:], strict=True)]  # reflection reaches no further
            own_statistics(changed, [have / want for have, want in zip(x.shape[2:], grid, strict=True)])
            alone = quality(model, x, x)
            for how in FILLS:
                y = filled(x, model.image_channels, grid, how)
                losses[how, "as it comes"].append(quality(model, y, x) - alone)
                losses[how, "own statistics"].append(quality(changed, y, x) - alone)
                losses[how, "sizes given"].append(quality(model, y, x, [tuple(x.shape[2:])]) - alone)
    print(f"PSNR against alone in dB, mean (worst), n={len(volumes)}, grid up to {'x'.join(map(str, largest))}")
    for (how, way), values in losses.items():
        print(f"{how:10s} {way:16s} {statistics.fmean(values):+.3f} ({min(values):+.3f})")
    worst = max(abs(v) for (_, way), values in losses.items() if way == "sizes given" for v in values)
    print(f"RESULT worst_with_sizes={worst:.4f} reflect={statistics.fmean(losses['reflect', 'as it comes']):+.3f}")


def quality(model: Autoencoder, x: Tensor, truth: Tensor, sizes: list | None = None) -> float:
    """PSNR of the first contrast within the volume."""
    image, _ = model.split(model.reconstruct(x, sizes))
    inside = tuple(slice(0, n) for n in truth.shape[2:])
    return psnr(image[0, 0][inside].numpy(), truth[0, 0].numpy())


if __name__ == "__main__":
    main()
