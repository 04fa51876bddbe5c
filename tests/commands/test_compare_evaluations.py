"""Evaluations side by side: paired where cases are the same."""

import csv

import numpy as np
import pytest

from medldm import cli
from medldm.files import write_csv, write_text
from medldm.metrics.base import write_scores
from medldm.metrics.bootstrap import summarise


def evaluation(root, psnr, prefix="p", cohort="abc", on="", shift=0.0):
    """A finished evaluation with a PSNR per case, a figure of the cohort, likeness to training cases, and a downstream study."""
    patients = [f"{prefix}{i // 2}" for i in range(len(psnr))]
    arms = {"real": np.asarray(psnr) / 50, "both": np.asarray(psnr) / 50 + 0.01 + shift}
    scores = [summarise("psnr", psnr, patients, "dB"), summarise("copies", [0.0, 1.0], ["a", "b"]).computed(on)]
    scores += [summarise("nearest_train", [0.5 + shift] * 3, ["s0", "s1", "s2"])]
    scores += [summarise(f"downstream_dice_{arm}_n10", values, patients) for arm, values in arms.items()]
    scores += [summarise("downstream_gain_n10", arms["both"] - arms["real"], patients)]
    write_scores(root / "metrics.csv", scores, f"split test of cohort {cohort}")
    lines = ["part,case,patient,psnr,nearest_train", *(f"reconstruction,{prefix}c{i},{patients[i]},{value}," for i, value in enumerate(psnr))]
    lines += [f"generated,s{n},s{n},,{0.5 + shift}" for n in range(3)] + [f"real,{prefix}c{i},{patients[i]},,0.4" for i in range(len(psnr))]
    write_text(root / "cases.csv", "\n".join(lines) + "\n")
    rows = [(arm, 10, seed, part, f"{prefix}c{i}", patients[i], value) for part in ("held_out", "generated") for seed in (0, 1)
            for arm, values in arms.items() for i, value in enumerate(values + seed * 0.02 - 0.01)]  # fmt: skip
    write_csv(root / "downstream.csv", [("arm", "size", "seed", "part", "case", "patient", "dice"), *rows])
    write_text(root / "provenance.json", "{}")
    return str(root)


@pytest.fixture
def runs(tmp_path):
    rng = np.random.default_rng(0)
    easy = rng.normal(25, 3, 20)
    return [evaluation(tmp_path / "a", easy), evaluation(tmp_path / "b", easy + rng.normal(0.5, 0.1, 20), shift=0.02)], easy


def test_a_small_difference_shows_where_cases_are_paired(runs, tmp_path, capsys):
    assert cli.main(["compare", *runs[0], "--out", str(tmp_path / "table.csv")]) == 0
    head, psnr, copies, nearest, *_ = capsys.readouterr().out.splitlines()
    assert head.split() == ["a", "b", "b", "-", "first"]
    assert "+0.5" in psnr and psnr.rstrip().endswith("*") and copies.rstrip().endswith("-")
    assert nearest.rstrip().endswith("-"), "generated cases of two generators are no pairs"
    with open(tmp_path / "table.csv", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["name"] == "psnr"]
    first, second = rows
    assert first["difference_to_first"] == ""
    assert float(second["difference_to_first"]) == pytest.approx(float(second["value"]) - float(first["value"]))
    width = float(second["difference_high"]) - float(second["difference_low"])
    assert 0 < width < 0.2 * (float(second["high"]) - float(second["low"]))  # what patients share takes no part


def test_other_cases_are_not_paired(runs, tmp_path, capsys):
    other = evaluation(tmp_path / "c", runs[1], prefix="q")
    assert cli.main(["compare", runs[0][0], other]) == 0
    assert capsys.readouterr().out.splitlines()[1].rstrip().endswith("-")
    same_names = evaluation(tmp_path / "d", runs[1], cohort="def")
    assert cli.main(["compare", runs[0][0], same_names]) == 0
    told = capsys.readouterr().out
    assert "evaluations on different cases" in told and told.splitlines()[1].rstrip().endswith("-")


def test_downstream_studies_are_paired_and_their_gains(runs, tmp_path, capsys):
    assert cli.main(["compare", *runs[0], "--out", str(tmp_path / "table.csv")]) == 0
    capsys.readouterr()
    with open(tmp_path / "table.csv", newline="") as stream:
        rows = {row["name"]: row for row in csv.DictReader(stream) if row["run"] == "b"}
    assert float(rows["downstream_gain_n10"]["difference_to_first"]) == pytest.approx(0.02)
    assert float(rows["downstream_dice_real_n10"]["difference_to_first"]) == pytest.approx(0.01, abs=0.001)


def test_figures_of_other_networks_are_marked(runs, tmp_path, capsys):
    long = "a_name_longer_than_thirty_characters"
    others = [evaluation(tmp_path / f"{long}_{n}", runs[1], on=on) for n, on in enumerate(("net (sha256 1)", "net (sha256 2)"))]
    assert cli.main(["compare", *others]) == 0
    head, _, copies, *rest = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == [f"{long}_0", f"{long}_1"] and "~0.5" in copies and rest[-1].startswith("~ computed with other networks")


def test_what_cannot_be_compared_is_refused(runs, tmp_path, capsys):
    (tmp_path / "table.csv").write_text("mine")
    (tmp_path / "empty").mkdir()
    evaluation(tmp_path / "damaged", runs[1])
    (tmp_path / "damaged" / "metrics.csv").write_text("name,value,low,high,n,unit,on\npsnr,25\n")
    for options, said in (
        ([runs[0][0]], "different evaluations are needed"),
        ([runs[0][0], runs[0][0] + "/."], "different evaluations are needed"),
        ([runs[0][0], str(tmp_path / "damaged")], "is damaged"),
        ([runs[0][0], str(tmp_path / "empty")], "holds no finished evaluation"),
        ([*runs[0], "--out", str(tmp_path / "table.csv")], "exists already"),
    ):
        assert cli.main(["compare", *options]) == 2
        assert said in capsys.readouterr().err
    assert (tmp_path / "table.csv").read_text() == "mine"
