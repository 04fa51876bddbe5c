"""Encoding and decoding by slabs of every size against the whole, and MONAI's sliding window beside it, with random and trained weights.

    python benchmarks/tiling_table.py [--runs out/hippocampus/autoencoder ...] [--cells 19 13 11]

Random networks have no weight at zero. Differences are the largest over all slab heights and ways to recompute, relative to the largest value of
the whole; those of the window are decodings in windows of 8 cells that overlap by a quarter (gaussian), time as processor time over the whole's.
"""

import argparse
import time
from itertools import product
from pathlib import Path

from medldm.machine import tune_allocator

tune_allocator()

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from medldm.models.autoencoder import Autoencoder  # noqa: E402
from medldm.models.lean import LeanAutoencoder  # noqa: E402
from medldm.models.monai_autoencoder import MonaiAutoencoder  # noqa: E402
from medldm.models.tiling.plan import Plan  # noqa: E402
from medldm.run import load_model  # noqa: E402

HEIGHTS, WINDOW, OVERLAP = (1, 2, 3, 5, 8, 13, 1000), 8, 0.25


def networks(runs: list[Path]) -> dict[str, Autoencoder]:
    """By name: random ones of both families, and those of the runs."""
    torch.manual_seed(0)
    found = {
        "lean, random": LeanAutoencoder(1, 0),
        "MONAI, random": MonaiAutoencoder(1, 0),
        "MONAI with attention, random": MonaiAutoencoder(1, 0, attention=True),
    }
    for model in found.values():
        for parameter in (p for p in model.parameters() if not p.any()):
            nn.init.normal_(parameter, std=0.05)
    return {**found, **{f"{run.name}, trained": load_model(run) for run in runs}}


def largest_difference(layers, whole: Tensor, x: Tensor) -> float:
    """Over all ways to run by slabs."""
    worst = 0.0
    for rows, recompute in product(HEIGHTS, (0, 1, 2)):
        worst = max(worst, float((Plan(rows, recompute).run(layers, x).float() - whole).abs().max() / whole.abs().max()))
    return worst


def timed(function, *arguments) -> tuple[Tensor, float]:
    """A result and its processor seconds."""
    start = time.process_time()
    return function(*arguments).float(), time.process_time() - start


def row(model: Autoencoder, cells: tuple[int, ...], bf16: bool) -> str:
    """Differences of decoding and encoding by slabs and of the window, and the window's time."""
    from monai.inferers import SlidingWindowInferer

    generator = torch.Generator().manual_seed(0)
    z = (
        torch.randn(1, model.latent_channels, *cells, generator=generator) * model.latent_std[:, None, None, None]
        + model.latent_mean[:, None, None, None]
    )
    x = torch.rand(1, model.in_channels, *(n * model.factor for n in cells), generator=generator) * 2 - 1
    inferer = SlidingWindowInferer(roi_size=(WINDOW,) * 3, overlap=OVERLAP, mode="gaussian", progress=False)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        model.decode_raw(z)
        whole, seconds = timed(model.decode_raw, z)
        windowed, window_seconds = timed(inferer, z, model.decode_raw)
        decoded = largest_difference(model.decoder_layers(), whole, z)
        mean = model.posterior(x)[0]
        layers, encoded = model.encoder_layers(), 0.0
        for rows in HEIGHTS:
            slabs = model.posterior_of(Plan(rows).run(layers, x))[0]
            encoded = max(encoded, float((slabs - mean).abs().max() / mean.abs().max()))
    seam = float((windowed - whole).abs().max() / whole.abs().max())
    return f"{decoded:10.1e} {encoded:10.1e} {seam:10.2g} {window_seconds / seconds:8.2f}"


def main() -> None:
    """Print the table and the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, nargs="*", default=[])
    parser.add_argument("--cells", type=int, nargs=3, default=(19, 13, 11))
    options = parser.parse_args()
    torch.set_num_threads(1)
    worst = {False: 0.0, True: 0.0}
    print(f"{'':44s} {'decode':>10s} {'encode':>10s} {'window':>10s} {'its time':>8s}")
    for (name, model), bf16 in product(networks(options.runs).items(), (False, True)):
        line = row(model.eval(), tuple(options.cells), bf16)
        worst[bf16] = max(worst[bf16], *(float(part) for part in line.split()[:2]))
        print(f"{name + (', bf16' if bf16 else ', float32'):44s} {line}", flush=True)
    print(f"RESULT worst_float32={worst[False]:.2g} worst_bf16={worst[True]:.2g}")


if __name__ == "__main__":
    main()
