"""What a source was and what became of it: images, grids, intensities, splits, and what was left out and why."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from medldm.cohort import Cohort
from medldm.data.finding import Finding
from medldm.data.sources import SET_ASIDE
from medldm.data.splits import Strata, balance
from medldm.metrics.base import Images
from medldm.report.html import Figure, Figures, Item, Section, Table, Text
from medldm.report.mosaic import Picture, colour, extent, mosaic
from medldm.report.plots import plot_intensities
from medldm.report.reconstruction import legend, stored_picture

SHOWN, MOST_ROWS, MOST_STRUCTURES = 18, 200, 12
SPLITS = ("train", "val", "test")


def preparation_sections(cohort: Cohort, findings: Sequence[Finding], histograms: dict[str, Sequence[int]], strata: Strata) -> list[Section]:
    """The sections of a cohort's report.

    Args:
        cohort: as it was written.
        findings: of the check, one a case.
        histograms: case -> voxels per bin over [-1, 1].
        strata: patient -> what the source knows of him.
    """
    bad = [finding for finding in findings if finding.status not in ("ok", *SET_ASIDE)]
    aside = [finding for finding in findings if finding.status in SET_ASIDE]
    left_out: list[Item] = [_refused(title, found) for title, found in (("Refused", bad), ("Set aside", aside)) if found]
    return [
        Section("Images", [_images(cohort)]),
        Section("Grids", [_grids("In the source", findings), _prepared_grids(cohort)]),
        Section("Intensities", [_intensities(cohort, histograms), _levels(findings)]),
        Section("Splits", [_splits(cohort, strata)]),
        Section("Left out", left_out or [Text(["Every file of the source is in the cohort."])]),
        Section("Steps", [_steps(cohort.facts["steps"])]),
    ]


def _images(cohort: Cohort) -> Figures:
    """Cases evenly spaced over the cohort."""
    images = Images(cohort)
    shown = np.unique(np.linspace(0, len(images) - 1, min(SHOWN, len(images))).round().astype(int)).tolist()
    few = len(cohort.labels) <= MOST_STRUCTURES
    pictures = [p if few else _outlined(p) for p in (stored_picture(images, i) for i in shown)]
    box = np.max([extent(picture) for picture in pictures], axis=0)
    figures = [Figure("", mosaic([[p]], box=box), f"{images.cases[i].case} ({images.cases[i].split})") for i, p in zip(shown, pictures, strict=True)]
    caption = f"{len(shown)} of {len(images)} cases, evenly spaced by name, all at one scale: axial, coronal, sagittal, patient's right on the left."
    return Figures("", figures, caption, legend(images) if few else {f"all {len(cohort.labels)} structures": colour(1)})


def _outlined(picture: Picture) -> Picture:
    """All structures as one; the colours of many would hide the image."""
    return picture if picture.label is None else replace(picture, label=(picture.label > 0).astype(picture.label.dtype))


def _grids(title: str, findings: Sequence[Finding]) -> Table:
    """How often each grid occurs in the source."""
    kinds = Counter((_x(f.shape), _x(round(s, 2) for s in f.spacing), f.orientation, str(f.channels)) for f in findings if f.status == "ok")
    header = ("cases", "voxels", "spacing / mm", "axes", "contrasts")
    rows = [(str(count), *kind) for kind, count in kinds.most_common(MOST_ROWS)]
    return Table(title, header, rows, figures=(0, 1, 2, 3, 4))


def _prepared_grids(cohort: Cohort) -> Table:
    good = [case for case in cohort if case.status == "ok"]
    kinds = Counter((_x(case.shape), _x(round(s, 2) for s in case.spacing)) for case in good)
    rows = [(str(count), *kind) for kind, count in kinds.most_common(MOST_ROWS)]
    return Table("In the cohort (axes R, A, S)", ("cases", "voxels", "spacing / mm"), rows, figures=(0, 1, 2))


def _intensities(cohort: Cohort, histograms: dict[str, Sequence[int]]) -> Figure:
    """The mean histogram of each split, and how much cases differ."""
    shares = {}
    for split in SPLITS:
        counts = np.array([histograms[case.case] for case in cohort.split(split) if case.case in histograms], dtype=float)
        if len(counts):
            shares[split] = counts / counts.sum(1, keepdims=True)
    edges = np.linspace(-1, 1, len(next(iter(histograms.values()))) + 1)
    caption = "After preparation, first contrast. Mean over cases; the bands hold the middle 80 % of cases."
    return Figure("", plot_intensities(edges, shares, cohort.unit), caption)


def _levels(findings: Sequence[Finding]) -> Table:
    """Levels of the source images: their spread tells whether the intensities are calibrated."""
    levels = np.array([[f.low, f.median, f.high] for f in findings if f.status == "ok"], dtype=float)
    rows = [
        (name, *(f"{value:.4g}" for value in (column.min(), np.median(column), column.max())))
        for name, column in zip(("1st percentile", "median", "99th percentile"), levels.T, strict=True)
    ]
    return Table("In the source", ("of the voxels", "lowest case", "median case", "highest case"), rows, figures=(1, 2, 3))


def _splits(cohort: Cohort, strata: Strata) -> Table:
    """Cases and patients of each split, and how alike they are."""
    good = [case for case in cohort if case.status == "ok"]
    splits = {case.patient: case.split for case in good}
    columns = {split: [case for case in good if case.split == split] for split in SPLITS}
    rows = [
        ("cases", *(str(len(cases)) for cases in columns.values())),
        ("patients", *(str(len({case.patient for case in cases})) for cases in columns.values())),
        *balance(splits, strata, SPLITS),
    ]
    return Table("", ("", *SPLITS), rows, figures=(1, 2, 3))


def _refused(title: str, findings: Sequence[Finding]) -> Table:
    counts = Counter(finding.status for finding in findings)
    summary = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    rows = [(f.case, f.file, f.status, f.reason) for f in findings[:MOST_ROWS]]
    more = f"; the first {MOST_ROWS} below" if len(findings) > MOST_ROWS else ""
    return Table(f"{title}: {summary}{more}", ("case", "file", "status", "reason"), rows, figures=(2,))


def _steps(steps: Sequence[Any]) -> Table:
    rows = []
    for number, step in enumerate(steps, start=1):
        settings = ", ".join(f"{name} {value}" for name, value in step["init_args"].items())
        rows.append((str(number), step["class_path"].rpartition(".")[2], settings))
    return Table("", ("", "step", "settings"), rows, figures=(0, 1))


def _x(values: Any) -> str:
    return " x ".join(f"{value:g}" for value in values)
