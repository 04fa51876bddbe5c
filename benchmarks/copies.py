"""Whether hidden copies of training cases are found, and how often other patients are taken for copies.

    python benchmarks/copies.py --source ../shared/data/msd_hippocampus --out out/copies [--count 40] [--generated COHORT ...] [--few 16]

140 patients are training cases, 60 are held out: from half of these the limit is learnt, the other half tells false alarms. Generated cohorts
are audited beside, as `release` does. `--few` trains a model on so few of the 140 that it learns them by heart, and audits what it generates.
"""

import argparse
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from downstream import command
from scipy import ndimage

from medldm.cohort import Cohort
from medldm.commands.prepare import prepare
from medldm.metrics.base import Images
from medldm.privacy.audit import audit, copied
from medldm.privacy.copies import CopySearch, limit

AUTOENCODER, LONG = 800, 2000  # steps on a few cases
GENERATED = 30


def by_heart(real: Cohort, few: int, root: Path) -> tuple[Cohort, Cohort]:
    """A cohort with few training cases, and what a model generates that was trained on them for long."""
    kept = [case for case in real if case.split == "test"] + list(real.split("train"))[:few]
    for case in kept:
        for path in (case.image, case.label):
            (root / "cohort" / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(real.path(path), root / "cohort" / path)
    cohort = replace(real, root=root / "cohort", cases=tuple(sorted(kept, key=lambda case: case.case)))
    cohort.save()
    command("train-autoencoder", True, cohort=cohort.root, out=root / "autoencoder", training__steps=AUTOENCODER)
    command("cache-latents", True, cohort=cohort.root, autoencoder=root / "autoencoder", out=root / "latents", windows=1)
    command("train-diffusion", True, latents=root / "latents", out=root / "diffusion", training__steps=LONG)
    command("generate", False, run=root / "diffusion", out=root / "generated", count=GENERATED, guidance=1.0, steering="null")
    return cohort, Cohort.load(root / "generated")


def main() -> None:
    """Hide copies, look for them, and print the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=40, help="copies of each kind")
    parser.add_argument("--generated", type=Path, nargs="*", default=[], help="cohorts of models trained on the same 140 patients")
    parser.add_argument("--few", type=int, default=0, help="training cases of a model that learns them by heart")
    options = parser.parse_args()
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{(options.out / 'mlflow.db').absolute()}")
    real = prepare(options.source, options.out / "cohort", labels={"anterior": 1, "posterior": 2}, val=0.0, test=0.3)
    training, held_out = Images(real.split("train")), Images(real.split("test"))
    search = CopySearch(training)
    others = [search.nearest(held_out.image(i)[0], held_out.spacing(i)).similarity for i in range(len(held_out))]
    highest = limit(others[::2])
    alarms = float(np.mean(np.array(others[1::2]) > highest))
    print(f"held out: {np.mean(others):.3f} on average, {np.max(others):.3f} at most, n={len(others)}")
    print(f"limit from half of them {highest:.3f}; of the other half {alarms:.1%} lie above it")
    rng = np.random.default_rng(0)
    kinds = {
        "exact": lambda x: x,
        "mirrored": lambda x: np.flip(x, int(rng.integers(3))),
        "noise of 5 %": lambda x: x + rng.normal(0, 0.05 * np.ptp(x), x.shape),
        "brighter by 10 %": lambda x: 1.1 * x,
        "shifted by a voxel": lambda x: ndimage.shift(x, rng.choice([-1, 1], 3), order=0, mode="nearest"),
        "blurred": lambda x: ndimage.gaussian_filter(x, 0.7),
        "all at once, 5 degrees": lambda x: copied(x, rng),
    }
    found = {}
    for title, change in kinds.items():
        cases = range(min(options.count, len(training)))
        matches = [search.nearest(np.ascontiguousarray(change(training.image(i)[0]), dtype=np.float32), training.spacing(i)) for i in cases]
        found[title] = float(np.mean([m.similarity > highest and m.index == i for i, m in zip(cases, matches, strict=True)]))
        print(f"{title:24s} found {found[title]:6.1%}   similarity {np.mean([m.similarity for m in matches]):.3f}, n={len(matches)}")
    for folder in options.generated:
        audited = audit(training, held_out, Images(Cohort.load(folder)))
        print(f"{folder.name}: {': '.join(audited.verdict())}")
    if options.few:
        few, made = by_heart(real, options.few, options.out / f"few{options.few}")
        audited = audit(Images(few.split("train")), Images(few.split("test")), Images(made))
        print(f"model of {options.few}: {': '.join(audited.verdict())}")
    print(f"RESULT exact={found.pop('exact'):.3f} transformed={min(found.values()):.3f} false_alarm={alarms:.3f}")


if __name__ == "__main__":
    main()
