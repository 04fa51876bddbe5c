"""`check` and `prepare`: any layout becomes one kind of cohort; a bad source leaves nothing behind."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from medldm.cohort import Cohort
from medldm.commands.check import check
from medldm.commands.prepare import prepare
from medldm.data.preparing import read_history
from medldm.data.steps.intensity import Percentile
from medldm.data.steps.relabel import Relabel
from medldm.data.steps.reorient import Reorient
from medldm.errors import UserError
from medldm.files import sha256
from medldm.volume import Volume, read_volume, write_volume


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture(autouse=True)
def one_store(monkeypatch, store):
    """Setting up a store takes seconds; these tests share one."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)


@pytest.fixture
def source(phantom_source, tmp_path):
    shutil.copytree(phantom_source, tmp_path / "source")
    return tmp_path / "source"


def spoil(source, name="p002_s1"):
    (source / f"images/{name}.nii.gz").write_text("<html>404</html>")


def test_the_cohort_holds_what_the_source_says(phantom_source, phantom_cohort):
    assert len(phantom_cohort) == 10 and phantom_cohort.labels == {1: "brain", 2: "ventricles", 3: "lesion"}
    assert phantom_cohort.covariates["age"] == "years" and phantom_cohort.covariates["volume_ventricles"] == "mm3"
    rows = {row["case"]: row for row in csv.DictReader((phantom_source / "covariates.csv").read_text().splitlines())}
    for case in phantom_cohort:
        image, label = (read_volume(phantom_cohort.path(p), unit) for p, unit in ((case.image, "a.u."), (case.label, "label")))
        original = read_volume(phantom_source / "labels" / f"{case.case}.nii.gz", "label")
        assert torch.equal(label.data, original.data) and np.array_equal(image.affine, label.affine)
        assert float(image.data.min()) == -1 and float(image.data.max()) == 1
        assert case.covariates["age"] == float(rows[case.case]["age"]) and case.covariates["sex"] == rows[case.case]["sex"]
        assert case.covariates["volume_ventricles"] == 1000.0 * int((original.data == 2).sum())
        assert case.sha256 == sha256(phantom_cohort.path(case.image), phantom_cohort.path(case.label))
        assert case.shape == image.shape and case.spacing == image.spacing
        assert read_history(phantom_cohort.root, case.case).grid.shape == original.shape


def test_patients_are_not_split(phantom_cohort):
    splits = {}
    for case in phantom_cohort:
        assert splits.setdefault(case.patient, case.split) == case.split
    assert sorted(splits.values()) == ["test"] * 2 + ["train"] * 4 + ["val"] * 2


def test_the_same_cohort_whatever_the_layout_and_orientation(phantom_source, phantom_cohort, tmp_path):
    """The same volumes stored as LPI in an MSD tree."""
    for folder, unit in (("images", "a.u."), ("labels", "label")):
        for path in (phantom_source / folder).iterdir():
            volume = read_volume(path, unit)
            turn = np.diag([-1.0, -1.0, -1.0, 1.0])
            turn[:3, 3] = np.array(volume.shape) - 1
            write_volume(tmp_path / f"msd/{folder}Tr" / path.name, Volume(volume.data.flip(1, 2, 3), volume.affine @ turn, unit))
    (tmp_path / "msd/dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "brain", "2": "ventricles", "3": "lesion"}}))
    cohort = prepare(tmp_path / "msd", tmp_path / "cohort", covariates=phantom_source / "covariates.csv", val=0.25, test=0.25)
    assert cohort.fingerprint() == phantom_cohort.fingerprint()


def test_a_second_run_says_what_exists_and_other_arguments_are_refused(source, tmp_path, capsys):
    first = prepare(source, tmp_path / "c")
    capsys.readouterr()
    assert prepare(source, tmp_path / "c").fingerprint() == first.fingerprint()
    assert "prepared already" in capsys.readouterr().out
    with pytest.raises(UserError, match="seed: 0 there, 1 now"):
        prepare(source, tmp_path / "c", seed=1)


def test_an_interrupted_run_ends_like_any_other(source, tmp_path):
    whole = prepare(source, tmp_path / "a")
    prepare(source, tmp_path / "b")
    for name in ("provenance.json", "cohort.json", "cohort.csv", "images/p003_s1.nii.gz"):
        (tmp_path / "b" / name).unlink()
    (tmp_path / "b/images/.tmp-x.nii.gz").write_text("half a file")
    again = prepare(source, tmp_path / "b")
    assert again.fingerprint() == whole.fingerprint() and not (tmp_path / "b/images/.tmp-x.nii.gz").exists()
    for name in ("cohort.csv", "images/p003_s1.nii.gz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_bad_files_are_all_listed_and_nothing_is_written(source, tmp_path):
    spoil(source, "p002_s1")
    (source / "labels/p003_s1.nii.gz").unlink()
    with pytest.raises(UserError) as caught:
        prepare(source, tmp_path / "c")
    message = str(caught.value)
    assert "2 of 10 cases" in message and "images/p002_s1.nii.gz  [unreadable]" in message and "images/p003_s1.nii.gz  [no_label]" in message
    assert not (tmp_path / "c").exists()


def test_skip_bad_keeps_a_row_with_the_reason(source, tmp_path):
    spoil(source)
    cohort = prepare(source, tmp_path / "c", skip_bad=True)
    (row,) = [case for case in cohort if case.status != "ok"]
    assert (row.case, row.status, row.image, row.split) == ("p002_s1", "unreadable", "", "") and "NIfTI" in row.reason
    assert not (tmp_path / "c/images/p002_s1.nii.gz").exists() and len(Cohort.load(tmp_path / "c")) == 10
    for path in (source / "images").iterdir():
        spoil(source, path.name.removesuffix(".nii.gz"))
    with pytest.raises(UserError, match="No case is usable"):
        prepare(source, tmp_path / "d", skip_bad=True)
    assert not (tmp_path / "d").exists()


def test_splits_of_the_source_are_kept(source, tmp_path):
    rows = list(csv.DictReader((source / "covariates.csv").read_text().splitlines()))
    lines = [f"{row['case']},{row['patient']},{'test' if row['patient'] in ('p004', 'p005') else 'train'}" for row in rows]
    (source / "covariates.csv").write_text("\n".join(["case,patient,split", *lines]))
    cohort = prepare(source, tmp_path / "c")
    assert {case.case for case in cohort.split("test")} == {"p004_s1", "p004_s2", "p005_s1"} and len(cohort.split("train")) == 7
    (source / "covariates.csv").write_text("\n".join(["case,patient,split", *lines]).replace("p004_s2,p004,test", "p004_s2,p004,train"))
    with pytest.raises(UserError, match="patient 'p004': case 'p004_s1' in 'test', case 'p004_s2' in 'train'"):
        prepare(source, tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_spacing_and_window(source, tmp_path):
    cohort = prepare(source, tmp_path / "c", spacing=(20.0, 20.0, 20.0), window=(0.0, 500.0))
    image = read_volume(cohort.path(cohort.cases[0].image))
    assert cohort.cases[0].shape == image.shape == (8, 10, 8) and image.spacing == (20, 20, 20)
    steps = {step["class_path"].rpartition(".")[2]: step["init_args"] for step in cohort.facts["steps"]}
    assert steps["Window"] == {"low": 0.0, "high": 500.0} and steps["Resample"] == {"spacing": [20.0, 20.0, 20.0]}
    assert -1 <= float(image.data.min()) < float(image.data.max()) <= 1


def test_names_for_labels(source, tmp_path):
    (source / "dataset.json").unlink()
    assert prepare(source, tmp_path / "a").labels == {1: "label_1", 2: "label_2", 3: "label_3"}
    assert prepare(source, tmp_path / "b", labels={"x": 1, "y": 2, "z": 3}).labels == {1: "x", 2: "y", 3: "z"}
    with pytest.raises(UserError, match="label_values"):
        prepare(source, tmp_path / "c", labels={"x": 1})


@pytest.mark.parametrize(
    "wrong", [dict(window=(5.0, 5.0)), dict(spacing=(1.0, 0.0, 1.0)), dict(val=0.9), dict(labels={"x": 0.5}), dict(covariates="no.csv")]
)
def test_wrong_arguments_leave_nothing(source, tmp_path, wrong):
    with pytest.raises(UserError):
        prepare(source, tmp_path / "c", **wrong)
    assert not (tmp_path / "c").exists()


def test_a_measured_covariate_is_not_overwritten(source, tmp_path):
    (source / "covariates.csv").write_text("case,volume_brain\np001_s1,5\n")
    with pytest.raises(UserError, match="volume_brain"):
        prepare(source, tmp_path / "c")


def test_a_strange_folder_is_refused_before_the_source_is_read(source, tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c/thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="already holds other files"):
        prepare(source, tmp_path / "c")
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["thesis.txt"]


def test_check_lists_bad_files_and_writes_a_table(source, tmp_path, capsys):
    assert len(check(source)) == 10
    assert "All 10 cases" in capsys.readouterr().out
    spoil(source)
    for _ in range(2):  # the second run repeats the verdict from the table
        with pytest.raises(UserError, match=r"1 of 10 cases.*\n.*images/p002_s1.nii.gz  \[unreadable\]"):
            check(source, tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out/check.csv").read_text().splitlines()))
    assert len(rows) == 10 and [r["case"] for r in rows if r["status"] != "ok"] == ["p002_s1"]


def test_hippocampus_without_options(shared_data, tmp_path):
    """A tenth of the real source, so that the test is quick."""
    for folder in ("images", "labels"):
        (tmp_path / "source" / folder).mkdir(parents=True)
        for path in sorted((shared_data / "msd_hippocampus" / folder).iterdir())[::10]:
            shutil.copy(path, tmp_path / "source" / folder)
    cohort = prepare(tmp_path / "source", tmp_path / "c")
    assert cohort.labels == {1: "label_1", 2: "label_2"} and len(cohort) == 20
    assert cohort.covariates == {"volume_label_1": "mm3", "volume_label_2": "mm3"}
    assert all(1000 < case.covariates["volume_label_1"] < 3000 for case in cohort)
    assert [len(cohort.split(name)) for name in ("train", "val", "test")] == [15, 1, 4]


@pytest.mark.parametrize("steps, words", [
    ([Reorient(), Relabel((2, 1, 3)), Percentile()], "Relabel in --steps"),
    ([Reorient()], "a cohort holds -1 to 1.*Window, Percentile"),
], ids=["relabel", "no intensities"])  # fmt: skip
def test_steps_that_would_break_the_cohort_are_refused(source, tmp_path, steps, words):
    for path in sorted((source / "images").iterdir())[:2]:
        volume = read_volume(path)
        write_volume(path, volume.with_data(volume.data * 1000))
    with pytest.raises(UserError, match=words):
        prepare(source, tmp_path / "out", steps=steps)
    assert not (tmp_path / "out/cohort.json").exists()
