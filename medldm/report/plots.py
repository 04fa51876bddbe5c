"""Plots as PNG bytes: transparent, in mid tones that read on light and on dark paper."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from medldm.errors import UserError
from medldm.metrics.base import Score

INK = "#7d8794"
LINES = ("#2f8fd8", "#e8830c", "#1fa774", "#d2509a", "#8f7be8", "#b08d00")
LOG_RATIO = 8.0
SMOOTHED_ABOVE = 150
PLOTTED_BINS = 64

#: name -> (steps, values)
Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]


def read_history(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The curves of a training's `history.csv` (columns step, name, value), in the order of their first row.

    Raises:
        UserError: a column is missing or a cell is no number.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                found.setdefault(row["name"], []).append((float(row["step"]), float(row["value"])))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a training history ({error!r}).", "It needs the columns step, name, value.") from error
    return {name: tuple(np.array(points).T) for name, points in found.items()}


def plot_curves(curves: Curves) -> bytes:
    """One small plot per curve; a curve of positive values that spans a factor of 8 gets a logarithmic axis.

    A long curve is drawn faintly, with its running mean over a fiftieth of its points on top. Without curves (nothing was trained, or
    for too few steps) the plot is empty.

    Args:
        curves: name -> (steps, values).
    """
    columns = max(1, min(3, len(curves)))
    rows = max(1, -(-len(curves) // columns))
    with _figure(rows, columns, (3.5 * columns, 2.3 * rows)) as (axes, png):
        for axis, (name, (steps, values)) in zip(axes, curves.items(), strict=False):
            finite = np.isfinite(values)
            steps, values = steps[finite], values[finite]
            long = len(values) > SMOOTHED_ABOVE
            axis.plot(steps, values, color=LINES[0], lw=0.8 if long else 1.6, alpha=0.35 if long else 1.0, marker="o" if len(values) < 2 else None)
            if long:
                width = len(values) // 50
                mean = np.convolve(values, np.ones(width) / width, mode="valid")
                axis.plot(steps[width - 1 :], mean, color=LINES[0], lw=1.6)
            if len(values) and values.min() > 0 and values.max() > LOG_RATIO * values.min():
                axis.set_yscale("log")
            axis.set_title(name, fontsize=9, color=INK, loc="left")
            axis.set_xlabel("step")
    return png()


def plot_scatter(panels: Sequence[tuple[str, str, np.ndarray, np.ndarray]]) -> bytes:
    """Requested (x) against measured (y), one square panel each, with the line of equality.

    Args:
        panels: title, unit, requested [n], measured [n].
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with _figure(rows, columns, (3.3 * columns, 3.3 * rows)) as (axes, png):
        for axis, (title, unit, requested, measured) in zip(axes, panels, strict=False):
            both = np.concatenate([requested, measured])
            low, high = both.min(), both.max()
            edge = 0.05 * (high - low) or 1.0
            ends = [low - edge, high + edge]
            axis.plot(ends, ends, color=INK, lw=1, ls="--")
            axis.scatter(requested, measured, s=22, color=LINES[0], alpha=0.75, linewidths=0)
            axis.set(xlim=ends, ylim=ends, aspect="equal", xlabel=f"requested / {unit}", ylabel=f"measured / {unit}")
            axis.set_title(title, fontsize=9, color=INK, loc="left")
    return png()


def plot_intensities(edges: np.ndarray, shares: Mapping[str, np.ndarray], unit: str) -> bytes:
    """Mean intensity histograms of cohorts; a peak of a few bins, such as the background, is cut off where it would hide the rest.

    Args:
        edges: of the bins [bins + 1].
        shares: cohort -> share of voxels per bin and case [cases, bins].
        unit: of the intensities.
    """
    step = max(1, (len(edges) - 1) // PLOTTED_BINS)
    starts = np.arange(0, len(edges) - 1, step)
    coarse = np.append(edges[starts], edges[-1])
    top = 0.0
    with _figure(1, 1, (10, 3)) as (axes, png):
        for line, (name, rows) in zip(LINES, shares.items(), strict=False):
            density = np.add.reduceat(rows, starts, axis=1) / np.diff(coarse)
            low, mean, high = np.percentile(density, 10, axis=0), density.mean(0), np.percentile(density, 90, axis=0)
            middle = (coarse[:-1] + coarse[1:]) / 2
            axes[0].fill_between(middle, low, high, color=line, alpha=0.16, lw=0)
            axes[0].plot(middle, mean, color=line, lw=1.8, label=name)
            usual, peak = 1.3 * float(np.percentile(high, 95)), 1.05 * float(high.max())
            top = max(top, usual if 0 < usual < peak / 2 else peak)
        axes[0].set(xlabel=f"intensity / {unit}", ylabel="density", xlim=(edges[0], edges[-1]))
        axes[0].set_ylim(0, top)
        if any(line.get_ydata().max() > top for line in axes[0].lines):
            axes[0].set_title("higher peaks are cut off", loc="left", fontsize=8, color=INK)
        axes[0].legend(frameon=False, labelcolor=INK, fontsize=9)
    return png()


def plot_arms(lines: Mapping[str, Sequence[tuple[int, Score]]], title: str) -> bytes:
    """Scores against the number of real training patients, with their intervals; an arm without real ones is a dashed line.

    Args:
        lines: arm -> pairs of real patients and score.
        title: of the vertical axis.
    """
    with _figure(1, 1, (6, 3.4)) as (axes, png):
        axis = axes[0]
        for line, (name, points) in zip(LINES, lines.items(), strict=False):
            sizes, scores = zip(*points, strict=True)
            values = np.array([score.value for score in scores])
            reach = np.abs(np.array([[score.low, score.high] for score in scores]).T - values)
            if sizes == (0,):
                axis.axhline(values[0], color=line, lw=1.4, ls="--", label=name)
            else:
                axis.errorbar(sizes, values, reach, color=line, lw=1.6, marker="o", ms=4, capsize=3, label=name)
        ticks = sorted({size for points in lines.values() for size, _ in points if size})
        axis.set_xscale("log")
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.set(xlabel="real training patients", ylabel=title)
        axis.legend(frameon=False, labelcolor=INK, fontsize=9)
    return png()


def plot_groups(groups: Mapping[str, Sequence[float] | np.ndarray], limit: float | None, name: str) -> bytes:
    """Values of each group on a line of its own, their medians, and a limit across all of them.

    Args:
        groups: name -> values.
        limit: a dashed line; none where None or not finite.
        name: of the values.
    """
    rng = np.random.default_rng(0)
    with _figure(1, 1, (8, 0.9 + 0.55 * len(groups))) as (axes, png):
        axis = axes[0]
        for row, (line, values) in enumerate(zip(LINES, groups.values(), strict=False)):
            values = np.asarray(values)
            axis.scatter(values, row + rng.uniform(-0.22, 0.22, len(values)), s=16, color=line, alpha=0.65, linewidths=0)
            axis.plot([np.median(values)] * 2, [row - 0.34, row + 0.34], color=line, lw=2.2)
        if limit is not None and np.isfinite(limit):
            axis.axvline(limit, color=INK, lw=1.2, ls="--")
        axis.set_yticks(range(len(groups)), list(groups))
        axis.set(xlabel=name, ylim=(len(groups) - 0.5, -0.5))
    return png()


@contextmanager
def _figure(rows: int, columns: int, size: tuple[float, float]) -> Iterator[tuple[list[Any], Any]]:
    """Axes without a global state of matplotlib, and a function that gives the PNG."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9, "font.family": "DejaVu Sans"}):
        figure = Figure(size, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()

        def png() -> bytes:
            for axis in axes:
                if not axis.has_data():
                    axis.set_visible(False)
                axis.patch.set_alpha(0)
                axis.tick_params(which="both", colors=INK, labelsize=8)
                axis.xaxis.label.set_color(INK)
                axis.yaxis.label.set_color(INK)
                axis.grid(True, color=INK, alpha=0.2, lw=0.6)
                for side, spine in axis.spines.items():
                    spine.set_visible(side in ("left", "bottom"))
                    spine.set_color(INK)
            stream = BytesIO()
            figure.savefig(stream, format="png", dpi=160, transparent=True)
            return stream.getvalue()

        yield axes, png
