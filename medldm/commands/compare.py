"""Evaluations side by side, with the differences between them case by case."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medldm.errors import UserError
from medldm.files import write_csv
from medldm.metrics.base import Score
from medldm.metrics.bootstrap import summarise

NOT_VALUES = ("part", "case", "patient")


def compare(runs: list[Path], out: Path | None = None, seed: int = 0) -> None:
    """Print the figures of evaluations side by side; where cases are the same, also the mean difference to the first and its interval.

    Differences are paired: each case with itself, intervals by bootstrap over patients. A difference whose interval leaves out 0 is marked
    with a star. Figures of whole cohorts have no cases to pair; their own intervals have to do.

    Args:
        runs: two or more folders made by `evaluate`.
        out: a CSV file for the same rows; none by default.
        seed: of the bootstrap.
    """
    if len(runs) < 2:
        raise UserError("One evaluation cannot be compared.", "Give two or more folders made by `medldm evaluate`.")
    if out and Path(out).exists():
        raise UserError(f"{out} exists already.", "Give a new file as --out.")
    found = [_open(Path(run)) for run in runs]
    names = list(dict.fromkeys(name for evaluation in found for name in evaluation.scores))
    rows = [_row(name, found, seed) for name in names]
    width, columns = max(map(len, names)) + 2, [_short(run, runs) for run in runs]
    print(" " * width + "".join(f"{column:>28s}" for column in columns) + "".join(f"{f'{column} - first':>30s}" for column in columns[1:]))
    for name, row in zip(names, rows, strict=True):
        print(f"{name:{width}s}" + "".join(f"{_text(score):>{28 if n < len(runs) else 30}s}" for n, score in enumerate(row)))
    if out:
        _write(Path(out), names, columns, rows)


@dataclass(frozen=True)
class _Evaluation:
    """What an evaluation wrote: scores by name; values by (part, case) and the patient of each."""

    scores: dict[str, Score]
    cases: dict[tuple[str, str], dict[str, float]]
    patients: dict[tuple[str, str], str]


def _open(run: Path) -> _Evaluation:
    for name in ("metrics.csv", "cases.csv", "provenance.json"):
        if not (run / name).is_file():
            raise UserError(f"{run} holds no finished evaluation (no {name}).", "Give folders made by `medldm evaluate`.")
    scores, cases, patients = {}, {}, {}
    for row in _rows(run / "metrics.csv", {"name", "value", "low", "high", "n", "unit"}):
        value, low, high = (float(row[key]) for key in ("value", "low", "high"))
        scores[row["name"]] = Score(row["name"], value, low, high, int(row["n"]), row["unit"])
    for row in _rows(run / "cases.csv", set(NOT_VALUES)):
        key = row["part"], row["case"]
        cases[key] = {name: float(text) for name, text in row.items() if name not in NOT_VALUES and text}
        patients[key] = row["patient"] or row["case"]
    return _Evaluation(scores, cases, patients)


def _rows(path: Path, needed: set[str]) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if not needed <= set(reader.fieldnames or ()):
            raise UserError(f"{path} lacks the columns {', '.join(sorted(needed - set(reader.fieldnames or ())))}.", "Evaluate again.")
        return list(reader)


def _row(name: str, found: list[_Evaluation], seed: int) -> list[Score | None]:
    """The figure of every run, then the paired difference of every run but the first to the first."""
    own: list[Score | None] = [evaluation.scores.get(name) for evaluation in found]
    return own + [_difference(name, evaluation, found[0], seed) for evaluation in found[1:]]


def _difference(name: str, run: _Evaluation, first: _Evaluation, seed: int) -> Score | None:
    pairs = [key for key, values in run.cases.items() if name in values and name in first.cases.get(key, {})]
    if not pairs or any(run.patients[key] != first.patients[key] for key in pairs):
        return None
    differences = [run.cases[key][name] - first.cases[key][name] for key in pairs]
    return summarise(name, differences, [run.patients[key] for key in pairs], seed=seed).computed("paired")


def _short(run: Path, runs: list[Path]) -> str:
    """The last part of a folder's name that tells it from the others."""
    parts = Path(run).absolute().parts
    length = next((n for n in range(1, len(parts)) if len({Path(r).absolute().parts[-n:] for r in runs}) == len(runs)), len(parts))
    return "/".join(parts[-length:])[-26:]


def _text(score: Score | None) -> str:
    if score is None:
        return "-"
    sign = "+" if score.on == "paired" else ""
    star = " *" if sign and (score.low > 0 or score.high < 0) else ""
    if np.isnan(score.low):
        return f"{score.value:{sign}.4g}"
    return f"{score.value:{sign}.4g} [{score.low:{sign}.4g}, {score.high:{sign}.4g}]{star}"


def _write(path: Path, names: list[str], columns: list[str], rows: list[list[Score | None]]) -> None:
    table: list[tuple[object, ...]] = [
        ("name", "run", "value", "low", "high", "n", "unit", "difference_to_first", "difference_low", "difference_high")
    ]
    for name, row in zip(names, rows, strict=True):
        for position, column in enumerate(columns):
            score, pair = row[position], row[len(columns) + position - 1] if position else None
            if score:
                difference = (pair.value, pair.low, pair.high) if pair else ("", "", "")
                table.append((name, column, score.value, score.low, score.high, score.n, score.unit, *difference))
    write_csv(path, table)
