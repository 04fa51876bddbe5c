"""How long the evaluation of a generated cohort takes, and how much memory: 100 generated against 100 real volumes of 64^3 with labels.

    python benchmarks/evaluate_speed.py --out out/speed [--count 100] [--size 64]

The reference has as many training cases again, as nearest training cases and the yardsticks of real against real ask for them.
"""

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from medldm.cohort import Cohort
from medldm.commands.evaluate import evaluate
from medldm.data.storing import write_case
from medldm.machine import memory_of_process
from medldm.volume import Volume

LABELS = {1: "core", 2: "rim"}


def volume(size: int, seed: int) -> tuple[Volume, Volume]:
    """Smooth noise around a ball with a rim."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for _ in range(3)), indexing="ij")
    distance = np.sqrt(sum((a - rng.normal(0, 0.05)) ** 2 for a in axes))
    label = (distance < rng.uniform(0.5, 0.6)).astype(np.float32) * 2 - (distance < 0.35)
    coarse = torch.from_numpy(rng.normal(0, 0.5, (1, 1, 9, 9, 9)))
    image = torch.nn.functional.interpolate(coarse, (size,) * 3, mode="trilinear")[0].float() + torch.from_numpy(rng.normal(0, 0.05, (size,) * 3))
    image = (image.float() + 0.4 * torch.from_numpy(label)).clamp(-1, 1)
    return Volume(image, np.eye(4)), Volume(torch.from_numpy(label)[None], np.eye(4), "label")


def cohort(root: Path, count: int, size: int, splits: tuple[str, ...], first: int, origin: str = "") -> Cohort:
    """`count` cases for each split, generated ones where there is an origin."""
    if (root / "cohort.json").is_file():
        return Cohort.load(root)
    cases = []
    for number, split in enumerate(split for split in splits for _ in range(count)):
        cases.append(replace(write_case(root, f"c{number:04d}", *volume(size, first + number), LABELS, split=split)))
    units = dict.fromkeys(cases[0].covariates, "mm3")
    made = Cohort(root, tuple(cases), "a.u.", LABELS, units, {"cohort": origin} if origin else {}, synthetic=bool(origin))
    made.save()
    return made


def main() -> None:
    """Make both cohorts, evaluate, and print the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--features", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{(options.out / 'mlflow.db').absolute()}")
    real = cohort(options.out / "real", options.count, options.size, ("train", "test"), 0)
    cohort(options.out / "generated", options.count, options.size, ("",), 10**6, real.fingerprint())
    before = memory_of_process("VmHWM")
    start = time.perf_counter()
    evaluate(options.out / "evaluation", options.out / "real", generated=options.out / "generated", features=options.features or None)
    seconds, peak = time.perf_counter() - start, memory_of_process("VmHWM")
    print(f"RESULT seconds={seconds:.1f} peak_mib={peak / 2**20:.0f} before_mib={before / 2**20:.0f}")


if __name__ == "__main__":
    main()
