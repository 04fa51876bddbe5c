"""`export`: what is written can be read back, by rules of the layouts and by `prepare`."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from medldm.cohort import Case, Cohort
from medldm.commands.export import export
from medldm.commands.prepare import prepare
from medldm.data.layouts import find_cases
from medldm.data.storing import write_case
from medldm.errors import UserError
from medldm.files import read_json
from medldm.training.study import chosen
from medldm.volume import Volume, read_volume


@pytest.fixture(autouse=True, scope="module")
def one_store(tmp_path_factory):
    """Setting up a store takes seconds; these tests share one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db")
        yield


def small_cohort(root, channels=2, labels=None, labelled=True, splits=("train", "val", "test", "test"), patients="0122", **facts) -> Cohort:
    """Cases with random voxels, four of three patients by default; label values as given."""
    labels = {1: "organ", 2: "lesion"} if labels is None else labels
    generator = torch.Generator().manual_seed(0)
    affine = np.diag([2.0, 1.5, 3.0, 1.0])
    cases = []
    for number, split in enumerate(splits):
        image = Volume(torch.rand(channels, 4, 5, 6, generator=generator) * 2 - 1, affine)
        values = torch.tensor([0, *labels], dtype=torch.float32)
        label = Volume(values[torch.randint(len(values), (1, 4, 5, 6), generator=generator)], affine, "label") if labelled else None
        patient = f"p{patients[number]}"
        covariates = {"age": 40.5 + number, "sex": "F" if number else None}
        cases.append(write_case(root, f"c{number}", image, label, labels if labelled else {}, patient, split, covariates))
    bad = Case("broken", "p9", "", "", status="unreadable", reason="x")
    units = dict.fromkeys(cases[0].covariates, "")
    cohort = Cohort(root, (*cases, bad), "a.u.", labels if labelled else {}, units, facts=facts)
    cohort.save()
    return cohort


def voxels(source):
    """Case -> image and label map as `prepare` reads them."""
    found = {}
    for case in source.cases:
        image = torch.cat([read_volume(path).data for path in case.images])
        found[case.case] = image, case.label and read_volume(case.label, "label").data, read_volume(case.images[0]).affine
    return found


@pytest.mark.parametrize("format", ["nnunet", "msd"])
@pytest.mark.parametrize("channels", [1, 2])
def test_voxels_patients_splits_and_covariates_come_back(tmp_path, format, channels):
    cohort = small_cohort(tmp_path / "c", channels, contrasts=["T1w", "FLAIR"][:channels])
    source = find_cases(export(tmp_path / "c", tmp_path / "out", format))
    assert source.kind == format and source.labels == cohort.labels and source.contrasts == ("T1w", "FLAIR")[:channels]
    usable = [case for case in cohort if case.status == "ok"]
    assert [(c.case, c.patient, c.split) for c in source.cases] == [(c.case, c.patient, c.split) for c in usable]
    assert [c.covariates for c in source.cases] == [{"age": c.covariates["age"], "sex": c.covariates["sex"]} for c in usable]
    read = voxels(source)
    for case in usable:
        image, label, affine = read[case.case]
        assert torch.equal(image, read_volume(cohort.path(case.image)).data) and np.array_equal(affine, np.diag([2.0, 1.5, 3.0, 1.0]))
        assert torch.equal(label, read_volume(cohort.path(case.label), "label").data)


@pytest.mark.parametrize("format", ["nnunet", "msd"])
def test_a_prepared_cohort_comes_back_through_prepare(phantom_cohort, tmp_path, format):
    folder = export(phantom_cohort.root, tmp_path / "out", format)
    again = prepare(folder, tmp_path / "again", window=(-1.0, 1.0))
    assert [(c.case, c.patient, c.split, c.covariates) for c in again] == [(c.case, c.patient, c.split, c.covariates) for c in phantom_cohort]
    assert again.labels == phantom_cohort.labels and again.covariates == phantom_cohort.covariates
    for one, two in zip(phantom_cohort, again, strict=True):
        images = [read_volume(cohort.path(case.image)).data for cohort, case in ((phantom_cohort, one), (again, two))]
        assert float((images[0] - images[1]).abs().max()) < 1e-6


def test_nnunet_files(tmp_path):
    small_cohort(tmp_path / "c")
    folder = export(tmp_path / "c", tmp_path / "out", "nnunet", 7, "Heads")
    assert folder == tmp_path / "out/Dataset007_Heads"
    about = read_json(folder / "dataset.json")
    assert about["channel_names"] == {"0": "noNorm", "1": "noNorm"} and about["labels"] == {"background": 0, "organ": 1, "lesion": 2}
    assert about["numTraining"] == 2 == len(list((folder / "labelsTr").iterdir())) and about["file_ending"] == ".nii.gz"
    assert sorted(p.name for p in (folder / "imagesTr").iterdir()) == [f"c{n}_000{k}.nii.gz" for n in (0, 1) for k in (0, 1)]
    assert sorted(p.name for p in (folder / "labelsTs").iterdir()) == ["c2.nii.gz", "c3.nii.gz"]
    assert json.loads((folder / "splits_final.json").read_text()) == [{"train": ["c0"], "val": ["c1"]}]
    assert read_volume(folder / "imagesTr/c0_0001.nii.gz").data.shape == (1, 4, 5, 6)
    assert {row["case"] for row in csv.DictReader((folder / "covariates.csv").open())} == {"c0", "c1", "c2", "c3"}


def test_msd_files(tmp_path):
    small_cohort(tmp_path / "c", contrasts=["T1w", "T2w"])
    about = read_json(export(tmp_path / "c", tmp_path / "out", "msd") / "dataset.json")
    assert about["modality"] == {"0": "T1w", "1": "T2w"} and about["tensorImageSize"] == "4D" and about["synthetic"] is False
    assert about["labels"] == {"0": "background", "1": "organ", "2": "lesion"} and (about["numTraining"], about["numTest"]) == (2, 2)
    assert about["training"][0] == {"image": "./imagesTr/c0.nii.gz", "label": "./labelsTr/c0.nii.gz"} and about["test"][1] == "./imagesTs/c3.nii.gz"


def test_monai_reads_the_decathlon(tmp_path):
    """An independent reader of the layout."""
    from monai.data.decathlon_datalist import load_decathlon_datalist

    cohort = small_cohort(tmp_path / "c")
    folder = export(tmp_path / "c", tmp_path / "out", "msd")
    train, test = (load_decathlon_datalist(folder / "dataset.json", True, part) for part in ("training", "test"))
    for case, entry in zip(cohort.cases, [*train, *test], strict=False):
        assert torch.equal(read_volume(entry["image"]).data, read_volume(cohort.path(case.image)).data)
        assert "label" not in entry or torch.equal(read_volume(entry["label"]).data, read_volume(cohort.path(case.label)).data)
    assert (len(train), len(test)) == (2, 2) and all("label" in entry for entry in train)


@pytest.mark.parametrize("format", ["nnunet", "msd"])
def test_label_values_are_without_a_gap_and_names_clean(tmp_path, format):
    cohort = small_cohort(tmp_path / "c", 1, {3: "left organ", 300: "lesion-2"})
    source = find_cases(export(tmp_path / "c", tmp_path / "out", format))
    assert source.labels == {1: "left_organ", 2: "lesion_2"}
    before = read_volume(cohort.path(cohort.cases[0].label), "label").data
    after = read_volume(source.cases[0].label, "label").data
    assert torch.equal(after == 1, before == 3) and torch.equal(after == 2, before == 300) and float(after.max()) == 2


def test_ct_is_called_ct_only_in_hu(tmp_path):
    cohort = small_cohort(tmp_path / "c", 1)
    replace(cohort, unit="HU").save()
    assert read_json(export(tmp_path / "c", tmp_path / "a", "nnunet") / "dataset.json")["channel_names"] == {"0": "CT"}
    assert read_json(export(tmp_path / "c", tmp_path / "b", "msd") / "dataset.json")["modality"] == {"0": "CT"}


def test_images_alone(tmp_path):
    small_cohort(tmp_path / "c", labelled=False)
    with pytest.raises(UserError, match=r"no label maps, which nnU-Net learns.*msd"):
        export(tmp_path / "c", tmp_path / "a", "nnunet")
    assert not (tmp_path / "a").exists()
    source = find_cases(export(tmp_path / "c", tmp_path / "b", "msd"))
    assert not source.labelled and [case.split for case in source.cases] == ["train", "val", "test", "test"]


def test_a_synthetic_cohort_says_so(tmp_path):
    cohort = small_cohort(tmp_path / "c", splits=("",) * 4)
    replace(cohort, synthetic=True).save()
    folder = export(tmp_path / "c", tmp_path / "out", "nnunet")
    about = read_json(folder / "dataset.json")
    assert about["synthetic"] is True and about["description"].startswith("Synthetic") and about["numTraining"] == 4
    assert not (folder / "splits_final.json").exists() and not (folder / "imagesTs").exists()


def test_what_cannot_be_exported(tmp_path):
    cohort = small_cohort(tmp_path / "c")
    first = cohort.cases[0]
    for change, message in [
        (dict(cases=cohort.cases[-1:]), "no usable case"),
        (dict(unit="latent"), "holds latents"),
        (dict(cases=(replace(first, label=""), *cohort.cases[1:])), r"1 of 4 cases have no label map, such as 'c0'"),
        (dict(labels={}), "no names of labels"),
        (dict(labels={1: "a b", 2: "a-b"}), "do not have a name each"),
    ]:
        replace(cohort, **change).save()
        with pytest.raises(UserError, match=message):
            export(tmp_path / "c", tmp_path / "out", "nnunet")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [dict(dataset=0), dict(dataset=1000), dict(name="../x"), dict(name="")])
def test_wrong_arguments(tmp_path, wrong):
    small_cohort(tmp_path / "c")
    with pytest.raises(UserError, match="1 to 999"):
        export(tmp_path / "c", tmp_path / "out", "msd", **wrong)
    with pytest.raises(UserError, match="inside the cohort"):
        export(tmp_path / "c", tmp_path / "c/out", "msd")


def test_it_continues_and_never_overwrites(tmp_path, capsys):
    small_cohort(tmp_path / "c")
    folder = export(tmp_path / "c", tmp_path / "out", "nnunet")
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert export(tmp_path / "c", tmp_path / "out", "nnunet") == folder and "written already" in capsys.readouterr().out
    for name in ("out/provenance.json", "out/Dataset501_Cohort/dataset.json", "out/Dataset501_Cohort/imagesTr/c1_0000.nii.gz"):
        (tmp_path / name).unlink()
    export(tmp_path / "c", tmp_path / "out", "nnunet")
    assert {path: path.read_bytes() for path in kept} == kept
    with pytest.raises(UserError, match="format: 'nnunet' there, 'msd' now"):
        export(tmp_path / "c", tmp_path / "out", "msd")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    with pytest.raises(UserError, match="already holds other files"):
        export(tmp_path / "c", tmp_path / "mine", "msd")


def generated_cohort(root, count=3, **changes) -> Cohort:
    """Generated cases of the same structures, without a split."""
    made = small_cohort(root, splits=("",) * count)
    cases = tuple(replace(case, case=f"synthetic-{n}", patient=f"synthetic-{n}") for n, case in enumerate(made.split("")))
    made = replace(made, **{"cases": cases, "synthetic": True} | changes)
    made.save()
    return made


def test_the_arms_of_a_study_can_be_trained_elsewhere(tmp_path):
    """Real patients as the study chooses them, generated cases for training only, folds by patient."""
    cohort, made = small_cohort(tmp_path / "c", splits=("train",) * 12 + ("test",) * 2, patients="00112233445567"), generated_cohort(tmp_path / "g")
    arm = export(tmp_path / "c", tmp_path / "both", "nnunet", synthetic=tmp_path / "g", patients=5, seed=1)
    real = {case.case for case in chosen(cohort.split("train"), 5, 1)}
    assert {path.name[: -len(".nii.gz")] for path in (arm / "labelsTr").iterdir()} == real | {case.case for case in made}
    assert {path.name for path in (arm / "labelsTs").iterdir()} == {"c12.nii.gz", "c13.nii.gz"}
    for case in made:
        assert torch.equal(read_volume(arm / f"labelsTr/{case.case}.nii.gz", "label").data, read_volume(made.path(case.label), "label").data)
    patients = {case.case: case.patient for case in cohort}
    folds = json.loads((arm / "splits_final.json").read_text())
    assert len(folds) == 5 and sorted(case for fold in folds for case in fold["val"]) == sorted(real)
    for fold in folds:
        assert {*fold["train"], *fold["val"]} == real | {case.case for case in made} and not {*fold["train"]} & {*fold["val"]}
        assert not {patients.get(case) for case in fold["train"]} & {patients[case] for case in fold["val"]}
    assert read_json(arm / "dataset.json")["generated"] == 3 and read_json(arm / "dataset.json")["numTraining"] == 13
    alone = export(tmp_path / "c", tmp_path / "alone", "nnunet", synthetic=tmp_path / "g", patients=0)
    assert {path.name[: -len(".nii.gz")] for path in (alone / "labelsTr").iterdir()} == {case.case for case in made}


def test_predicted_label_maps_are_not_exported_as_an_arm(tmp_path):
    cohort = small_cohort(tmp_path / "c", splits=("train", "train", "test"), predicted_labels=["c0"])
    arm = export(cohort.root, tmp_path / "out", "nnunet", patients=1)
    assert [path.name for path in (arm / "labelsTr").iterdir()] == ["c1.nii.gz"]
    with pytest.raises(UserError, match="has 1 training patients"):
        export(cohort.root, tmp_path / "more", "nnunet", patients=2)


def test_a_generated_cohort_that_does_not_fit_is_refused(tmp_path):
    cohort = small_cohort(tmp_path / "c")
    made = generated_cohort(tmp_path / "g")
    for changes, message in (({"synthetic": False}, "holds real images"), ({"labels": {1: "organ", 2: "other"}}, "differ in labels")):
        replace(made, **changes).save()
        with pytest.raises(UserError, match=message):
            export(cohort.root, tmp_path / "out", "nnunet", synthetic=made.root)
    clash = tuple(replace(case, case=name, patient=name) for case, name in zip(made, ("c0", "c1", "c2"), strict=True))
    replace(made, cases=clash).save()
    with pytest.raises(UserError, match="'c0' is a case of"):
        export(cohort.root, tmp_path / "out", "nnunet", synthetic=made.root)
