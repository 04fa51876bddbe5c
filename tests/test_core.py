"""Volumes, cohorts, runs and randomness: round trips, and what they refuse."""

import gzip
import struct

import nibabel
import numpy as np
import pytest
import torch

from medldm.cohort import Case, Cohort
from medldm.errors import UserError
from medldm.files import atomic, read_yaml
from medldm.models.lean import LeanAutoencoder
from medldm.randomness import keyed, permutation, seeded
from medldm.run import Run, build, describe, differences, load_model, save_model
from medldm.volume import Volume, read_volume, write_volume

AFFINE = np.array([[0.0, -2.0, 0.0, 5.0], [1.5, 0.0, 0.0, -7.0], [0.0, 0.0, 3.0, 2.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.fixture
def volume():
    return Volume(torch.randn(1, 4, 5, 6, generator=keyed(0)), AFFINE)


def test_a_volume_comes_back_as_it_was_and_its_bytes_are_decided_by_its_voxels(volume, tmp_path):
    for name in ("a", "b"):
        write_volume(tmp_path / f"{name}.nii.gz", volume)
    back = read_volume(tmp_path / "a.nii.gz")
    assert torch.equal(back.data, volume.data) and np.allclose(back.affine, AFFINE)
    assert back.spacing == (1.5, 2.0, 3.0) and back.orientation == "ALS" and back.origin == (5.0, -7.0, 2.0)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_contrasts_are_the_fourth_axis_of_a_file(tmp_path):
    write_volume(tmp_path / "v.nii.gz", Volume(torch.rand(3, 4, 5, 6), AFFINE))
    assert nibabel.load(tmp_path / "v.nii.gz").shape == (4, 5, 6, 3)
    assert read_volume(tmp_path / "v.nii.gz").data.shape == (3, 4, 5, 6)


def damaged(kind, path, volume):
    """One bad file of each kind."""
    write_volume(path, volume)
    content = path.read_bytes()
    raw = bytearray(gzip.decompress(content))
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "flipped":
        path.write_bytes(content[:-6] + bytes([content[-6] ^ 255]) + content[-5:])
    elif kind == "html":
        path.write_bytes(b"<!DOCTYPE html><html>not found</html>" * 20)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "huge":
        struct.pack_into("<8h", raw, 40, 3, 32767, 32767, 32767, 1, 1, 1, 1)
        path.write_bytes(gzip.compress(bytes(raw)))
    elif kind == "no codes":
        struct.pack_into("<2h", raw, 252, 0, 0)
        path.write_bytes(gzip.compress(bytes(raw)))
    elif kind == "nan":
        struct.pack_into("<f", raw, 352, float("nan"))
        path.write_bytes(gzip.compress(bytes(raw)))


@pytest.mark.parametrize("kind", ["truncated", "flipped", "html", "empty", "huge", "no codes", "nan"])
def test_a_bad_file_is_refused_by_name(kind, volume, tmp_path):
    path = tmp_path / "bad.nii.gz"
    damaged(kind, path, volume)
    with pytest.raises(UserError, match=r"bad\.nii\.gz"):
        read_volume(path)


@pytest.mark.parametrize(("unit", "scale"), [("mm", 1), ("meter", 1000), ("micron", 0.001), ("unknown", 1), ("damaged", 1)])
def test_lengths_are_in_mm_whatever_unit_a_file_tells(volume, tmp_path, unit, scale):
    image = nibabel.Nifti1Image(volume.data[0].numpy(), volume.affine)
    image.header["xyzt_units"] = 7 if unit == "damaged" else nibabel.nifti1.unit_codes[unit]
    nibabel.save(image, tmp_path / "x.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "x.nii").affine, np.diag([scale] * 3 + [1]) @ volume.affine, rtol=1e-6)


def test_a_label_map_has_whole_numbers(volume, tmp_path):
    write_volume(tmp_path / "l.nii.gz", volume)
    with pytest.raises(UserError, match="whole numbers"):
        read_volume(tmp_path / "l.nii.gz", "label")


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "f.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["f.txt"]


def cohort(tmp_path, *cases):
    return Cohort(tmp_path / "c", cases, labels={1: "brain"}, covariates={"age": "years", "sex": ""})


def case(name, patient, split, digest, **covariates):
    return Case(name, patient, split, f"images/{name}.nii.gz", sha256=digest, shape=(4, 5, 6), spacing=(1.0, 1.0, 2.5), covariates=covariates)


def test_a_cohort_comes_back_as_it_was(tmp_path):
    made = cohort(tmp_path, case("a", "p", "train", "1", age=61.5, sex="F"), case("b", "p", "train", "2", age=None, sex="M"))
    made.save()
    back = Cohort.load(tmp_path / "c")
    assert back == made and back.fingerprint() == made.fingerprint()
    assert len(back.split("train")) == 2 and len(back.split("test")) == 0


@pytest.mark.parametrize(("second", "what"), [(("b", "p", "test", "2"), "patient"), (("b", "q", "test", "1"), "image")])
def test_a_patient_or_image_in_two_splits_is_refused(tmp_path, second, what):
    with pytest.raises(UserError, match=f"same {what} is in two splits: case 'a'"):
        cohort(tmp_path, case("a", "p", "train", "1"), case(*second)).save()


def test_the_fingerprint_knows_content_not_order(tmp_path):
    a, b = case("a", "p", "train", "1", age=3.0), case("b", "q", "test", "2", age=4.0)
    assert cohort(tmp_path, a, b).fingerprint() == cohort(tmp_path, b, a).fingerprint()
    assert cohort(tmp_path, a, b).fingerprint() != cohort(tmp_path, a, case("b", "q", "test", "3", age=4.0)).fingerprint()


def test_a_path_out_of_the_cohort_is_refused(tmp_path):
    cohort(tmp_path, case("a", "p", "train", "1")).save()
    table = tmp_path / "c" / "cohort.csv"
    table.write_text(table.read_text().replace("images/a.nii.gz", "../../etc/passwd"))
    with pytest.raises(UserError, match="leaves the cohort"):
        Cohort.load(tmp_path / "c")


def test_a_cut_table_is_refused(tmp_path):
    cohort(tmp_path, case("a", "p", "train", "1"), case("b", "q", "train", "2")).save()
    table = tmp_path / "c" / "cohort.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match="fingerprint"):
        Cohort.load(tmp_path / "c")


@pytest.mark.parametrize("document", ["provenance.json", "model.yaml", "config.yaml"])
def test_a_document_of_another_kind_is_refused(tmp_path, document):
    finished(tmp_path)
    (tmp_path / "run" / document).write_text("[1, 2]")
    with pytest.raises(UserError, match=document):
        load_model(tmp_path / "run")
        Run.claim(tmp_path / "run", "train", {})


def test_a_run_folder_belongs_to_one_command_its_arguments_and_its_inputs(tmp_path):
    run = Run.claim(tmp_path / "r", "train", {"lr": 0.1, "out": "anywhere"}, {"cohort": "abc"})
    with pytest.raises(UserError, match="Another process"):
        Run.claim(tmp_path / "r", "train", {"lr": 0.1}, {"cohort": "abc"})
    run.lock.release()
    (run.root / "history.csv").write_text("step\n")
    for arguments, reads, message in (
        ({"lr": 0.2}, {"cohort": "abc"}, r"lr: 0\.1 there, 0\.2 now"),
        ({"lr": 0.1}, {"cohort": "xyz"}, "cohort: abc there"),
    ):
        with pytest.raises(UserError, match=message):
            Run.claim(tmp_path / "r", "train", arguments, reads)
    again = Run.claim(tmp_path / "r", "train", {"lr": 0.1}, {"cohort": "abc"})
    assert not again.finished and read_yaml(tmp_path / "r" / "config.yaml") == {"command": "train", "lr": 0.1}


def test_a_folder_in_which_nothing_was_made_is_free_again(tmp_path):
    Run.claim(tmp_path / "r", "train", {"lr": 0.1}, {"cohort": "abc"}).lock.release()
    run = Run.claim(tmp_path / "r", "prepare", {"jobs": 2}, {"source": "xyz"})
    assert read_yaml(run.root / "config.yaml") == {"command": "prepare", "jobs": 2}


def test_a_message_names_the_settings_that_differ_and_no_others():
    def settings(steps, model="m.A"):
        return {"training": {"class_path": "t.T", "init_args": {"steps": steps, "batch": 4}}, "model": {"class_path": model, "init_args": {}}}

    assert list(differences(settings(4), settings(8, "m.B"))) == ["training.steps: 4 there, 8 now", "model: m.A there, m.B now"]
    assert list(differences(settings(4), settings(4))) == []
    assert list(differences({"model": None}, {"model": settings(4)["model"]})) == ["model: None there, m.A now"]


def test_a_folder_with_other_files_is_not_taken(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="thesis"):
        Run.claim(tmp_path, "train", {})


def finished(tmp_path):
    run = Run.claim(tmp_path / "run", "train", {})
    save_model(run.root, model := LeanAutoencoder(1, 2, widths=(8, 16)))
    run.finish({}, ["model.safetensors"])
    return model


def test_a_model_comes_back_with_its_weights(tmp_path):
    model = finished(tmp_path)
    back = load_model(tmp_path / "run")
    assert describe(back) == describe(model) and not back.training
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), back.state_dict().values(), strict=True))


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "torch.hub.load", "medldm.run.save_model", "torch.nn.Nothing", "builtins.eval"])
def test_only_modules_of_known_packages_are_built(path):
    with pytest.raises(UserError, match=path.rsplit(".", 1)[-1]):
        build({"class_path": path, "init_args": {}})


def test_a_draw_depends_on_its_key_alone():
    assert torch.equal(torch.randn(3, generator=keyed(1, "noise", 7)), torch.randn(3, generator=keyed(1, "noise", 7)))
    assert not torch.equal(torch.randn(3, generator=keyed(1, "noise", 7)), torch.randn(3, generator=keyed(1, "noise", 8)))
    assert sorted(permutation(10, 3)) == list(range(10))
    before = torch.get_rng_state()
    with seeded(5):
        torch.randn(3)
    assert torch.equal(before, torch.get_rng_state())
