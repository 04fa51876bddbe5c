"""How good autoencoders become in the same processor time: the table of rates, kinds, losses and networks.

    medldm prepare --config configs/hippocampus/prepare.yaml --source ../shared/data/msd_hippocampus --out out/hippocampus/cohort
    python benchmarks/autoencoder.py --cohort out/hippocampus/cohort --out out/table [--minutes 25] [--rows kl16 vq16] [--features RUN]

Every row trains on the split "train" on one thread, for as many steps as fit the processor time (measured on the first steps), in a process
of its own, and is judged on the held-out split "test", each volume at its own size; a DCT with as many numbers stands beside it.
A row that is finished in --out is not trained again. Encode, decode and FLOP are those of one crop-sized volume, in bf16 where the processor has it.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from medldm.machine import memory_of_process, tune_allocator

tune_allocator()

COLUMNS = {
    "steps": "d", "minutes": ".1f", "step_ms": ".0f", "peak_mib": ".0f", "parameters_m": ".2f", "kflop_voxel": ".0f", "decode_ms": ".0f",
    "bits_voxel": ".2f", "psnr": ".2f", "ssim": ".4f", "psnr_dct": ".2f", "ssim_dct": ".4f", "dice": ".3f",
}  # fmt: skip
SHARES = {"fifth": 1 / 5, "fifteenth": 1 / 15}  # of the time that the other rows have


def rows(features: Path | None) -> dict[str, dict]:
    """Arguments of `train_autoencoder` by row; a name says kind and voxels per latent number."""
    from medldm.models.adversarial import Adversarial
    from medldm.models.lean import LeanAutoencoder
    from medldm.models.monai_autoencoder import MonaiAutoencoder
    from medldm.models.perceptual import Perceptual
    from medldm.models.quantized import QuantizedAutoencoder

    found = {
        "kl16": {},
        "kl8": {"model": partial(LeanAutoencoder, latent_channels=8)},
        "kl4": {"model": partial(LeanAutoencoder, latent_channels=16)},
        "vq16": {"model": partial(QuantizedAutoencoder, groups=4)},
        "vq8": {"model": partial(QuantizedAutoencoder, body=partial(LeanAutoencoder, latent_channels=8), groups=8)},
        "vq4": {"model": partial(QuantizedAutoencoder, body=partial(LeanAutoencoder, latent_channels=16), groups=16)},
        "vq16 one codebook": {"model": partial(QuantizedAutoencoder, codes=1024)},
        "monai16": {"model": partial(MonaiAutoencoder, latent_channels=4)},
        **{f"kl16 in a {share}": {} for share in SHARES},
        "kl16 adversarial": {"adversarial": Adversarial()},
    }
    if features:
        found["kl16 perceptual"] = {"perceptual": Perceptual(features)}
        found["kl16 adversarial perceptual"] = {"adversarial": Adversarial(), "perceptual": Perceptual(features)}
    return found


def train_row(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Train and judge one row in this process."""
    import torch

    from medldm.run import load_model

    torch.set_num_threads(1)
    arguments = {**rows(options.features)[name], "cohort": options.cohort, "crop": options.crop, "with_labels": options.with_labels}
    folder = options.out / name.replace(" ", "_")
    plan = folder.with_suffix(".plan.json")  # a row that was stopped goes on as it was planned
    if not plan.exists():
        plan.write_text(json.dumps(seconds_per_step(arguments, folder)), encoding="utf-8")
    per_step = json.loads(plan.read_text(encoding="utf-8"))
    steps = int(60 * options.minutes * SHARES.get(name.rpartition(" ")[2], 1) / per_step)
    start = time.process_time()
    run_training(arguments, folder, steps)
    used = time.process_time() - start
    values = {"steps": steps, "minutes": used / 60, "step_ms": 1000 * per_step, "peak_mib": memory_of_process("VmHWM") / 2**20}
    model = load_model(folder)
    if hasattr(model, "bits_per_voxel"):
        values["bits_voxel"] = model.bits_per_voxel
    return values | costs(model, options.crop) | quality(model, options)


def run_training(arguments: dict, folder: Path, steps: int) -> None:
    """`train_autoencoder` with the options of a preset, and one validation at the end."""
    from medldm.commands.train_autoencoder import train_autoencoder
    from medldm.training.options import Training

    rate = 5e-3 if "monai" in folder.name else 3e-3  # normalisation bears more
    training = Training(steps=steps, learning_rate=rate, other_learning_rate=rate, validate_every=steps, save_every=200)
    if "adversarial" in arguments:  # the discriminator comes when half of the training is done
        arguments = {**arguments, "adversarial": replace(arguments["adversarial"], start=steps // 2)}
    train_autoencoder(out=folder, training=training, **arguments)


def seconds_per_step(arguments: dict, folder: Path) -> float:
    """Processor seconds of one step: what 24 steps take longer than 4, after a first training that loads libraries."""
    taken = []
    for steps in (2, 4, 24):
        start = time.process_time()
        run_training(arguments, folder.with_name(f"{folder.name}.{steps}"), steps)
        taken.append(time.process_time() - start)
    return (taken[2] - taken[1]) / 20


def costs(model, crop: tuple[int, int, int]) -> dict[str, float]:
    """Parameters, FLOP per voxel of encoding and decoding, and milliseconds of decoding one crop-sized volume (median of 7)."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from medldm.machine import cpu_has_bf16

    x = torch.zeros(1, model.in_channels, *crop)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bf16()):
        with FlopCounterMode(display=False) as counter:
            mean, _ = model.posterior(x)
            model.decode_raw(mean)
        times = []
        for _ in range(8):
            start = time.process_time()
            model.decode_raw(mean)
            times.append(time.process_time() - start)
    return {
        "parameters_m": sum(p.numel() for p in model.parameters()) / 1e6,
        "kflop_voxel": counter.get_total_flops() / x[0, 0].numel() / 1000,
        "decode_ms": 1000 * statistics.median(times[1:]),
    }


def quality(model, options: argparse.Namespace) -> dict[str, float]:
    """Means over the held-out cases."""
    from medldm.cohort import Cohort
    from medldm.metrics.base import Images
    from medldm.report.reconstruction import case_values

    images = Images(Cohort.load(options.cohort).split("test"))
    cases = [case_values(model, images, index) for index in range(min(len(images), options.cases))]
    values = {name: statistics.fmean(case[name] for case in cases) for name in ("psnr", "ssim", "psnr_dct", "ssim_dct")}
    dices = [value for case in cases for name, value in case.items() if name.startswith("dice")]
    return values | ({"dice": statistics.fmean(dices)} if dices else {}) | {"n": len(cases)}


def worker(name: str, options: argparse.Namespace, path: Path) -> None:
    """Write a row's values, so that a table that was stopped continues."""
    values = train_row(name, options)
    path.write_text(json.dumps(values), encoding="utf-8")


def main() -> None:
    """Train what is missing, print the table and the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=25.0, help="processor minutes of training per row")
    parser.add_argument("--rows", nargs="+", help="names of rows; all by default")
    parser.add_argument("--features", type=Path, help="weights or run of a feature network, for the perceptual rows")
    parser.add_argument("--crop", type=int, nargs=3, default=(24, 40, 24))
    parser.add_argument("--cases", type=int, default=1 << 30, help="judge at most so many held-out cases")
    parser.add_argument("--images_only", dest="with_labels", action="store_false")
    options = parser.parse_args()
    options.crop = tuple(options.crop)
    options.out.mkdir(parents=True, exist_ok=True)
    known = list(rows(options.features))
    table = {}
    for name in options.rows or known:
        if name not in known:
            parser.error(f"no row {name!r}; there are {', '.join(known)}" + ("" if options.features else "; perceptual ones need --features"))
        path = options.out / f"{name.replace(' ', '_')}.json"
        if not path.exists():
            process = multiprocessing.get_context("spawn").Process(target=worker, args=(name, options, path))
            process.start()
            process.join()
            if process.exitcode:
                print(f"{name}: ended with exit code {process.exitcode}")
        if path.exists():
            table[name] = json.loads(path.read_text(encoding="utf-8"))
    print(f"{'row':28s}" + "".join(f"{column:>13s}" for column in COLUMNS))
    for name, values in table.items():
        print(f"{name:28s}" + "".join(f"{values[c]:13{form}}" if c in values else f"{'':13s}" for c, form in COLUMNS.items()))
    print("RESULT " + " ".join(f"{name.replace(' ', '_')}={values['psnr']:.2f}dB/{values['ssim']:.3f}" for name, values in table.items()))


if __name__ == "__main__":
    main()
