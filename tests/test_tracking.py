"""Tracking: what is stored, how runs are linked, and that nothing of it can stop the work."""

import getpass
import logging
import socket
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from medldm.files import sha256
from medldm.run import Run
from medldm.tracking import EXPERIMENT, chain, flatten, tracked


@pytest.fixture(autouse=True)
def _no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A chain of two commands, the second of which reads what the first wrote."""
    out = tmp_path_factory.mktemp("a folder")
    with chain(out, "demo"):
        first = Run.claim(out / "autoencoder", "train-autoencoder", {"cohort": Path.home() / "someone" / "cohort", "model": {"widths": [8, 16]}})
        with tracked(first, {"cohort": "c0ffee"}) as tracker:
            (first.root / "model.safetensors").write_bytes(b"weights")
            tracker.metrics({"loss": 0.5, "dice_a (left)": 0.9}, step=3)
            tracker.metrics({"loss": 0.25}, step=4)
            tracker.artifact(first.root / "config.yaml")
        second = Run.claim(out / "latents", "cache-latents", {"autoencoder": first.root})
        with tracked(second, {"autoencoder": sha256(first.root / "model.safetensors")}):
            pass
    return out


@pytest.fixture(scope="module")
def runs(store):
    """Command -> its MLflow run."""
    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    return {run.data.tags["medldm.command"]: run for run in found}


def test_a_run_holds_arguments_figures_and_files(store, runs):
    run = runs["train-autoencoder"]
    assert run.info.status == "FINISHED"
    assert run.data.params == {"cohort": "cohort", "model.widths": "[8, 16]"}
    assert run.data.metrics == {"loss": 0.25, "dice_a _left_": 0.9}
    client = MlflowClient(f"sqlite:///{store / 'mlflow.db'}")
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [(3, 0.5), (4, 0.25)]
    assert [f.name for f in (store / "mlflow_artifacts").rglob("*.yaml")] == ["config.yaml"]


def test_tags_lead_back_to_what_a_run_has_read(runs):
    read = runs["cache-latents"].data.tags["medldm.input.autoencoder"]
    writers = [name for name, run in runs.items() if run.data.tags.get("medldm.fingerprint") == read]
    assert writers == ["train-autoencoder"]
    assert runs["train-autoencoder"].data.tags["medldm.input.cohort"] == "c0ffee"


def test_commands_are_nested_under_the_chain(runs):
    parent = runs["demo"].info.run_id
    assert [run.data.tags.get("mlflow.parentRunId") for name, run in runs.items() if name != "demo"] == [parent, parent]


def test_neither_user_nor_folders_are_stored(runs):
    private = {getpass.getuser(), socket.gethostname(), str(Path.home()), "someone"}
    stored = [text for run in runs.values() for text in (*run.data.tags.values(), *run.data.params.values(), run.info.user_id or "")]
    assert [text for text in stored if any(word and word in text for word in private)] == []


def test_paths_are_cut_to_their_last_part():
    assert flatten({"a": {"b": "/x/y/z", "c": ["u/v", 1]}, "d": None, "e": {}}) == {"a.b": "z", "a.c": '["v", 1]', "d": "null", "e": "{}"}


@pytest.mark.parametrize(("error", "status"), [(ValueError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(143), "KILLED")])
def test_an_error_ends_the_run_as_failed_and_passes_through(store, error, status):
    run = Run.claim(store / type(error).__name__, "prepare", {})
    with pytest.raises(type(error)), tracked(run, {}) as tracker:
        raise error
    assert MlflowClient(f"sqlite:///{store / 'mlflow.db'}").get_run(tracker.run_id).info.status == status


def test_nothing_appears_in_the_working_folder(tmp_path, store, monkeypatch):
    working = tmp_path / "elsewhere"
    working.mkdir()
    monkeypatch.chdir(working)
    with tracked(Run.claim(store / "other", "prepare", {}), {}) as tracker:
        tracker.artifact(store / "other" / "config.yaml")
    assert tracker.on
    assert list(working.iterdir()) == []


@pytest.mark.parametrize("address", ["http://name:secret@127.0.0.1:9", "file:///nowhere/mlruns", "sqlite:////proc/no/such.db"])
def test_a_dead_store_costs_one_warning_and_little_time(tmp_path, monkeypatch, caplog, address):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    start, done = time.perf_counter(), []
    with caplog.at_level(logging.WARNING), chain(tmp_path, "demo"):
        for name in ("a", "b"):
            with tracked(Run.claim(tmp_path / name, "prepare", {}), {"source": "1"}) as tracker:
                tracker.metrics({"loss": 1.0}, 1)
                tracker.artifact(tmp_path / "absent.png")
                done.append(name)
    assert done == ["a", "b"]
    assert time.perf_counter() - start < 10
    messages = [record.getMessage() for record in caplog.records if record.name == "medldm.tracking"]
    assert len(messages) == 1
    assert "secret" not in messages[0]


def test_a_store_that_dies_meanwhile_does_not_stop_the_work(tmp_path, store, caplog):
    with tracked(Run.claim(store / "dying", "prepare", {}), {}) as tracker:
        tracker.artifact(tmp_path / "absent.png")
        tracker.metrics({"loss": 1.0}, 1)
    assert not tracker.on
    assert len([r for r in caplog.records if r.name == "medldm.tracking"]) == 1
