"""The command: what its key does, what it leaves behind, how it ends."""

import csv
import json
import shutil
import stat
from contextlib import suppress

import nibabel
import numpy as np
import planted as p
import pydicom
import pytest
from dicom_phantoms import CT, base, put_pixels, save, write_slices

from medldm.cli import main
from medldm.commands.anonymize import anonymize
from medldm.errors import UserError
from medldm.privacy.pseudonyms import Key


@pytest.fixture
def source(tmp_path):
    """Two patients with two studies each."""
    for patient in ("Canarowska", "Wisselhoff"):
        for study in ("1", "2"):
            folder = tmp_path / "source" / patient / study
            write_slices(
                folder, PatientID=patient, PatientName=patient, StudyInstanceUID=f"1.2.826.{len(patient)}.{study}", StudyDate=f"2020030{study}"
            )
    return tmp_path / "source"


def tree(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*.dcm"))}


def uids(out):
    return {pydicom.dcmread(path).SOPInstanceUID for path in out.rglob("*.dcm")}


def test_the_same_key_gives_the_same_files_and_a_new_patient_the_next_number(source, tmp_path):
    key = tmp_path / "keys" / "key.json"
    anonymize(source, tmp_path / "one", key)
    anonymize(source, tmp_path / "two", key)
    assert tree(tmp_path / "one") == tree(tmp_path / "two") and len(tree(tmp_path / "one")) == 20
    assert {name.rpartition("/")[0] for name in tree(tmp_path / "one")} == {"p001/s01", "p001/s02", "p002/s01", "p002/s02"}
    before = json.loads(key.read_text())["patients"]
    assert {row["identity"][1] for row in before.values()} == {"Canarowska", "Wisselhoff"}
    write_slices(tmp_path / "later" / "new", PatientID="Aaa new", StudyInstanceUID="1.2.826.1.9")
    write_slices(tmp_path / "later" / "old", PatientID="Canarowska", StudyInstanceUID="1.2.826.10.3")
    anonymize(tmp_path / "later", tmp_path / "three", key)
    (old,) = (name for name, row in before.items() if row["identity"][1] == "Canarowska")
    assert {name.rpartition("/")[0] for name in tree(tmp_path / "three")} == {"p003/s01", f"{old}/s03"}
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_another_key_and_no_key_give_others(source, tmp_path):
    anonymize(source, tmp_path / "one", tmp_path / "key.json")
    anonymize(source, tmp_path / "two", tmp_path / "other.json")
    anonymize(source, tmp_path / "three")
    anonymize(source, tmp_path / "four")
    assert len(set.union(*(uids(tmp_path / name) for name in ("one", "two", "three", "four")))) == 80
    assert not list(tmp_path.glob("three/*key*")) and "secret" not in (tmp_path / "three" / "config.yaml").read_text()


def test_keys_in_wrong_places_or_of_wrong_kinds_are_refused(source, tmp_path):
    for place in (tmp_path / "out" / "key.json", source / "key.json"):
        with pytest.raises(UserError, match="key"):
            anonymize(source, tmp_path / "out", place)
    key = tmp_path / "key.json"
    key.write_text('{"secret": "00", "patients": {}}')
    key.chmod(0o600)
    with pytest.raises(UserError, match="no key"):
        anonymize(source, tmp_path / "out", key)
    key.unlink()
    Key.new().write(key)
    key.chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        anonymize(source, tmp_path / "out", key)
    with pytest.raises(UserError, match="inside"):
        anonymize(source, source / "out")
    with pytest.raises(UserError, match="not a folder"):
        anonymize(tmp_path / "absent", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="None of the 0"):
        anonymize(tmp_path / "empty", tmp_path / "out")


def test_a_finished_folder_stays_and_other_options_or_sources_are_refused(source, tmp_path, capsys):
    key = tmp_path / "key.json"
    anonymize(source, tmp_path / "out", key)
    before = tree(tmp_path / "out")
    anonymize(source, tmp_path / "out", key)
    assert "anonymized already" in capsys.readouterr().out and tree(tmp_path / "out") == before
    with pytest.raises(UserError, match="dates: 'shift' there, 'remove' now"):
        anonymize(source, tmp_path / "out", key, dates="remove")
    next(source.rglob("IM*")).unlink()
    with pytest.raises(UserError, match="other inputs"):
        anonymize(source, tmp_path / "out", key)


def test_an_interrupted_run_starts_anew_and_mixes_nothing(source, tmp_path, monkeypatch):
    from medldm.commands import anonymize as module

    calls, work = [], module._write

    def stop_at_the_eighth(given, **settings):
        calls.append(given)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return work(given, **settings)

    monkeypatch.setattr(module, "_write", stop_at_the_eighth)
    with suppress(KeyboardInterrupt):
        anonymize(source, tmp_path / "out")
    first = uids(tmp_path / "out")
    assert len(first) == 7 and not (tmp_path / "out" / "audit.csv").exists()
    monkeypatch.setattr(module, "_write", work)
    shutil.rmtree(source / "Canarowska")
    shutil.rmtree(source / "Wisselhoff" / "2")
    anonymize(source, tmp_path / "out")
    assert len(tree(tmp_path / "out")) == len(uids(tmp_path / "out")) == 5 and not uids(tmp_path / "out") & first


def test_several_processes_give_the_same(source, tmp_path):
    anonymize(source, tmp_path / "one", tmp_path / "key.json")
    anonymize(source, tmp_path / "two", tmp_path / "key.json", jobs=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert (tmp_path / "one" / "audit.csv").read_bytes() == (tmp_path / "two" / "audit.csv").read_bytes()


def test_nothing_shows_who_it_is(tmp_path, capfd, caplog, recwarn, tracking):
    """Good and bad files of a folder that is named after the patient: not in output, audit, configuration, tracking store, messages or warnings."""
    source = tmp_path / "private" / "Canarowska Johanna 19510714"
    planted = set(p.WORDS)
    for name in ("Canarowska.dcm", "bad Canarowska.dcm", "report Wisselhoff.dcm"):
        dataset = base(CT, SeriesInstanceUID="1.2.826.77.1")
        put_pixels(dataset, np.zeros((4, 4), np.int16))
        planted |= set(p.plant(dataset, []))
        if name.startswith("report"):
            dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
        save(dataset, source / name)
    (source / "bad Canarowska.dcm").write_bytes((source / "bad Canarowska.dcm").read_bytes()[:-40])
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), source / "Canarowska.nii.gz")
    (source / "Canarowska.json").write_text('{"PatientName": "Canarowska", "EchoTime": "Canarowska"}')
    (source / "Canarowska.txt").write_text("Canarowska")
    caplog.clear(), capfd.readouterr(), recwarn.clear()
    assert main(["anonymize", "--source", str(source), "--out", str(tmp_path / "all" / "out"), "--key", str(tmp_path / "key.json")]) == 2
    heard = capfd.readouterr()
    assert "2 refused" in heard.err or heard.err.count("1 refused") == 2
    assert (tmp_path / "all" / "mlflow.db").is_file()
    assert p.leaks(tmp_path / "all", planted) == {}
    said = " ".join([heard.out, heard.err, caplog.text, *(str(warning.message) for warning in recwarn)]).lower()
    assert [word for word in planted if word.lower() in said] == []
    refused = json.loads((tmp_path / "key.json").read_text())["refused"]
    assert sorted(refused.values()) == ["bad Canarowska.dcm", "report Wisselhoff.dcm"]
    assert (
        main(
            ["anonymize", "--source", str(source), "--out", str(tmp_path / "all" / "out"), "--key", str(tmp_path / "key.json"), "--skip_bad", "true"]
        )
        == 0
    )
    with open(tmp_path / "all" / "out" / "audit.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["file", "element", "action"] and sum(row[2].startswith("passed over") for row in rows) == 1
    assert {row[0].partition("/")[0] for row in rows[1:]} <= {
        "p001",
        "p002",
        "p002.nii.gz",
        "p001.nii.gz",
        "p001.json",
        "p002.json",
        "#1",
        "#2",
        "#3",
        "#4",
        "#5",
        "#6",
    }


def test_the_options_of_the_command_line_arrive(source, tmp_path):
    options = [
        "--pixels",
        "[[0, 0, 2, 2]]",
        "--private",
        "[standard]",
        "--dates",
        "remove",
        "--descriptors",
        "true",
        "--characteristics",
        "false",
        "--faces",
        "remove",
    ]
    assert main(["anonymize", "--source", str(source), "--out", str(tmp_path / "out"), *options]) == 0
    dataset = pydicom.dcmread(next((tmp_path / "out").rglob("*.dcm")))
    assert [code.CodeValue for code in dataset.DeidentificationMethodCodeSequence] == ["113100", "113101", "113105", "113111"]
    assert dataset.pixel_array[:2, :2].max() == 0 and dataset.pixel_array.max() > 0
    assert main(["anonymize", "--source", str(source), "--out", str(tmp_path / "x"), "--pixels", "some"]) == 2
    assert main(["anonymize", "--source", str(source), "--out", str(tmp_path / "x"), "--private", "[ACME]"]) == 2
    assert main(["anonymize", "--source", str(source), "--out", str(tmp_path / "x"), "--faces", "some"]) == 2
