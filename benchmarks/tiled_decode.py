"""One volume decoded whole by MONAI, by MONAI's sliding window, and by slabs: how equal, how much memory, how long?

    python benchmarks/tiled_decode.py --size 192 192 160 [--memory 2GB] [--device cuda] [--precision bf16] [--run RUN] [--without whole window]

MONAI's AutoencoderKL of 32, 64 and 64 channels with random weights, or the autoencoder of a run. Every way has a process of its own;
memory is what the process (on a GPU, its tensors) holds at most beyond what it held before, and time is processor time on a CPU and
wall time on a GPU. Differences are relative to the largest value of the whole decoding.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from medldm.machine import memory_of_process, parse_bytes, share_processors, tune_allocator

if "--stock_allocator" not in sys.argv:
    tune_allocator()
share_processors()

import torch  # noqa: E402

from medldm.models.autoencoder import Autoencoder  # noqa: E402
from medldm.models.tiling.plan import Budget  # noqa: E402

WINDOW, OVERLAP = 16, 0.25  # cells, as MONAI's tutorials choose
WAYS = ("whole", "window", "slabs")


def network(run: Path | None) -> Autoencoder:
    """The autoencoder of a run, or MONAI's with random weights that leave nothing at zero."""
    if run:
        from medldm.run import load_model

        return load_model(run).eval()
    from medldm.models.monai_autoencoder import MonaiAutoencoder

    torch.manual_seed(0)
    return MonaiAutoencoder(1, 0, latent_channels=3).eval()


def decode(way: str, model: Autoencoder, z: torch.Tensor, memory: int) -> torch.Tensor:
    """Raw latents decoded in one of three ways."""
    if way == "whole":
        return model.decode_raw(z)
    if way == "window":
        from monai.inferers import SlidingWindowInferer

        inferer = SlidingWindowInferer(roi_size=(WINDOW,) * 3, overlap=OVERLAP, mode="gaussian", progress=False)
        return inferer(z, model.decode_raw)
    layers = model.decoder_layers()
    plan = Budget(memory).plan(layers, z.shape)
    print(f"plan: {plan}", flush=True)
    return plan.run(layers, z)


def measure(options: argparse.Namespace) -> None:
    """Decode in one way and leave result, peak and time in the folder."""
    device = torch.device(options.device)
    model = network(options.run).to(device)
    cells = [n // model.factor for n in options.size]
    z = torch.randn(1, model.latent_channels, *cells, generator=torch.Generator().manual_seed(1)).to(device)
    gpu = device.type == "cuda"
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
        decode(options.way, model, z[:, :, :WINDOW, :WINDOW, :WINDOW].contiguous(), 1 << 40)  # libraries load what they need
        if gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if gpu else memory_of_process("VmRSS")
        start = time.perf_counter() if gpu else time.process_time()
        image = decode(options.way, model, z, options.memory)
        if gpu:
            torch.cuda.synchronize()
        seconds = (time.perf_counter() if gpu else time.process_time()) - start
        peak = (torch.cuda.max_memory_allocated() if gpu else memory_of_process("VmHWM")) - before
    torch.save({"image": image.float().cpu(), "peak": peak, "seconds": seconds}, options.folder / f"{options.way}.pt")


def main() -> None:
    """Run every way in a process of its own and print the table and the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=3, required=True)
    parser.add_argument("--memory", type=parse_bytes, default=1 << 40)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--without", nargs="*", choices=WAYS, default=[])
    parser.add_argument("--stock_allocator", action="store_true")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        return measure(options)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for way in [way for way in WAYS if way not in options.without]:
            subprocess.run([sys.executable, *sys.argv, "--way", way, "--folder", folder], check=True)
            found[way] = torch.load(Path(folder) / f"{way}.pt", weights_only=True)
    first = next(iter(found.values()))
    print(f"{'':8s} {'GiB':>7s} {'seconds':>8s}  largest difference")
    difference = {}
    for way, result in found.items():
        difference[way] = float((result["image"] - first["image"]).abs().max() / first["image"].abs().max())
        print(f"{way:8s} {result['peak'] / 2**30:7.2f} {result['seconds']:8.1f}  {difference[way]:.2g}")
    nothing = {"peak": float("nan"), "seconds": float("nan")}
    ours, whole = found.get("slabs", nothing), found.get("whole", nothing)
    ratios = f"peak_ratio={ours['peak'] / whole['peak']:.3f} time_ratio={ours['seconds'] / whole['seconds']:.3f}"
    exact, seam = difference.get("slabs", float("nan")), difference.get("window", float("nan"))
    print(f"RESULT max_rel_diff={exact:.2g} {ratios} window_seam_error={seam:.3g}")


if __name__ == "__main__":
    main()
