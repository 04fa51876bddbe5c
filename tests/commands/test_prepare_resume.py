"""A `prepare` that is killed goes on where it was and ends with the same cohort; several processes change nothing."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from medldm.cohort import Cohort
from medldm.commands.prepare import prepare
from medldm.errors import UserError
from medldm.volume import Volume, write_volume

CASES = 16


@pytest.fixture(scope="module", autouse=True)
def one_store(tmp_path_factory):
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    yield
    del os.environ["MLFLOW_TRACKING_URI"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("large") / "source", np.random.default_rng(0)
    for n in range(CASES):
        image = torch.from_numpy(rng.normal(size=(1, 72, 80, 64)).astype(np.float32))
        label = torch.from_numpy(4.0 * (rng.normal(size=(1, 72, 80, 64)) > 0)).float()
        write_volume(root / f"images/c{n:02}.nii.gz", Volume(image, np.diag([1.5, 1, 2, 1])))
        write_volume(root / f"labels/c{n:02}.nii.gz", Volume(label, np.diag([1.5, 1, 2, 1]), "label"))
    return root


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    return prepare(source, tmp_path_factory.mktemp("whole") / "cohort", spacing=(2, 2, 2), jobs=1)


def test_processes_change_nothing(source, whole, tmp_path):
    again = prepare(source, tmp_path / "cohort", spacing=(2, 2, 2), jobs=2)
    assert again.fingerprint() == whole.fingerprint()
    for name in ("cohort.csv", "records/c03.json", "images/c03.nii.gz"):
        assert again.path(name).read_bytes() == whole.path(name).read_bytes()


def test_killed_and_started_again(source, whole, tmp_path):
    out = tmp_path / "cohort"
    command = [sys.executable, "-m", "medldm", "prepare", "--source", str(source), "--out", str(out), "--spacing", "[2,2,2]", "--jobs", "2"]
    wanted = int(np.random.default_rng().integers(1, CASES - 6))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(out.glob("records/*.json"))) < wanted:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    time.sleep(1.5)  # its workers end with it
    done = {path: path.stat().st_mtime_ns for path in out.glob("records/*.json")}
    assert wanted <= len(done) < CASES and not (out / "cohort.json").exists()
    (out / "images/c01.nii.gz").write_bytes(b"torn")  # as if the disk had not kept it
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert Cohort.load(out).fingerprint() == whole.fingerprint()
    kept = [path for path, written in done.items() if path.stat().st_mtime_ns == written]
    assert len(kept) >= len(done) - 1 and not list(out.rglob(".tmp-*"))


def test_a_file_that_changed_since_is_prepared_again(source, whole, tmp_path):
    shutil.copytree(source, tmp_path / "source")
    prepare(tmp_path / "source", tmp_path / "cohort", spacing=(2, 2, 2))
    for name in ("provenance.json", "cohort.json"):
        (tmp_path / "cohort" / name).unlink()
    write_volume(tmp_path / "source/images/c05.nii.gz", Volume(torch.randn(1, 72, 80, 64), np.diag([1.5, 1, 2, 1])))
    again = prepare(tmp_path / "source", tmp_path / "cohort", spacing=(2, 2, 2))
    changed = [a.case for a, b in zip(again, whole, strict=True) if a.sha256 != b.sha256]
    assert changed == ["c05"]


def test_label_values_with_gaps_become_consecutive_and_are_remembered(whole):
    assert whole.labels == {1: "label_4"} and whole.facts["label_values"] == {"1": 4}


def test_a_patient_who_left_the_source_leaves_the_folder(source, whole, tmp_path):
    shutil.copytree(source, tmp_path / "source")
    prepare(tmp_path / "source", tmp_path / "cohort", spacing=(2, 2, 2))
    for name in ("provenance.json", "cohort.json"):  # as if it had been stopped before the end
        (tmp_path / "cohort" / name).unlink()
    for folder in ("images", "labels"):
        (tmp_path / f"source/{folder}/c07.nii.gz").unlink()
    again = prepare(tmp_path / "source", tmp_path / "cohort", spacing=(2, 2, 2))
    assert len(again) == CASES - 1 and not [path for path in again.root.rglob("*") if "c07" in path.name]


def test_a_finished_cohort_is_not_taken_for_that_of_a_changed_source(source, whole, tmp_path, capsys):
    shutil.copytree(source, tmp_path / "source")
    out = tmp_path / "cohort"
    prepare(tmp_path / "source", out, spacing=(2, 2, 2))
    os.utime(tmp_path / "source/images/c05.nii.gz")  # touched, not changed
    prepare(tmp_path / "source", out, spacing=(2, 2, 2))
    assert "prepared already" in capsys.readouterr().out
    write_volume(tmp_path / "source/images/c05.nii.gz", Volume(torch.randn(1, 72, 80, 64), np.diag([1.5, 1, 2, 1])))
    with pytest.raises(UserError, match="has changed since"):
        prepare(tmp_path / "source", out, spacing=(2, 2, 2))
    shutil.rmtree(tmp_path / "source")
    prepare(tmp_path / "source", out, spacing=(2, 2, 2))
    assert "not there to be compared with" in capsys.readouterr().out
