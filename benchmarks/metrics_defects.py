"""Which score sees which defect: real patients as a generated cohort, once as they are and once with each planted defect.

    python benchmarks/metrics_defects.py --source ../shared/data/msd_hippocampus --out out/defects [--features RUN ...]

Of 200 patients 120 are training cases, 40 are held out as the reference, and the other 40 play the generated cohort. A score sees a
defect if its interval and that of the same score without the defect have nothing in common.
"""

import argparse
import csv
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from scipy import ndimage

from medldm.cohort import Case, Cohort
from medldm.commands.evaluate import evaluate
from medldm.commands.prepare import prepare
from medldm.data.storing import write_case
from medldm.randomness import keyed, permutation
from medldm.volume import Volume, read_volume

REPEATED = 4  # of 40 cases: each stands ten times
SHOWN = (
    "mmd2_haar_v1", "kid_haar_v1", "frechet_haar_v1", "precision_haar_v1", "recall_haar_v1", "density_haar_v1", "coverage_haar_v1",
    "authenticity_haar_v1", "frechet_radiomics_v1", "kid_radiomics_v1", "coverage_radiomics_v1", "intensity_w1", "pairwise_ms_ssim",
    "nearest_train", "copies", "pieces_anterior", "touching_anterior_posterior", "volume_w1_anterior",
    "fidelity_r_volume_total", "fidelity_bias_volume_total",
)  # fmt: skip

Pair = tuple[Volume, Volume]


def pair(cohort: Cohort, case: Case) -> Pair:
    """Image and label map of a case."""
    return read_volume(cohort.path(case.image)), read_volume(cohort.path(case.label), "label")


def as_they_are(cohort: Cohort, cases: list[Case], index: int) -> Pair:
    """Other real patients."""
    return pair(cohort, cases[index])


def blurred(cohort: Cohort, cases: list[Case], index: int) -> Pair:
    """A Gaussian of 0.7 voxels."""
    image, label = pair(cohort, cases[index])
    smooth = ndimage.gaussian_filter(image.data.numpy(), (0, 0.7, 0.7, 0.7))
    return replace(image, data=torch.from_numpy(smooth)), label


def collapsed(cohort: Cohort, cases: list[Case], index: int) -> Pair:
    """Four cases, ten times each, with a little noise."""
    image, label = pair(cohort, cases[index % REPEATED])
    return replace(image, data=(image.data + 0.01 * torch.randn(image.data.shape, generator=keyed(0, index))).clamp(-1, 1)), label


def shuffled_labels(cohort: Cohort, cases: list[Case], index: int) -> Pair:
    """The label map of another patient, around the same centre."""
    image, label = pair(cohort, cases[index])
    _, other = pair(cohort, cases[(index + 7) % len(cases)])
    data = torch.zeros_like(label.data)
    cut, place = [slice(None)], [slice(None)]
    for have, want in zip(other.data.shape[1:], data.shape[1:], strict=True):
        length = min(have, want)
        cut.append(slice((have - length) // 2, (have - length) // 2 + length))
        place.append(slice((want - length) // 2, (want - length) // 2 + length))
    data[tuple(place)] = other.data[tuple(cut)]
    return image, replace(label, data=data)


def copied(cohort: Cohort, cases: list[Case], index: int) -> Pair:
    """Training cases with a little noise."""
    image, label = pair(cohort, cohort.split("train").cases[index])
    return replace(image, data=(image.data + 0.02 * torch.randn(image.data.shape, generator=keyed(1, index))).clamp(-1, 1)), label


def wrong_spacing(cohort: Cohort, cases: list[Case], index: int) -> Pair:
    """Headers that say 1.2 times the size."""
    scaled = []
    for volume in pair(cohort, cases[index]):
        affine = volume.affine.copy()
        affine[:3, :3] *= 1.2
        scaled.append(replace(volume, affine=affine))
    return scaled[0], scaled[1]


DEFECTS: dict[str, Callable[[Cohort, list[Case], int], Pair]] = {
    "none": as_they_are, "blurred": blurred, "collapsed": collapsed, "shuffled labels": shuffled_labels, "copied training": copied,
    "wrong spacing": wrong_spacing,
}  # fmt: skip


def planted(real: Cohort, defect: str, root: Path) -> Path:
    """A cohort that says to be generated: each case asks for the volumes of the patient that it was, and shows the defect."""
    if (root / "cohort.json").is_file():
        return root
    cases = [real.split("val").cases[i] for i in permutation(len(real.split("val")), 0, "defects")]
    written = []
    for index, case in enumerate(cases):
        image, label = DEFECTS[defect](real, cases, index)
        asked = {name: value for name, value in case.covariates.items() if name.startswith("volume_")}
        made = write_case(root, f"case-{index:03d}", image, label)
        written.append(replace(made, sha256=f"{index}-{made.sha256}", covariates=asked))
    units = {name: unit for name, unit in real.covariates.items() if name.startswith("volume_")}
    Cohort(root, tuple(written), real.unit, real.labels, units, {"cohort": real.fingerprint()}, synthetic=True).save()
    return root


def scores(folder: Path) -> dict[str, tuple[float, float, float]]:
    """Name -> value and interval."""
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as stream:
        return {row["name"]: (float(row["value"]), float(row["low"]), float(row["high"])) for row in csv.DictReader(stream)}


def main() -> None:
    """Plant, evaluate, and print the table and the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--features", type=Path, nargs="*", default=[], help="feature networks to measure distances in too")
    options = parser.parse_args()
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{(options.out / 'mlflow.db').absolute()}")
    real = prepare(options.source, options.out / "cohort", labels={"anterior": 1, "posterior": 2}, val=0.2, test=0.2)
    found = {}
    for defect in DEFECTS:
        name = defect.replace(" ", "_")
        generated = planted(real, defect, options.out / name)
        evaluate(options.out / f"{name}_evaluation", real.root, generated=generated, features=options.features or None)
        found[defect] = scores(options.out / f"{name}_evaluation")
    shown = [*SHOWN, *(name for name in found["none"] if name not in SHOWN and "selfsupervised" in name and not name.endswith("_real"))]
    print(f"{'':34s}" + "".join(f"{defect:>20s}" for defect in found))
    seen: dict[str, list[str]] = {defect: [] for defect in found}
    for name in (name for name in shown if name in found["none"]):
        cells = []
        for defect, row in found.items():
            value, low, high = row[name]
            apart = low > found["none"][name][2] or high < found["none"][name][1]
            seen[defect] += [name] * apart
            cells.append(f"{value:.4g}{' *' if apart else '  '}")
        print(f"{name:34s}" + "".join(f"{cell:>20s}" for cell in cells))
    print("RESULT " + " ".join(f"{defect.replace(' ', '_')}={len(names)}" for defect, names in seen.items() if defect != "none"))


if __name__ == "__main__":
    main()
