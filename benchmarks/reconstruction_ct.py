"""Few views, short arcs and real CT: a restorer of one body for another, against tuned classical methods and the same fusion without a network.

    python benchmarks/reconstruction_ct.py --data ../shared/data/ct --out out/reconstruction_ct [--steps 2000] [--slabs 4] [--draws 3]

Three bodies (abdomen, a crop of a chest with contrast medium, one lung) at 3 mm, cut across into slabs of 48 mm. Each body takes each part
once: the restorer learns from one, everything is tuned and calibrated on another, which it has not seen, and the third is judged. Three patients
and other anatomy in each part: this asks whether the result may be trusted to be no worse than the best classical one where the restorer does not
know the anatomy. Slabs of a body are no independent patients, so that no interval is given.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import reconstruction
import SimpleITK as sitk

from medldm.commands.prepare import prepare
from medldm.commands.train_restorer import train_restorer
from medldm.training.options import Training

BODIES = {
    "abdomen": "totalsegmentator/example_ct.nii.gz",
    "vessels": "totalsegmentator/aorta_report_ct_cropped.nii.gz",
    "chest": "elastix_lung/3DCT_lung_baseline_small.mha",
}
TASKS = ("ct60", "ct30", "ct_arc")
THICK = 48.0  # mm


def write_slabs(data: Path, out: Path) -> dict[str, list[str]]:
    """Write the slabs of each body as NIfTI: body -> names, from the first slice to the last."""
    names: dict[str, list[str]] = {}
    for body, path in BODIES.items():
        image = sitk.ReadImage(str(data / path), sitk.sitkFloat32)
        slices = round(THICK / image.GetSpacing()[2])
        names[body] = [f"{body}{number}" for number in range(image.GetSize()[2] // slices)]
        out.mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(names[body]):
            sitk.WriteImage(image[:, :, number * slices : (number + 1) * slices], str(out / f"{name}.nii.gz"))
    return names


def write_table(path: Path, parts: dict[str, list[str]], slabs: int) -> None:
    """The table of a source: part -> names. All slabs for training, the middle ones of a body elsewhere."""
    rows = []
    for split, names in parts.items():
        kept = names if split == "train" else names[(len(names) - slabs) // 2 :][:slabs]
        rows += [(name, f"{name}.nii.gz", split) for name in kept]
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("case", "image", "split"), *rows])


def main() -> None:
    """Run what is missing, print the tables and the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--slabs", type=int, default=4)
    parser.add_argument("--draws", type=int, default=3)
    options = parser.parse_args()
    source = options.out / "source"
    names = write_slabs(options.data, source)
    training = Training(steps=options.steps, batch=4, learning_rate=1.5e-3, other_learning_rate=1e-3, warm_up=50, final=0.03)
    found: dict[str, dict[str, float]] = {}
    for number, body in enumerate(BODIES):
        learnt, calibrated = (list(BODIES)[(number + step) % len(BODIES)] for step in (1, 2))
        write_table(source / f"{body}.csv", {"train": names[learnt], "val": names[calibrated], "test": names[body]}, options.slabs)
        root = options.out / body
        prepare(source / f"{body}.csv", root / "cohort", modality="CT", spacing=(3.0, 3.0, 3.0), window=(-1000.0, 1000.0))
        train_restorer(root / "cohort", root / "restorer", training=training)
        print(f"\n== {body}: restorer of {learnt}, calibrated on {calibrated}")
        folders = [word for name in ("cohort", "restorer") for word in (f"--{name}", str(root / name))]
        counts = ["--patients", str(options.slabs), "--draws", str(options.draws)]
        found[body] = reconstruction.main([*folders, "--out", str(root / "bench"), *counts, "--tasks", *TASKS])
    for task in TASKS:
        told = [f"{body} {found[body][f'{task}_over_classical']:+.2f} / {found[body][f'{task}_over_networkfree']:+.2f}" for body in BODIES]
        print(f"{task}: over the best classical method / the fusion without a network: {', '.join(told)} dB")
    kinds = ("over_classical", "over_networkfree", "coverage")
    classical, network_free, covered = (np.array([found[body][f"{task}_{kind}"] for body in BODIES for task in TASKS]) for kind in kinds)
    gains = f"gain_over_classical={classical.mean():.3f} gain_over_networkfree={network_free.mean():.3f}"
    print(f"RESULT worst_gain={classical.min():.3f} {gains} coverage90={covered.mean():.3f}")


if __name__ == "__main__":
    main()
