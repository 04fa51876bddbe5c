"""Notebooks run from the first cell to the last, on phantoms, and what is kept of them names no machine."""

import re
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
nbformat = pytest.importorskip("nbformat", reason="nbclient is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_draws(path, tmp_path, monkeypatch):
    for name in ("COHORT", "RESTORER", "KSPACE"):
        monkeypatch.delenv(f"MEDLDM_{name}", raising=False)
    monkeypatch.setenv("MEDLDM_STEPS", "4")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads that wait for each other beside other tests take many times as long
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    drawn = [output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    assert len(drawn) >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_kept_names_no_machine(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(home|work|root|tmp|Users)/", text) and path.stat().st_size < 600_000
