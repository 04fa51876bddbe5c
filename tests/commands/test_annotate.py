"""Missing label maps are predicted, and known for predicted ones from then on."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from medldm.cohort import Cohort
from medldm.commands.annotate import annotate
from medldm.data.steps.torchio_augment import Augment
from medldm.errors import UserError
from medldm.metrics.segmentation import dice
from medldm.report.downstream import Study
from medldm.training.options import Training
from medldm.training.study import Downstream
from medldm.volume import read_volume

LEARNS = Training(steps=60, batch=4, learning_rate=5e-3, other_learning_rate=5e-3, precision="32-true")


def without_labels(source: Cohort, names: set[str], root) -> Cohort:
    """A copy of a cohort whose named cases have no label map and no volumes."""
    shutil.copytree(source.root / "images", root / "images")
    shutil.copytree(source.root / "labels", root / "labels")
    cases = []
    for case in source:
        if case.case in names:
            (root / case.label).unlink()
            covariates = {name: None if name.startswith("volume_") else value for name, value in case.covariates.items()}
            case = replace(case, label="", covariates=covariates, sha256=f"{case.sha256[:-1]}x")
        cases.append(case)
    made = replace(source, root=root, cases=tuple(cases))
    made.save()
    return made


@pytest.fixture(scope="module")
def partial(phantom_cohort, tmp_path_factory):
    """Half of the training cases and one case each of val and test have no label map."""
    train = phantom_cohort.split("train").cases
    names = {case.case for case in (*train[: len(train) // 2], phantom_cohort.split("val").cases[0], phantom_cohort.split("test").cases[0])}
    return without_labels(phantom_cohort, names, tmp_path_factory.mktemp("partial")), names


@pytest.fixture(scope="module")
def annotated(partial, tmp_path_factory):
    out = tmp_path_factory.mktemp("annotated") / "out"
    return annotate(partial[0].root, out, members=2, widths=(16, 32), training=LEARNS, augment=Augment())


def test_what_is_missing_is_predicted_and_nothing_else_changes(partial, annotated, phantom_cohort):
    source, names = partial
    found, before, truth = ({case.case: case for case in cohort} for cohort in (Cohort.load(annotated.root), source, phantom_cohort))
    test = {case.case for case in source.split("test")}
    assert set(annotated.facts["predicted_labels"]) == names - test
    for name, case in found.items():
        image = (annotated.root / case.image).read_bytes()
        assert image == (source.root / case.image).read_bytes()
        if name not in names - test:
            assert case == before[name]
            continue
        label, wanted = (read_volume(cohort.path(c.label), "label") for cohort, c in ((annotated, case), (phantom_cohort, truth[name])))
        assert dice(label.data[0].numpy(), wanted.data[0].numpy(), 1) > 0.8
        assert np.array_equal(label.affine, wanted.affine)
        assert case.covariates["volume_brain"] == pytest.approx(truth[name].covariates["volume_brain"], rel=0.3)
    assert annotated.parents["cohort"] == source.fingerprint()


def test_predicted_label_maps_are_no_real_ones_downstream(annotated):
    study = Study.of(Downstream(), annotated, annotated)
    assert {case.case for case in study.train} & set(annotated.facts["predicted_labels"]) == set()
    assert study.told == len({case.patient for case in study.train}) < len({case.patient for case in annotated.split("train")})


def test_a_second_call_does_nothing(partial, annotated, capsys):
    annotate(partial[0].root, annotated.root, members=2, widths=(16, 32), training=LEARNS, augment=Augment())
    assert "finished already" in capsys.readouterr().out


def test_nothing_to_learn_from_and_nothing_to_do_are_refused(phantom_cohort, tmp_path):
    with pytest.raises(UserError, match="every case of the splits train and val has a label map"):
        annotate(phantom_cohort.root, tmp_path / "out")
    nothing = without_labels(phantom_cohort, {case.case for case in phantom_cohort.split("train")}, tmp_path / "none")
    with pytest.raises(UserError, match="no training case has a label map"):
        annotate(nothing.root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
