"""A DICOM archive becomes a cohort, and nothing in what is written or printed shows whose it was."""

import base64
import csv
import gzip
import re

import numpy as np
import pytest
from dicom_phantoms import COLUMNS, MR, ROWS, SLICES, write_slices
from test_dicom_segmentation import images, random_mask, write_seg

from medldm.cohort import Cohort
from medldm.commands.check import check
from medldm.commands.prepare import prepare
from medldm.commands.train_autoencoder import train_autoencoder
from medldm.errors import UserError
from medldm.training.options import Training
from medldm.volume import read_volume

PATIENTS = 5
PRIVATE = (b"CANARY", b"JOHN")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Five patients with T1, FLAIR and a scout each; one more whose T1 lacks a slice, and one without FLAIR."""
    root, rng = tmp_path_factory.mktemp("archive") / "archive", np.random.default_rng(0)

    def noisy(dataset, k):
        """Voxels unlike those of any other series."""
        dataset.PixelData = rng.integers(0, 2000, (ROWS, COLUMNS)).astype(np.int16).tobytes()

    def study(number, descriptions):
        who = {"PatientID": f"CANARY-{number}", "PatientName": f"CANARY^JOHN{number}", "StudyInstanceUID": f"1.2.{number}"}
        return [
            write_slices(root / f"CANARY_JOHN/{number}/CANARY {n}", sop_class=MR, change=noisy, SeriesDescription=text, SeriesNumber=n, **who)
            for n, text in enumerate(descriptions)
        ]

    paths = [study(number, ("CANARY scout", "CANARY t1 JOHN", "CANARY flair", "dwi")) for number in range(PATIENTS)]
    study(8, ("CANARY t1", "flair"))[0][2].unlink()
    study(9, ("CANARY t1", "dwi"))
    slices = images(paths[0][1])
    write_seg(root / "CANARY_JOHN/seg", slices, {"lesion": random_mask(0)})
    return root


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """The folder for all that is written, with the store of the runs in it."""
    folder = tmp_path_factory.mktemp("work")
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    yield folder
    patch.undo()


def private_words(folder):
    """Files that hold a word that tells who it is, in their bytes or in what is packed in them, or in their names.

    Pictures in pages are unpacked, since in their 64 letters any short word comes up by chance.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        data = path.read_bytes() if path.is_file() else b""
        data += gzip.decompress(data) if path.suffix == ".gz" else b""
        data = re.sub(rb"base64,([\w+/]+=*)", lambda match: base64.b64decode(match[1]), data) + str(path.relative_to(folder)).encode()
        found += [str(path)] if any(word in data.upper() for word in PRIVATE) else []
    return found


def test_the_search_finds_what_is_hidden(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"x" * 50 + b"for Canary"))
    (tmp_path / "john").mkdir()
    (tmp_path / "page").write_bytes(b"<img src='data:base64," + base64.b64encode(b"a canary there") + b"'>")
    (tmp_path / "b").write_text("nothing")
    assert private_words(tmp_path) == [str(tmp_path / name) for name in ("a.nii.gz", "john", "page")]


def test_contrasts_are_prepared_and_nothing_shows_whose_they_are(archive, work, tmp_path, capsys, caplog, recwarn):
    arguments = dict(contrasts=["t1", "flair"], assume=["no_label"])
    with pytest.raises(UserError) as refused:
        prepare(archive, work / "c", **arguments)
    assert "[missing_slices]" in str(refused.value) and str(refused.value).count("[no_image]") == 2 and not (work / "c").exists()
    with pytest.raises(UserError) as checked:
        check(archive, work / "check", key=tmp_path / "key.csv", **arguments)
    cohort = prepare(archive, work / "c", skip_bad=True, **arguments)
    good = [case for case in cohort if case.status == "ok"]
    assert len(good) == PATIENTS and cohort.facts["contrasts"] == ["t1", "flair"] and cohort.facts["layout"] == "dicom"
    assert all(len(read_volume(cohort.path(case.image)).data) == 2 for case in good)
    (labelled,) = (case for case in good if case.label)
    assert cohort.labels == {1: "lesion"} and labelled.covariates["volume_lesion"] > 0
    label = read_volume(cohort.path(labelled.label), "label").data[0].numpy()
    assert sorted(np.unique(label)) == [0, 1] and label.sum() == random_mask(0).sum() and label.shape == (COLUMNS, ROWS, SLICES)
    assert {case.status for case in cohort} == {"ok", "localizer", "other_contrast", "missing_slices", "no_image"}
    assert (work / "c/report.html").stat().st_size > 1000 and (work / "mlflow.db").stat().st_size > 1000
    heard = [str(refused.value), str(checked.value), *capsys.readouterr(), caplog.text, *(str(warning.message) for warning in recwarn)]
    assert not any(word.decode() in text.upper() for word in PRIVATE for text in heard)
    assert private_words(work) == []


def test_the_key_is_private_and_tells_what_there_is(archive, tmp_path, work):
    with pytest.raises(UserError):
        check(archive, key=tmp_path / "key.csv")
    rows = list(csv.DictReader((tmp_path / "key.csv").read_text().splitlines()))
    assert {row["description"] for row in rows} >= {"CANARY t1 JOHN", "CANARY flair", "dwi"}
    assert (tmp_path / "key.csv").stat().st_mode & 0o077 == 0


def test_one_word_picks_a_kind_of_series(archive, work, capsys):
    cohort = prepare(archive, work / "dwi", contrasts=["dwi"])
    assert sum(case.status == "ok" for case in cohort) == PATIENTS + 1
    out = capsys.readouterr().out
    assert "1 of 7 studies have no volume that --contrasts names" in out and "set aside" in out
    assert {case.status for case in cohort} == {"ok", "other_contrast", "localizer"}


def test_label_maps_of_some_are_not_learned_as_nothing(archive, work):
    with pytest.raises(UserError, match="no_label"):
        prepare(archive, work / "t1", contrasts=["t1"], skip_bad=False)
    cohort = prepare(archive, work / "t1", contrasts=["t1"], skip_bad=True, assume=["no_label"])
    train = [case for case in Cohort.load(cohort.root) if case.split == "train"]
    missing = sum(not case.label for case in train)
    assert missing > 0
    with pytest.raises(UserError, match=rf"{missing} of {len(train)} training cases have no label map"):
        train_autoencoder(cohort.root, work / "a", training=Training(steps=1, batch=1))
    assert not (work / "a").exists()
