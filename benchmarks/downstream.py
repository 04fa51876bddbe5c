"""What synthetic cases are worth on hippocampi: Dice of the same network trained on real, synthetic and both kinds of cases.

    python benchmarks/downstream.py --source ../shared/data/msd_hippocampus --out out/downstream [--sizes 10 20 50 140] [--count 200] [--causes]

Of 200 patients 60 are held out. For each size N the generator sees all 140 images but only N label maps, the case of a hospital that
has more images than annotators: `annotate` predicts the missing ones from the N, and the chain of the preset follows. Real arms have the
N patients, arms of both the N and the generated cases, and all have the same steps and the same ordinary augmentation. Every step goes
on where it was stopped, and sizes can run side by side as processes of their own: `--sizes 10` and `--sizes 20`, then all at once for the table.

`--causes` tells where synthetic cases lose against real ones: networks are also trained on all 140 real images with their label maps (N of them
real, the others predicted), and on the same after encoding and decoding. The steps between these arms are what labels, autoencoder and
diffusion cost.
"""

import argparse
import csv
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from medldm import cli
from medldm.cohort import Cohort
from medldm.files import atomic, sha256
from medldm.metrics.base import Images
from medldm.metrics.bootstrap import summarise
from medldm.models.grain import Grain
from medldm.randomness import keyed
from medldm.report.reconstruction import reconstruct_case
from medldm.run import load_model
from medldm.training.downstream import Segmentation, run_arm
from medldm.training.options import Training
from medldm.training.study import Arm, Downstream, chosen
from medldm.volume import Volume, read_volume, write_volume

GRAIN = 0.75  # as in the preset of `generate`
PRESETS = Path(__file__).parents[1] / "configs" / "hippocampus"


def command(name: str, preset: bool, **options: object) -> None:
    """One command of the product, with the options of its preset."""
    config = ["--config", str(PRESETS / f"{name.replace('-', '_')}.yaml")] if preset else []
    given = [text for key, value in options.items() for text in (f"--{key.replace('__', '.')}", str(value))]
    if code := cli.main([name, *config, *given]):
        raise SystemExit(code)


def with_labels_of(source: Cohort, size: int, root: Path) -> Path:
    """The cohort with the label maps of `size` training patients only; those of smaller sizes are among them."""
    if (root / "cohort.json").is_file():
        return root
    kept = {case.case for case in chosen(source.split("train"), size, seed=0)}
    cases = []
    for case in source:
        taken = case.split != "train" or case.case in kept
        for path in (case.image, case.label if taken else ""):
            if path and not (root / path).is_file():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                with atomic(root / path) as temporary:
                    shutil.copyfile(source.path(path), temporary)
        blank = {name: None if name.startswith("volume_") else value for name, value in case.covariates.items()}
        cases.append(case if taken else replace(case, label="", covariates=blank, sha256=sha256(source.path(case.image))))
    replace(source, root=root, cases=tuple(cases)).save()
    return root


def chain(cohort: Path, size: int, root: Path, options: argparse.Namespace) -> Path:
    """Everything for one size; the folder of its evaluation."""
    source, cohort = Cohort.load(cohort), labelled_by(cohort, size, root)
    if cohort != source.root:
        command("annotate", False, cohort=with_labels_of(source, size, root / "few_labels"), out=cohort, training__steps=options.label_steps)
    command("train-autoencoder", True, cohort=cohort, out=root / "autoencoder")
    command("cache-latents", True, cohort=cohort, autoencoder=root / "autoencoder", out=root / "latents")
    command("train-diffusion", True, latents=root / "latents", out=root / "diffusion", training__steps=options.diffusion_steps)
    command("generate", True, run=root / "diffusion", out=root / "generated", count=options.count)
    out = root / "evaluation"
    command(
        "evaluate",
        False,
        reference=cohort,
        generated=root / "generated",
        autoencoder=root / "autoencoder",
        out=out,
        downstream__sizes=f"[{size}]",
        downstream__seeds=options.seeds,
        downstream__training__steps=options.steps,
        downstream__until=options.until,
        jobs=options.jobs,
    )
    return out


def labelled_by(cohort: Path, size: int, root: Path) -> Path:
    """The cohort whose label maps the generator of a size has learnt from."""
    return root / "cohort" if size < len(Cohort.load(cohort).split("train")) else cohort


def through_autoencoder(source: Cohort, root: Path) -> Cohort:
    """The cases of a cohort after encoding and decoding, with the grain that generated ones have."""
    model, images, out = load_model(root / "autoencoder"), Images(source), root / "reconstructed"
    grain = Grain.of(Cohort.load(root / "latents").facts["grain"])
    for index, case in enumerate(source):
        if not (out / case.image).is_file():
            image, label = reconstruct_case(model, images, index)
            affine = read_volume(source.path(case.image)).affine
            write_volume(out / case.label, Volume(torch.from_numpy(label)[None].float(), affine, "label"))
            write_volume(out / case.image, Volume(grain(torch.from_numpy(image), keyed(0, "grain", index), GRAIN), affine))
    return replace(source, root=out)


def causes(cohort: Path, size: int, root: Path, options: argparse.Namespace) -> None:
    """Print the mean Dice of what is between real and synthetic cases, and what each step costs."""
    source = Cohort.load(labelled_by(cohort, size, root))
    test, train = Images(source.split("test")), source.split("train")
    settings = Downstream(sizes=(size,), seeds=options.seeds, training=Training(steps=options.steps))
    rows = {"real": dices(root / "evaluation", "real", test)}
    for name, cases in (("labels predicted", train), ("reconstructed", through_autoencoder(train, root))):
        task, folder = Segmentation(settings, train, cases), root / "causes" / name.replace(" ", "_")
        arms = [run_arm(task, Arm("synthetic", 0, seed), {"held_out": test}, folder / str(seed))["held_out"] for seed in range(options.seeds)]
        rows[name] = np.mean([[row["dice"] for row in arm] for arm in arms], axis=0)
    rows["synthetic"] = dices(root / "evaluation", "synthetic", test)
    before = None
    for name, values in rows.items():
        score = summarise("dice", values, test.patients)
        step = summarise("step", values - before, test.patients) if before is not None else None
        told = f"  {step.value:+.4f} [{step.low:+.4f}, {step.high:+.4f}]" if step else ""
        print(f"N={size:<4d}{name:18s}{score.value:.4f} [{score.low:.4f}, {score.high:.4f}]{told}")
        before = values


def dices(folder: Path, arm: str, test: Images) -> np.ndarray:
    """Mean Dice over the trainings of an arm, for each held-out case."""
    with open(folder / "downstream.csv", newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["arm"] == arm and row.get("part", "held_out") == "held_out"]
    return np.array([np.mean([float(row["dice"]) for row in rows if row["case"] == case.case]) for case in test.cases])


def figures(folder: Path) -> dict[str, tuple[float, float, float]]:
    """Name -> value and interval of every downstream score."""
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as stream:
        rows = {row["name"].removeprefix("downstream_"): row for row in csv.DictReader(stream) if row["name"].startswith("downstream_")}
    return {name: tuple(float(row[key]) for key in ("value", "low", "high")) for name, row in rows.items()}


def main() -> None:
    """Run what is missing, print the table and the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 20, 50, 140])
    parser.add_argument("--count", type=int, default=200, help="generated cases")
    parser.add_argument("--steps", type=int, default=2000, help="of every segmentation network of an arm")
    parser.add_argument("--label_steps", type=int, default=2000, help="of the networks that predict label maps")
    parser.add_argument("--until", type=float, default=0.6, help="part of the steps of arms of both that have synthetic samples")
    parser.add_argument("--diffusion_steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--causes", action="store_true", help="train the arms between real and synthetic, too")
    options = parser.parse_args()
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{(options.out / 'mlflow.db').absolute()}")
    options.out.mkdir(parents=True, exist_ok=True)
    command("prepare", True, source=options.source, out=options.out / "cohort", val=0.0, test=0.3)
    found = {size: figures(chain(options.out / "cohort", size, options.out / f"n{size}", options)) for size in options.sizes}
    if options.causes:
        for size in options.sizes:
            causes(options.out / "cohort", size, options.out / f"n{size}", options)
    print(f"{'':>4s}{'real only':>26s}{'real and synthetic':>26s}{'synthetic only':>26s}{'gain':>28s}")
    for size, row in found.items():
        cells = [f"{v:.3f} [{a:.3f}, {b:.3f}]" for v, a, b in (row[f"dice_real_n{size}"], row[f"dice_both_n{size}"], row["dice_synthetic"])]
        gain = "{:+.4f} [{:+.4f}, {:+.4f}]".format(*row[f"gain_n{size}"])
        print(f"{size:4d}" + "".join(f"{cell:>26s}" for cell in cells) + f"{gain:>28s}")
    largest = max(found)
    result = [f"synthetic_over_real={found[largest]['synthetic_over_real'][0]:.3f}"]
    for size in (10, 20):
        if size in found:
            result += [f"gain_n{size}={found[size][f'gain_n{size}'][0]:.4f}", f"gain_n{size}_low={found[size][f'gain_n{size}'][1]:.4f}"]
    print("RESULT " + " ".join(result))


if __name__ == "__main__":
    main()
