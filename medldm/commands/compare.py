"""Evaluations side by side, with the differences between them case by case."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medldm.errors import UserError
from medldm.files import write_csv
from medldm.metrics.base import Score
from medldm.metrics.bootstrap import summarise

NOT_VALUES = ("part", "case", "patient")
PAIRED = "reconstruction"  # the part whose cases are the same in every evaluation of one split; generated ones are cases of their own
IDENTITY = re.compile(r"split \S+ of cohort \w+")
GENERATED = re.compile(r"(; )?generated cohort \w+")
OTHER = "computed with other networks, components or numbers of patients; see the column `on` of metrics.csv"


def compare(runs: list[Path], out: Path | None = None, seed: int = 0) -> None:
    """Print the figures of evaluations side by side; where cases are the same, also the mean difference to the first and its interval.

    Differences are paired: each held-out case with itself, in reconstruction and in downstream studies, intervals by bootstrap over patients.
    A difference whose interval leaves out 0 is marked with a star. Figures of whole cohorts have no cases to pair; their own intervals
    have to do, and a ~ marks one that was computed in another way than the first.

    Args:
        runs: two or more folders made by `evaluate`.
        out: a CSV file for the same rows; none by default.
        seed: of the bootstrap.
    """
    runs = [Path(run) for run in runs]
    if len({run.resolve() for run in runs}) < max(2, len(runs)):
        raise UserError("Two or more different evaluations are needed to compare.", "Give folders made by `medldm evaluate`, each once.")
    if out and Path(out).exists():
        raise UserError(f"{out} exists already.", "Give a new file as --out.")
    found = [_open(run) for run in runs]
    names = list(dict.fromkeys(name for evaluation in found for name in evaluation.scores))
    rows = [_row(name, found, seed) for name in names]
    titles = [_short(run, runs) for run in runs]
    _print(names, [*titles, *(f"{title} - first" for title in titles[1:])], rows)
    if len({evaluation.identity for evaluation in found}) > 1:
        print("These are evaluations on different cases, so nothing is paired.")
    if any(text.startswith("~") for row in rows for text in map(_text, row)):
        print(f"~ {OTHER}")
    if out:
        _write(Path(out), names, titles, rows)


@dataclass(frozen=True)
class _Evaluation:
    """What an evaluation wrote: scores by name; values by (part, case) and the patient of each; on what cases it was made."""

    scores: dict[str, Score]
    cases: dict[tuple[str, str], dict[str, float]]
    patients: dict[tuple[str, str], str]
    identity: str


def _open(run: Path) -> _Evaluation:
    for name in ("metrics.csv", "cases.csv", "provenance.json"):
        if not (run / name).is_file():
            raise UserError(f"{run} holds no finished evaluation (no {name}).", "Give folders made by `medldm evaluate`.")
    try:
        return _read(run)
    except (ValueError, TypeError) as error:
        raise UserError(f"{run}: metrics.csv, cases.csv or downstream.csv is damaged ({error}).", "Evaluate again in a new folder.") from error


def _read(run: Path) -> _Evaluation:
    scores, cases, patients, identities = {}, {}, {}, set()
    for row in _rows(run / "metrics.csv", {"name", "value", "low", "high", "n", "unit", "on"}):
        value, low, high = (float(row[key]) for key in ("value", "low", "high"))
        scores[row["name"]] = Score(
            row["name"], value, low, high, int(row["n"]), row["unit"], GENERATED.sub("", IDENTITY.sub("", row["on"])).strip("; ")
        )
        identities |= set(IDENTITY.findall(row["on"]))
    for row in _rows(run / "cases.csv", set(NOT_VALUES)):
        if row["part"] == PAIRED:
            key = row["part"], row["case"]
            cases[key] = {name: float(text) for name, text in row.items() if name not in NOT_VALUES and text}
            patients[key] = row["patient"] or row["case"]
    for case, patient, values in _downstream(run / "downstream.csv"):
        cases["downstream", case], patients["downstream", case] = values, patient
    return _Evaluation(scores, cases, patients, ", ".join(sorted(identities)))


def _downstream(path: Path) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Case, patient, and what each arm of a study gets on that case, mean over trainings, by the name of its score."""
    if not path.is_file():
        return
    rows = [row for row in _rows(path, {"arm", "size", "case", "patient"}) if row.get("part", "held_out") == "held_out"]
    measure = "dice" if rows and "dice" in rows[0] else "error"
    gathered: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        name = f"downstream_{measure}_{row['arm']}" + (f"_n{row['size']}" if row["size"] != "0" else "")
        if row[measure]:
            gathered.setdefault((row["case"], row["patient"]), {}).setdefault(name, []).append(float(row[measure]))
    for (case, patient), arms in gathered.items():
        values = {name: float(np.mean(found)) for name, found in arms.items()}
        for name in [name for name in values if f"_{measure}_both_" in name]:
            gain = values[name] - values[name.replace("_both_", "_real_")]
            values[name.replace(f"{measure}_both", "gain")] = gain if measure == "dice" else -gain
        yield case, patient or case, values


def _rows(path: Path, needed: set[str]) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if not needed <= set(reader.fieldnames or ()):
            raise UserError(f"{path} lacks the columns {', '.join(sorted(needed - set(reader.fieldnames or ())))}.", "Evaluate again.")
        return list(reader)


def _row(name: str, found: list[_Evaluation], seed: int) -> list[Score | None]:
    """The figure of every run, then the paired difference of every run but the first to the first."""
    own: list[Score | None] = [evaluation.scores.get(name) for evaluation in found]
    first = own[0]
    told = [score and replace(score, on="other" if first and score.on != first.on else "") for score in own]
    return told + [_difference(name, evaluation, found[0], seed) for evaluation in found[1:]]


def _difference(name: str, run: _Evaluation, first: _Evaluation, seed: int) -> Score | None:
    pairs = [key for key, values in run.cases.items() if name in values and name in first.cases.get(key, {})]
    if not pairs or run.identity != first.identity:
        return None
    differences = [run.cases[key][name] - first.cases[key][name] for key in pairs]
    return summarise(name, differences, [run.patients[key] for key in pairs], seed=seed).computed("paired")


def _short(run: Path, runs: list[Path]) -> str:
    """The last part of a folder's name that tells it from the others."""
    parts = run.absolute().parts
    length = next((n for n in range(1, len(parts)) if len({r.absolute().parts[-n:] for r in runs}) == len(runs)), len(parts))
    return "/".join(parts[-length:])


def _print(names: list[str], titles: list[str], rows: list[list[Score | None]]) -> None:
    texts = [[_text(score) for score in row] for row in rows]
    widths = [2 + max(len(title), *(len(row[n]) for row in texts)) for n, title in enumerate(titles)]
    width = 2 + max(map(len, names))
    for name, row in [("", titles), *zip(names, texts, strict=True)]:
        print(f"{name:{width}s}" + "".join(f"{text:>{space}s}" for text, space in zip(row, widths, strict=True)))


def _text(score: Score | None) -> str:
    if score is None:
        return "-"
    if np.isnan(score.value):
        return "not computable"
    sign = "+" if score.on == "paired" else ""
    star, other = " *" if sign and (score.low > 0 or score.high < 0) else "", "~" if score.on == "other" else ""
    if np.isnan(score.low):
        return f"{other}{score.value:{sign}.4g}"
    return f"{other}{score.value:{sign}.4g} [{score.low:{sign}.4g}, {score.high:{sign}.4g}]{star}"


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
