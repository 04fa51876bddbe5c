"""The page of a reconstruction: pictures, likeness to the truth where it is known, and what the result can be trusted for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from medldm.diffusion.posteriors.uncertainty import trust
from medldm.metrics.base import Score
from medldm.metrics.bootstrap import summarise
from medldm.metrics.paired import nmse, psnr, ssim
from medldm.report.html import Figure, Section, Table, Text, write_report
from medldm.report.mosaic import Picture, mosaic
from medldm.report.plots import plot_curves
from medldm.report.tables import score_table

SHOWN = 4
UNITS = {"psnr": "dB", "psnr_classical": "dB", "gain": "dB"}

LIMITS = (
    "The prior has seen the anatomy and the contrast of the training cohort only; of anything else it may draw what is not there. "
    "Cases marked out of distribution are to be looked at.",
    "Standard deviations and intervals were calibrated on simulated measurements of the patients of the split val. "
    "They hold for measurements of the same kind.",
    "Not for diagnosis.",
)


@dataclass(frozen=True)
class Result:
    """One reconstruction.

    Args:
        name, patient: of the case.
        image, std, classical: [1 I J K] in units of [-1, 1], in the memory of the host.
        truth: likewise, or None.
        affine: voxel to millimetres.
        row: of `reconstruction.csv`.
        trace: residual over the noise after each turn of restorer and measurements.
        doubts: what speaks against the result, one sentence each.
    """

    name: str
    patient: str
    image: Tensor
    std: Tensor
    classical: Tensor
    truth: Tensor | None
    affine: np.ndarray
    row: dict[str, object]
    trace: list[float]
    doubts: tuple[str, ...] = ()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres per voxel."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)


def values(result: Result) -> dict[str, float]:
    """Likeness of one result to its truth, and whether its standard deviation says where it is wrong."""
    truth, image = result.truth, result.image.clamp(-1, 1)
    covered, likeness = trust(result.image - truth, result.std)
    fused, classical = psnr(image.numpy(), truth.numpy()), psnr(result.classical.clamp(-1, 1).numpy(), truth.numpy())
    return {
        "psnr": fused,
        "psnr_classical": classical,
        "gain": fused - classical,
        "ssim": ssim(image[0].numpy(), truth[0].numpy()),
        "nmse": nmse(image.numpy(), truth.numpy()),
        "coverage90": covered,
        "error_std_r": likeness,
    }


def case_scores(results: Sequence[Result]) -> list[Score]:
    """Means over patients; none where the truth is not known."""
    known = [result for result in results if result.truth is not None]
    rows = [values(result) for result in known]
    return [
        summarise(name, [row[name] for row in rows], [result.patient for result in known], UNITS.get(name, "")) for name in (rows[0] if rows else {})
    ]


def write_page(path: Path, results: Sequence[Result], scores: Sequence[Score], acquisition: object, names: Sequence[str]) -> None:
    """Write `report.html`.

    Args:
        path: of it.
        results: all.
        scores: of `case_scores`.
        acquisition: what was measured.
        names: of the estimates that were fused.
    """
    shown = list(results[:SHOWN])
    rows = [[Picture(volume[0].numpy(), None, result.spacing) for volume in _columns(result)] for result in shown]
    titles = (["truth"] if shown[0].truth is not None else []) + ["classical", "result"]
    figures: list = [Figure("Reconstructions", mosaic(rows, [result.name for result in shown]), f"From left to right: {', '.join(titles)}.")]
    spread = max(float(np.quantile(result.std.numpy(), 0.99)) for result in shown)
    maps = [[Picture(volume[0].numpy(), None, result.spacing) for volume in _errors(result)] for result in shown]
    said = "absolute error and " if shown[0].truth is not None else ""
    caption = f"From left to right: {said}standard deviation; white is {2 * spread:.2f} of images in [-1, 1]."
    figures.append(Figure("How far off", mosaic(maps, [result.name for result in shown], (0.0, 2 * spread)), caption))
    traces = {result.name: (np.arange(1.0, 1 + len(result.trace)), np.array(result.trace)) for result in shown}
    caption = "Residual over noise after each turn of restorer and measurements, before what is fused is brought to the noise's."
    figures.append(Figure("Towards the measurements", plot_curves(traces), caption))
    table = [[str(value) for value in result.row.values()] for result in results]
    sections = [
        Section("Images", figures),
        *([Section("Likeness", [score_table("", scores)])] if scores else []),
        Section("Each case", [Table("", list(results[0].row), table, figures=(1, 4))]),
        Section("Limits", [Text(LIMITS)]),
    ]
    write_report(path, "Reconstruction", f"{len(results)} cases; {acquisition}; fused from {', '.join(names)}.", sections)


def _columns(result: Result) -> list[Tensor]:
    return [*([result.truth] if result.truth is not None else []), result.classical, result.image]


def _errors(result: Result) -> list[Tensor]:
    return [*([(result.image - result.truth).abs()] if result.truth is not None else []), result.std]
