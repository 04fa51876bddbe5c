"""One training step (forward, backward, update) of autoencoder and denoiser: ours against stock MONAI in eager float32.

Two processes take turns on the same batches, so that drift of the machine meets both: one with the allocator as the system
sets it and MONAI's networks as they come, one with everything that this project switches on. Time is CPU time of one step.

    python benchmarks/training_step.py [--repeats 7] [--threads 1]

Rows: MONAI's AutoencoderKL (32, 64, 64), 3 latent channels at 1/4, on 2 x 48x64x48 voxels, and DiffusionModelUNet
(64, 128, 128) with attention at the two lower levels on 2 x 3 x 12x16x12 cells. "same network" trains that very network
under our settings; "lean" is our default autoencoder with as many latents.
"""

import argparse
import multiprocessing
import statistics
import time

STOCK, OURS = ("monai autoencoder", "monai unet"), ("monai autoencoder", "lean autoencoder", "monai unet")
IMAGE, LATENT = (2, 1, 48, 64, 48), (2, 3, 12, 16, 12)


def worker(pipe, ours: bool, threads: int) -> None:
    """Answer each name with the CPU and wall seconds of one step."""
    from medldm.machine import tune_allocator

    if ours:
        tune_allocator()
    import torch

    torch.set_num_threads(threads)
    steps = {name: make_step(name, ours) for name in (OURS if ours else STOCK)}
    while (name := pipe.recv()) is not None:
        cpu, wall = time.process_time(), time.perf_counter()
        steps[name]()
        pipe.send((time.process_time() - cpu, time.perf_counter() - wall))


def make_step(name: str, ours: bool):
    """A function that trains one step."""
    import torch

    from medldm.models.losses import AutoencoderLoss
    from medldm.training.optimizers import Muon, parameter_groups

    torch.manual_seed(0)
    network = make_network(name, ours)
    image, latent, t = torch.rand(IMAGE) * 2 - 1, torch.randn(LATENT), torch.rand(2)
    loss_of = AutoencoderLoss()
    if ours:
        optimizer = Muon(parameter_groups(network, getattr(network, "matrix_parameters", list)()), lr=1e-3)
    else:
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

    def forward():
        if "unet" in name:
            return (
                (network(torch.cat([latent, torch.ones_like(latent[:, :1])], 1), t, torch.zeros(2, 128)) - latent).pow(2).mean()
                if ours
                else (network(latent, timesteps=1000 * t) - latent).pow(2).mean()
            )
        mean, std = network.posterior(image) if ours else network.encode(image)
        z = mean + std * torch.randn_like(mean)
        decoded = network.decode_raw(z) if ours else network.decode(z)
        return sum(loss_of(decoded, image, None, mean, std).values())

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=ours):
            loss = forward()
        optimizer.zero_grad()
        loss.float().backward()
        optimizer.step()

    return step


def make_network(name: str, ours: bool):
    """Stock MONAI, or the same through our adapters, or the lean autoencoder."""
    from monai.networks.nets import AutoencoderKL, DiffusionModelUNet

    from medldm.models.lean import LeanAutoencoder
    from medldm.models.monai_autoencoder import MonaiAutoencoder
    from medldm.models.nets import UNet

    if name == "lean autoencoder":
        return LeanAutoencoder(1, 0, latent_channels=3)
    if "unet" in name:
        if ours:
            return UNet(3, (64, 128, 128), (False, True, True), head_channels=64, groups=32)
        heads = dict(num_head_channels=(0, 64, 64), norm_num_groups=32)
        return DiffusionModelUNet(3, 3, 3, (1, 1, 1), (64, 128, 128), (False, True, True), **heads)
    if ours:
        return MonaiAutoencoder(1, 0, 3, (32, 64, 64), attention=True)
    levels = dict(channels=(32, 64, 64), attention_levels=(False, False, True), norm_num_groups=16)
    return AutoencoderKL(3, 1, 1, num_res_blocks=(1, 1, 1), latent_channels=3, **levels)


def main() -> None:
    """Interleave, and print the table and the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    pipes, processes = {}, []
    for ours in (False, True):
        pipes[ours], theirs = context.Pipe()
        processes.append(context.Process(target=worker, args=(theirs, ours, options.threads), daemon=True))
        processes[-1].start()

    def measure(ours: bool, name: str) -> float:
        pipes[ours].send(name)
        return pipes[ours].recv()[0]

    pairs = [("monai autoencoder", "monai autoencoder"), ("monai autoencoder", "lean autoencoder"), ("monai unet", "monai unet")]
    seconds = {pair: [] for pair in pairs}
    for repeat in range(options.repeats + 2):
        for pair in pairs:
            times = measure(False, pair[0]), measure(True, pair[1])
            if repeat >= 2:  # the first two warm up
                seconds[pair].append(times)
    for ours in (False, True):
        pipes[ours].send(None)
    print(f"{'stock MONAI':20s} {'ours':20s} {'stock s':>8s} {'ours s':>8s}   speed-up min / median / max, n={options.repeats}")
    speedups = {}
    for pair, times in seconds.items():
        ratios = sorted(stock / ours for stock, ours in times)
        speedups[pair] = statistics.median(ratios)
        stock, ours = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{pair[0]:20s} {pair[1]:20s} {stock:8.3f} {ours:8.3f}   {ratios[0]:.2f} / {speedups[pair]:.2f} / {ratios[-1]:.2f}")
    same, lean, unet = (speedups[pair] for pair in pairs)
    print(f"RESULT autoencoder_speedup={lean:.2f} denoiser_speedup={unet:.2f} same_network_autoencoder_speedup={same:.2f}")


if __name__ == "__main__":
    main()
