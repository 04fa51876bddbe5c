"""The evaluation of an autoencoder and of a generated cohort, on a cohort of boxes written here."""

import csv
from collections import defaultdict
from dataclasses import replace

import nibabel
import numpy as np
import pandas
import pytest
import torch
from torch import nn

from medldm.cohort import Case, Cohort
from medldm.commands.evaluate import evaluate
from medldm.errors import UserError
from medldm.files import sha256
from medldm.models.encoder import FeatureEncoder
from medldm.models.lean import LeanAutoencoder
from medldm.report.viewer import bundle
from medldm.run import Run, save_model
from medldm.training.options import Training
from medldm.training.study import Downstream
from medldm.volume import Volume, write_volume

SPLITS = ("train",) * 6 + ("test",) * 5


def write_cohort(root, count, seed, splits=None, unit="a.u.", synthetic=False, origin="", spacing=1.0, channels=1, **facts):
    """Images with two boxes, their label maps, and the volumes of the boxes as covariates."""
    rng, cases = np.random.default_rng(seed), []
    for i in range(count):
        shape = tuple(int(n) for n in rng.integers(16, 20, 3))
        label = np.zeros(shape, dtype=np.float32)
        label[2 : 2 + rng.integers(3, 6), 3:9, 3:9], label[9 : 10 + rng.integers(3, 6), 3:9, 3:9] = 1, 2
        image = (label / 2 - 0.5 + rng.normal(0, 0.1, shape)).clip(-1, 1)
        paths = [f"images/{i}.nii.gz", f"labels/{i}.nii.gz"]
        affine = np.diag([spacing, spacing, spacing, 1.0])
        write_volume(root / paths[0], Volume(torch.tensor(image, dtype=torch.float32).expand(channels, *shape), affine))
        write_volume(root / paths[1], Volume(torch.from_numpy(label)[None], affine, "label"))
        volumes = {f"volume_{name}": float((label == value).sum()) for value, name in ((1, "left"), (2, "right"))}
        split = splits[i] if splits else ""
        digest = sha256(*(root / path for path in paths))
        cases.append(Case(f"c{i:02d}", f"{root.name}{i}", split, *paths, digest, shape, (spacing,) * 3, covariates=volumes))
    units = {"volume_left": "mm3", "volume_right": "mm3"}
    Cohort(root, tuple(cases), unit, {1: "left", 2: "right"}, units, {"cohort": origin}, synthetic=synthetic, facts=facts).save()
    return root


def write_run(root, model, origin=""):
    run = Run.claim(root, "train_autoencoder", {})
    save_model(root, model)
    (root / "history.csv").write_text("step,name,value\n0,loss,2.0\n1,loss,0.1\n")
    run.finish({"cohort": origin}, ["model.safetensors"])
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A real cohort, a generated one, an untrained autoencoder, and the evaluation of all in one call."""
    root = tmp_path_factory.mktemp("evaluate")
    torch.manual_seed(0)
    write_cohort(root / "real", len(SPLITS), 0, SPLITS)
    origin = Cohort.load(root / "real").fingerprint()
    write_cohort(root / "generated", 6, 1, synthetic=True, origin=origin)
    write_run(root / "autoencoder", LeanAutoencoder(1, 2, 4, (8, 8), 1), origin)
    report = evaluate(root / "both", root / "real", root / "generated", root / "autoencoder")
    return root, report


def read_metrics(folder):
    with open(folder / "metrics.csv", newline="") as stream:
        return {row["name"]: row for row in csv.DictReader(stream)}


def test_both_modes_write_all_rows(made):
    root, report = made
    rows = read_metrics(root / "both")
    expected = ["psnr", "ssim", "ms_ssim", "psnr_dct", "ssim_dct", "dice_left", "dice_right", "voxels_per_number"]
    compared = ("mmd2_haar_v1", "frechet_haar_v1", "intensity_w1", "pairwise_ms_ssim", "nearest_train")
    expected += [name + end for name in compared for end in ("", "_real")]
    expected += ["copies_threshold", "copies", "fidelity_r_volume_left", "fidelity_error_volume_right", "fidelity_bias_volume_total"]
    assert set(expected) <= set(rows)
    assert report == root / "both" / "report.html"
    assert float(rows["voxels_per_number"]["value"]) == 16.0
    assert float(rows["fidelity_r_volume_total"]["value"]) == pytest.approx(1.0)
    assert float(rows["fidelity_error_volume_total"]["value"]) == 0.0
    assert (rows["psnr"]["n"], rows["copies"]["n"], rows["copies"]["value"]) == ("5", "6", "0.0")
    missing = {name for name, row in rows.items() if "not computable" in row["on"]}
    near = ("precision", "recall", "density", "coverage")
    assert missing == {f"{measure}_{features}{end}" for measure in near for features in ("haar_v1", "radiomics_v1") for end in ("", "_real")}
    assert all(
        float(r["low"]) <= float(r["value"]) <= float(r["high"])
        for n, r in rows.items()
        if n not in {"copies_threshold", "voxels_per_number", *missing}
    )
    assert rows["voxels_per_number"]["low"] == "nan", "known, not estimated"
    assert all("split test of cohort" in row["on"] for row in rows.values())


def test_the_report_shows_everything_and_loads_nothing(made):
    text = made[1].read_text().replace(bundle(), "")  # which names addresses in its comments; test_viewer sees that it asks for none
    assert "http://" not in text and "https://" not in text and "default-src 'none'" in text
    for title in ("At a glance", "Step through", "Synthesis", "Reconstruction", "Figures and their intervals", "Training", "Limits", "Provenance"):
        assert f"<h2>{title}</h2>" in text
    assert (
        text.count("data:image/png;base64,") == 1 + 6 + 1 + 3 + 5 + 1 + 3 + 1
    )  # overview, generated, scatter, nearest, real, intensities, best to worst, curves


def test_cases_hold_the_values_of_every_part(made):
    with open(made[0] / "both" / "cases.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["part"] for row in rows] == ["reconstruction"] * 5 + ["generated"] * 6 + ["real"] * 5
    mean = np.mean([float(row["psnr"]) for row in rows[:5]])
    assert float(read_metrics(made[0] / "both")["psnr"]["value"]) == pytest.approx(mean, rel=1e-12)
    assert rows[5]["requested_volume_left"] == rows[5]["measured_volume_left"] != ""
    assert rows[-1]["psnr"] == ""


def test_each_mode_alone_gives_the_same_numbers_again(made, tmp_path):
    root, _ = made
    both = read_metrics(root / "both")
    evaluate(tmp_path / "a", root / "real", autoencoder=root / "autoencoder")
    evaluate(tmp_path / "b", root / "real", generated=root / "generated")
    alone = {**read_metrics(tmp_path / "a"), **read_metrics(tmp_path / "b")}
    assert alone == both
    assert "psnr" not in read_metrics(tmp_path / "b") and "copies" not in read_metrics(tmp_path / "a")


def test_a_second_call_says_what_exists(made, capsys):
    root, report = made
    before = report.stat().st_mtime_ns
    assert evaluate(root / "both", root / "real", root / "generated", root / "autoencoder") == report
    assert "done before" in capsys.readouterr().out and report.stat().st_mtime_ns == before


def test_the_training_split_is_not_compared_with_itself(made, tmp_path):
    root, _ = made
    evaluate(tmp_path / "out", root / "real", generated=root / "generated", split="train")
    rows = read_metrics(tmp_path / "out")
    assert not {"nearest_train", "mmd2_haar_v1_real"} & set(rows)
    assert rows["copies"]["value"] == rows["authenticity_haar_v1"]["value"] == "nan" and "not in the reference" in rows["copies"]["on"]


def test_copies_of_what_is_not_here_are_not_said_to_be_none(made, tmp_path):
    """An independent reference holds other patients than the generator was trained on."""
    root, _ = made
    evaluate(tmp_path / "out", root / "real", generated=root / "generated", independent=True)
    rows = read_metrics(tmp_path / "out")
    for name in ("copies", "authenticity_haar_v1", "authenticity_radiomics_v1"):
        assert rows[name]["value"] == "nan" and "not in the reference" in rows[name]["on"]
    assert "nearest_train" not in rows and float(rows["mmd2_haar_v1_real"]["value"]) == float(
        read_metrics(root / "both")["mmd2_haar_v1_real"]["value"]
    )


def test_predicted_label_maps_judge_nothing(made, tmp_path):
    root, _ = made
    write_cohort(tmp_path / "annotated", len(SPLITS), 0, SPLITS[:8] + ("val",) * 3, predicted_labels=["c02", "c09"])
    with pytest.raises(UserError, match=r"1 of 3 cases of the split 'val' .* are predicted by `annotate`"):
        evaluate(tmp_path / "out", tmp_path / "annotated", generated=root / "generated", split="val", independent=True)
    evaluate(tmp_path / "out", tmp_path / "annotated", generated=root / "generated", independent=True)


def test_files_are_those_that_were_written(made, tmp_path):
    root, _ = made
    origin = Cohort.load(root / "real").fingerprint()
    swapped, missing = (write_cohort(tmp_path / name, 3, 4, synthetic=True, origin=origin) for name in ("swapped", "missing"))
    (swapped / "images" / "1.nii.gz").write_bytes((swapped / "images" / "0.nii.gz").read_bytes())
    (missing / "labels" / "2.nii.gz").unlink()
    for cohort, message in ((swapped, r"1\.nii\.gz is not the file that was written"), (missing, r"2\.nii\.gz is missing, which")):
        with pytest.raises(UserError, match=message):
            evaluate(tmp_path / "out", root / "real", generated=cohort)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"), [(lambda label: label[:-2], "its image"), (lambda label: label * 4, "has the value 4; .* names 0 and")]
)
def test_label_maps_fit_their_image_and_their_names(made, tmp_path, change, message):
    root, _ = made
    cohort = write_cohort(tmp_path / "odd", 3, 4, synthetic=True, origin=Cohort.load(root / "real").fingerprint())
    image = nibabel.load(cohort / "labels" / "1.nii.gz")
    nibabel.save(nibabel.Nifti1Image(change(image.get_fdata(dtype=np.float32)), image.affine), cohort / "labels" / "1.nii.gz")
    accept(cohort)
    with pytest.raises(UserError, match=message):
        evaluate(tmp_path / "out", root / "real", generated=cohort)


def accept(cohort):
    """Record the files of a cohort as they are now."""
    found = Cohort.load(cohort)
    replace(found, cases=tuple(replace(c, sha256=sha256(cohort / c.image, cohort / c.label)) for c in found)).save()


def test_wrong_input_is_refused_before_anything_is_written(made, tmp_path):
    root, _ = made
    write_cohort(tmp_path / "hounsfield", 3, 2, unit="HU", synthetic=True)
    write_cohort(tmp_path / "other", 3, 2, synthetic=True, origin="elsewhere")
    origin = Cohort.load(root / "real").fingerprint()
    write_cohort(tmp_path / "large", 3, 2, synthetic=True, origin=origin, spacing=2.0)
    write_cohort(tmp_path / "two", 3, 2, synthetic=True, origin=origin, channels=2)
    write_run(tmp_path / "elsewhere", LeanAutoencoder(1, 2, 4, (8,), 1), "elsewhere")
    write_run(tmp_path / "denoiser", nn.ReLU())
    write_run(tmp_path / "three", LeanAutoencoder(1, 3, 4, (8,), 1))
    wrong = [
        ({}, "nothing to evaluate"),
        ({"generated": root / "autoencoder"}, "is not a cohort"),
        ({"generated": tmp_path / "hounsfield"}, "differ in unit"),
        ({"generated": root / "real"}, "holds real images"),
        ({"generated": tmp_path / "other"}, "other goes back to another cohort"),
        ({"autoencoder": tmp_path / "elsewhere"}, "elsewhere goes back to another cohort"),
        ({"generated": root / "generated", "split": "val"}, "no usable case in the split 'val'"),
        ({"autoencoder": tmp_path / "denoiser"}, "holds a ReLU, not an autoencoder"),
        ({"autoencoder": tmp_path / "three"}, "codes labels 1..3"),
        ({"autoencoder": root / "generated"}, "holds no run"),
        ({"generated": tmp_path / "large"}, r"large are 2 x 2 x 2 mm, those of .*real 1 x 1 x 1 mm"),
        ({"generated": tmp_path / "two"}, "have 2 contrasts"),
        ({"generated": root / "generated", "inside": ("left",)}, "--inside is for --autoencoder"),
        ({"generated": root / "generated", "memory": "8GB"}, "--memory or offload is for --autoencoder"),
        ({"autoencoder": root / "autoencoder", "features": [tmp_path]}, "--features is for --generated"),
        ({"autoencoder": root / "autoencoder", "series": True}, "--series is for --generated"),
        ({"generated": root / "generated", "series": True}, "have 1 time points, 3 are needed"),
    ]
    for arguments, message in wrong:
        with pytest.raises(UserError, match=message):
            evaluate(tmp_path / "out", root / "real", **arguments)
    assert not (tmp_path / "out").exists()


def test_distances_are_measured_in_the_networks_that_are_given(made, tmp_path):
    root, _ = made
    network = write_run(tmp_path / "network", FeatureEncoder(1, (8,)))
    evaluate(tmp_path / "out", root / "real", generated=root / "generated", features=[network])
    rows = read_metrics(tmp_path / "out")
    assert {f"{measure}_selfsupervised_3d{end}" for measure in ("mmd2", "kid", "frechet") for end in ("", "_real")} <= set(rows)
    assert f"sha256 {sha256(network / 'model.safetensors')}" in rows["frechet_selfsupervised_3d"]["on"]
    assert {name: row for name, row in rows.items() if "selfsupervised" not in name}.items() <= read_metrics(root / "both").items()
    for wrong, message in (([network] * 2, "given twice"), ([tmp_path / "absent.pt"], r"absent.pt does not exist.*nothing is downloaded")):
        with pytest.raises(UserError, match=message):
            evaluate(tmp_path / "wrong", root / "real", generated=root / "generated", features=wrong)
    assert not (tmp_path / "wrong").exists()


QUICK = Training(steps=2, batch=2, precision="32-true")


def test_a_downstream_study_compares_arms_patient_by_patient(made, tmp_path):
    root, _ = made
    study = Downstream(sizes=(3, 6), seeds=2, widths=(8, 16), training=QUICK)
    report = evaluate(tmp_path / "out", root / "real", generated=root / "generated", downstream=study)
    rows, arms, agreements = read_metrics(tmp_path / "out"), defaultdict(list), []
    with open(tmp_path / "out" / "downstream.csv", newline="") as stream:
        for row in csv.DictReader(stream):
            made_up = row["part"] == "generated"
            (agreements if made_up else arms[row["arm"], int(row["size"]), row["patient"]]).append(float(row["dice"]))
    assert {key[:2] for key in arms} == {("real", 3), ("real", 6), ("both", 3), ("both", 6), ("synthetic", 0)} and len(arms) == 5 * 5
    means = {key: np.mean(values) for key, values in arms.items() if len(values) == 2}
    patients = {key[2] for key in means}
    gain = np.mean([means["both", 3, p] - means["real", 3, p] for p in patients])
    assert float(rows["downstream_gain_n3"]["value"]) == pytest.approx(gain)
    ratio = np.mean([means["synthetic", 0, p] for p in patients]) / np.mean([means["real", 6, p] for p in patients])
    assert float(rows["downstream_synthetic_over_real"]["value"]) == pytest.approx(ratio)
    assert float(rows["downstream_agreement_dice"]["value"]) == pytest.approx(np.mean(agreements)) and len(agreements) == 2 * 5
    assert "unfair: the generator was told label maps of 6 patients" in rows["downstream_gain_n3"]["on"]
    assert "unfair: the generator was told label maps of 6 patients" in report.read_text()
    assert "unfair" not in rows["downstream_gain_n6"]["on"] + rows["downstream_dice_real_n3"]["on"]
    assert "mean of 2 trainings" in rows["downstream_dice_synthetic"]["on"] and rows["downstream_dice_synthetic"]["n"] == "5"
    assert "<h2>Downstream</h2>" in report.read_text()


def test_trainings_side_by_side_give_the_same(made, tmp_path):
    root, _ = made
    study = Downstream(sizes=(3,), seeds=1, widths=(8, 16), training=QUICK)
    tables = []
    for jobs in (1, 2):
        evaluate(tmp_path / str(jobs), root / "real", generated=root / "generated", downstream=study, jobs=jobs)
        tables.append(pandas.read_csv(tmp_path / str(jobs) / "downstream.csv"))
    assert len(tables[0]) > 10
    pandas.testing.assert_frame_equal(*tables, atol=1e-3)  # another number of threads adds in another order


def test_a_covariate_can_be_the_task(made, tmp_path):
    root, _ = made
    study = Downstream(seeds=1, covariate="volume_left", widths=(8, 16), training=QUICK)
    evaluate(tmp_path / "out", root / "real", generated=root / "generated", downstream=study)
    rows = read_metrics(tmp_path / "out")
    real, both = (float(rows[f"downstream_error_{arm}_n6"]["value"]) for arm in ("real", "both"))
    assert float(rows["downstream_gain_n6"]["value"]) == pytest.approx(real - both)
    assert {"downstream_error_synthetic", "downstream_synthetic_over_real", "downstream_agreement_error"} <= set(rows)
    assert rows["downstream_error_real_n6"]["unit"] == rows["downstream_gain_n6"]["unit"] == "mm3" != rows["downstream_synthetic_over_real"]["unit"]


def test_an_unfair_or_impossible_study_is_refused(made, tmp_path):
    root, _ = made
    wrong = [
        ({"downstream": Downstream()}, "there are none"),
        ({"generated": root / "generated", "independent": True, "downstream": Downstream()}, "may have been trained on"),
        ({"generated": root / "generated", "split": "train", "downstream": Downstream()}, "may have been trained on"),
        ({"generated": root / "generated", "downstream": Downstream(sizes=(7,))}, "7 real training patients are more than the 6"),
    ]
    for arguments, message in wrong:
        with pytest.raises(UserError, match=message):
            evaluate(tmp_path / "out", root / "real", autoencoder=root / "autoencoder", **arguments)
    for settings, message in (
        ({"share": 1.0}, "share"),
        ({"training": Training(steps=2, batch=1)}, "no real or no synthetic"),
        ({"seeds": 0}, "seeds"),
    ):
        with pytest.raises(UserError, match=message):
            Downstream(**settings)
    assert not (tmp_path / "out").exists()


def test_one_generated_case_gets_rows_that_say_why_they_are_empty(made, tmp_path):
    root, _ = made
    one = write_cohort(tmp_path / "one", 1, 3, synthetic=True, origin=Cohort.load(root / "real").fingerprint())
    evaluate(tmp_path / "out", root / "real", generated=one)
    rows = read_metrics(tmp_path / "out")
    for name in ("frechet_haar_v1", "kid_radiomics_v1", "authenticity_haar_v1", "pairwise_ms_ssim"):
        assert rows[name]["value"] == rows[name]["low"] == "nan" and "not computable" in rows[name]["on"]
    assert rows["intensity_w1"]["low"] == "nan" and float(rows["intensity_w1"]["value"]) > 0


def test_voxels_that_are_no_numbers_end_the_evaluation(made, tmp_path):
    root, _ = made
    bad = write_cohort(tmp_path / "bad", 3, 3, synthetic=True, origin=Cohort.load(root / "real").fingerprint())
    image = nibabel.load(bad / "images" / "1.nii.gz")
    voxels = image.get_fdata(dtype=np.float32)
    voxels[2, 2, 2] = np.nan
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine, image.header), bad / "images" / "1.nii.gz")
    accept(bad)
    with pytest.raises(UserError, match=r"1\.nii\.gz has 1 voxels that are NaN"):
        evaluate(tmp_path / "out", root / "real", generated=bad)


def test_images_can_be_compared_inside_structures_and_lesions_counted(made, tmp_path):
    root, _ = made
    whole = read_metrics(root / "both")
    evaluate(tmp_path / "out", root / "real", autoencoder=root / "autoencoder", inside=("left",), lesions=("right",))
    rows = read_metrics(tmp_path / "out")
    assert rows["psnr"]["value"] != whole["psnr"]["value"] and rows["dice_left"]["value"] == whole["dice_left"]["value"]
    with open(tmp_path / "out" / "cases.csv", newline="") as stream:
        cases = list(csv.DictReader(stream))
    counts = {kind: sum(float(case[f"lesions_{kind}_right"]) for case in cases) for kind in ("there", "found", "claimed", "false")}
    assert counts["there"] == 5 and float(rows["lesion_recall_right"]["value"]) == counts["found"] / 5
    if counts["claimed"]:
        assert float(rows["lesion_precision_right"]["value"]) == 1 - counts["false"] / counts["claimed"]
    with pytest.raises(UserError, match=r"middle is no structure of .*; there are left, right"):
        evaluate(tmp_path / "wrong", root / "real", autoencoder=root / "autoencoder", inside=("middle",))


def test_a_case_without_the_structure_is_passed_over(tmp_path):
    cohort = write_cohort(tmp_path / "real", len(SPLITS), 0, SPLITS)
    image = nibabel.load(cohort / "labels" / "8.nii.gz")
    label = image.get_fdata(dtype=np.float32)
    nibabel.save(nibabel.Nifti1Image(label * (label != 1), image.affine), cohort / "labels" / "8.nii.gz")
    accept(cohort)
    run = write_run(tmp_path / "run", LeanAutoencoder(1, 2, 4, (8, 8), 1), Cohort.load(cohort).fingerprint())
    report = evaluate(tmp_path / "out", cohort, autoencoder=run, inside=("left",))
    assert read_metrics(tmp_path / "out")["psnr"]["n"] == "4" and "worst of 4 cases" in report.read_text()
