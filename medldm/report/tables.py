"""Tables of a report: scores beside their yardsticks, and where everything came from."""

import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medldm.files import read_json, read_yaml, sha256
from medldm.metrics.base import Score
from medldm.report.html import Table
from medldm.tracking import names_only

#: start of a score's name -> what it says
MEANING = {
    "psnr_gain": "PSNR above that of the DCT, case by case.",
    "ssim_gain": "SSIM above that of the DCT, case by case.",
    "psnr": "Peak signal-to-noise ratio of the reconstruction, data range 2. Beside it: a plain DCT that keeps as many numbers as the latent has.",
    "ssim": "Structural similarity of the reconstruction, data range 2. Beside it: the same DCT.",
    "ms_ssim": "Multi-scale structural similarity of the reconstruction.",
    "nmse": "Normalised mean squared error of the reconstruction, with -1 as no signal.",
    "hfen": "High-frequency error norm of the reconstruction: how much fine structure differs.",
    "dice_": "Overlap of the label map after encoding and decoding with the original.",
    "iou_": "Intersection over union of the same.",
    "hd95_": "95th percentile of the distances between the surfaces of the same.",
    "surface_dice_": "Share of the surfaces of the same that lies within 1 mm.",
    "lesion_recall_": "Lesions of the original that are found after encoding and decoding.",
    "lesion_precision_": "Lesions of the decoded label map that the original has.",
    "volume_error_": "Volume of the decoded structure beside the original, signed.",
    "voxels_per_number": "Image voxels that the autoencoder reads per latent number.",
    "bits_per_voxel": "Bits that the codes of a quantised autoencoder take per voxel, without entropy coding.",
    "mmd2_": "Squared maximum mean discrepancy of named features; 0 for equal distributions. Beside it: training against held-out cases.",
    "kid_": "Kernel distance (cubic) of named features, unbiased; 0 for equal distributions. Beside it: training against held-out cases.",
    "frechet_": "Frechet distance of named features, extrapolated to infinite n; around 0 for equal distributions. Beside it: as for `kid_`.",
    "precision_": "Generated cases that lie among real ones. Beside it: training against held-out cases; so for the next three.",
    "recall_": "Real cases that lie among generated ones.",
    "density_": "How densely real cases lie around generated ones; 1 for equal distributions.",
    "coverage_": "Real cases with a generated one near; .97 for equal distributions.",
    "authenticity_": "Generated cases farther from their nearest training case than that one from the nearest other; about .5 for new cases.",
    "classifier_score_": "Inception score of a linear classifier: 1 to the number of classes. Beside it: real cases, cross-validated.",
    "temporal_ms_ssim": "Likeness of neighbouring time points. Beside it: the held-out cases.",
    "temporal_roughness": "Second over first differences in time; 1.73 for a still image with noise. Beside it: the held-out cases.",
    "intensity_w1": "Wasserstein-1 distance of the intensities. Beside it: training against held-out cases.",
    "pairwise_ms_ssim": "Mean likeness of two cases of the cohort; lower is more diverse. Beside it: the held-out cases.",
    "nearest_train": "Largest correlation with a training image, mean over cases. Beside it: the held-out cases.",
    "copies_threshold": "Four standard deviations above the mean of the held-out cases' largest correlation with a training image (Fisher's scale).",
    "copies": "Generated cases above that threshold.",
    "pieces_": "Connected pieces of a structure, mean over the cases that have it. Beside it: the held-out cases; so for the next two.",
    "whole": "Cases whose structures are one piece each.",
    "touching_": "Cases in which two structures touch, of those that have both.",
    "volume_w1_": "Wasserstein-1 distance between the volumes of generated and held-out cases.",
    "downstream_gain": "What the generated cases add to as many real ones: paired difference on held-out patients, positive is better.",
    "downstream_synthetic_over_real": "Dice (or error) of a network trained on generated cases alone, over that of one trained on real ones.",
    "downstream_agreement_dice": "Dice between generated label maps and those that a network trained on real cases finds in the generated images.",
    "downstream_agreement_error": "Error of a network trained on real cases when it predicts the covariates of generated images.",
    "downstream_": "Dice (or error) on held-out patients of a network trained on these cases.",
    "fidelity_r_": "Correlation of requested and measured. Beside it: of the measuring model on real cases.",
    "fidelity_error_": "Mean absolute difference, relative to requested.",
    "fidelity_bias_": "Mean of measured minus requested, relative to requested.",
    "fidelity_accuracy_": "Balanced accuracy of a linear classifier for the requested category. Beside it: cross-validated on real cases.",
}
YARDSTICKS = ("_dct", "_real")


def score_table(title: str, scores: Sequence[Score]) -> Table:
    """One row per score; a yardstick (`<name>_dct`, `<name>_real`) stands beside the score it belongs to."""
    by_name = {score.name: score for score in scores}
    beside = {f"{name}{end}" for name in by_name for end in YARDSTICKS}
    rows = []
    for score in scores:
        if score.name in beside:
            continue
        yardstick = next((by_name[score.name + end] for end in YARDSTICKS if score.name + end in by_name), None)
        rows.append((score.name, _text(score), _beside(yardstick, score.n), str(score.n), score.unit, _meaning(score, yardstick is None)))
    return Table(title, ("name", "value [95 % interval]", "beside it", "n", "unit", "what it says"), rows, figures=(0, 1, 2, 3, 4))


def lineage_table(folders: dict[str, Path]) -> Table:
    """What each folder is: who wrote it, from what, with which settings and fingerprints.

    Args:
        folders: role -> run or cohort folder.
    """
    rows = [("versions", "medldm, torch, numpy", ", ".join(version(name) for name in ("medldm", "torch", "numpy")))]
    for role, folder in folders.items():
        about = read_json(folder / "cohort.json") if (folder / "cohort.json").is_file() else {}
        record = read_json(folder / "provenance.json") if (folder / "provenance.json").is_file() else {}
        config = read_yaml(folder / "config.yaml") if (folder / "config.yaml").is_file() else {}
        rows.append((role, "folder", folder.name))  # the page is passed on: who reads it need not know where things lay
        rows += [(role, key, str(about[key])) for key in ("cases", "synthetic", "fingerprint") if key in about]
        rows += [(role, f"made from {parent}", str(value)) for parent, value in about.get("parents", {}).items()]
        rows += [(role, "packages", _plain({"medldm": record["medldm"], **record["packages"]}))] if record else []
        rows += [(role, f"read {name}", str(value)) for name, value in record.get("reads", {}).items()]
        rows += [(role, f"sha256 of {name}", value) for name, value in record.get("outputs", {}).items() if name.startswith("model.")]
        rows += [(role, "configuration", _plain(names_only(config)))] if config else []
    return Table("", ("of", "what", "value"), rows, figures=(0, 1))


def sources(folders: dict[str, Path]) -> dict[str, str]:
    """Role -> sha256 of a run's weights or fingerprint of a cohort: what an evaluation read."""
    found = {}
    for role, folder in folders.items():
        is_cohort = (folder / "cohort.json").is_file()
        found[role] = read_json(folder / "cohort.json")["fingerprint"] if is_cohort else sha256(folder / "model.safetensors")
    return found


def _plain(values: dict[str, Any]) -> str:
    return "; ".join(f"{key}: {value}" for key, value in values.items())


def _meaning(score: Score, alone: bool) -> str:
    text = next((text for start, text in MEANING.items() if score.name.startswith(start)), "")
    text = text.split(" Beside it")[0] if alone else text
    return f"{text} [{score.on}]" if score.on else text


def _text(score: Score) -> str:
    if math.isnan(score.low):
        return _number(score.value)
    return f"{_number(score.value)} [{_number(score.low)}, {_number(score.high)}]"


def _beside(yardstick: Score | None, n: int) -> str:
    """The yardstick, with its own number of patients where that differs."""
    if yardstick is None:
        return ""
    return _text(yardstick) + ("" if yardstick.n == n else f", n {yardstick.n}")


def _number(value: float) -> str:
    """Four figures that matter, never an exponent for ordinary sizes."""
    if not math.isfinite(value) or value == int(value):
        return f"{value:g}"
    digits = min(5, max(0, 3 - math.floor(math.log10(abs(value)))))
    return f"{value:.{min(digits, 4 if abs(value) >= 0.01 else 5)}f}".replace("-", "\u2212")
