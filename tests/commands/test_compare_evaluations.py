"""Evaluations side by side: paired where cases are the same."""

import csv

import numpy as np
import pytest

from medldm import cli
from medldm.files import write_text
from medldm.metrics.base import write_scores
from medldm.metrics.bootstrap import summarise


def evaluation(root, psnr, prefix="p"):
    """A finished evaluation with a PSNR per case and a figure of the cohort."""
    patients = [f"{prefix}{i // 2}" for i in range(len(psnr))]
    write_scores(root / "metrics.csv", [summarise("psnr", psnr, patients, "dB"), summarise("copies", [0.0, 1.0], ["a", "b"])])
    lines = ["part,case,patient,psnr", *(f"reconstruction,{prefix}c{i},{patients[i]},{value}" for i, value in enumerate(psnr))]
    write_text(root / "cases.csv", "\n".join(lines) + "\n")
    write_text(root / "provenance.json", "{}")
    return str(root)


@pytest.fixture
def runs(tmp_path):
    rng = np.random.default_rng(0)
    easy = rng.normal(25, 3, 20)
    return [evaluation(tmp_path / "a", easy), evaluation(tmp_path / "b", easy + rng.normal(0.5, 0.1, 20))], easy


def test_a_small_difference_shows_where_cases_are_paired(runs, tmp_path, capsys):
    assert cli.main(["compare", *runs[0], "--out", str(tmp_path / "table.csv")]) == 0
    head, psnr, copies = capsys.readouterr().out.splitlines()
    assert head.split() == ["a", "b", "b", "-", "first"]
    assert "+0.5" in psnr and psnr.rstrip().endswith("*") and copies.rstrip().endswith("-")
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


def test_what_cannot_be_compared_is_refused(runs, tmp_path, capsys):
    (tmp_path / "table.csv").write_text("mine")
    (tmp_path / "empty").mkdir()
    for options, said in (
        ([runs[0][0]], "cannot be compared"),
        ([runs[0][0], str(tmp_path / "empty")], "holds no finished evaluation"),
        ([*runs[0], "--out", str(tmp_path / "table.csv")], "exists already"),
    ):
        assert cli.main(["compare", *options]) == 2
        assert said in capsys.readouterr().err
    assert (tmp_path / "table.csv").read_text() == "mine"
