"""The gate: what passes is marked and signed, copies stay behind, and `verify` tells."""

import gzip
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydicom import dcmread
from scipy import ndimage

from medldm import cli
from medldm.cohort import Case, Cohort
from medldm.commands.export import export
from medldm.commands.release import release
from medldm.commands.verify import verdict, verify
from medldm.errors import UserError
from medldm.files import sha256
from medldm.privacy import audit as auditing
from medldm.privacy import copies
from medldm.provenance.keys import public_key
from medldm.provenance.manifest import sidecar
from medldm.training.budget import Budget
from medldm.volume import Volume, read_volume, write_volume

SHAPE = (32, 28, 30)


def texture(seed: int) -> np.ndarray:
    own = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 1.5)
    return (own / np.abs(own).max()).astype(np.float32)


def write_cohort(root, seeds, split="", **about):
    """One case a seed; a tuple of two seeds is a copy of the second with a little of the first."""
    cases = []
    for number, seed in enumerate(seeds):
        image = texture(seed) if isinstance(seed, int) else 0.9 * texture(seed[1]) + 0.1 * texture(seed[0])
        name, label = f"{root.name}-{number}", (texture(number) > 0).astype(np.float32)
        files = [f"images/{name}.nii.gz", f"labels/{name}.nii.gz"]
        write_volume(root / files[0], Volume(torch.from_numpy(image)[None], np.diag([1.0, 1.1, 0.9, 1.0])))
        write_volume(root / files[1], Volume(torch.from_numpy(label)[None], np.diag([1.0, 1.1, 0.9, 1.0]), "label"))
        digest, where = sha256(*(root / file for file in files)), split[number] if split else ""
        patient = f"SECRET-{number}" if split else name
        cases.append(Case(name, patient, where, *files, digest, SHAPE, (1.0, 1.1, 0.9), covariates={"age": 50.5}))
    cohort = Cohort(root, tuple(cases), "a.u.", {1: "blob"}, {"age": "years"}, **about)
    cohort.save()
    return cohort


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Limits that fit some cases, and a search that is quick."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in (
            (auditing, "FEWEST", 5),
            (auditing, "FALSE_ALARMS", 0.2),
            (auditing, "UNSEEN", 0.9),
            (auditing, "PLANTED", 2),
            (auditing, "LEAST_PLANTED", 2),
            (copies, "EVALUATIONS", 60),
        ):
            patch.setattr(module, name, value)
        yield tmp_path_factory.mktemp("release")


@pytest.fixture(scope="module")
def real(small):
    return write_cohort(small / "real", range(11), ["train"] * 5 + ["test"] * 6)


def generated(root, real, seeds, **known):
    facts = {"seeds": {f"{root.name}-{n}": [0, n] for n in range(len(seeds))}, **known}
    return write_cohort(root, seeds, synthetic=True, parents={"cohort": real.fingerprint(), "diffusion": "f00d"}, facts=facts)


@pytest.fixture(scope="module")
def released(small, real):
    """Five cases and a copy, released."""
    budget = Budget(epsilon=7.95, delta=0.001, noise_multiplier=1.7, clip=0.5, sample_rate=0.1, steps=100)
    made = generated(small / "made", real, [100, 101, 102, 103, 104, (105, 3)], privacy=budget.record())
    return release(made.root, real.root, small / "released", small / "keys" / "signer.pem")


def test_what_is_no_copy_is_released_with_its_datasheet(released, small):
    assert [case.case for case in released] == [f"made-{n}" for n in range(5)]
    assert Cohort.load(released.root).facts["release"]["withheld"] == 1
    sheet = (released.root / "datasheet.md").read_text()
    assert "**pass**" in sheet and "1 cases were copies" in sheet and "5 images of 5 patients" in sheet
    assert "Differential privacy of a patient: epsilon 7.95 at delta 0.001 (" in sheet and "not the autoencoder" in sheet
    assert (released.root / "audit.csv").read_text().splitlines()[-1].endswith(",1")
    released.check_files()
    assert (released.root / "signer.pub").read_bytes() == (small / "keys" / "signer.pem.pub").read_bytes()


def test_images_are_marked_and_labels_are_as_they_were(released, small):
    for case in released:
        before, after = (read_volume(root / case.image).data for root in (small / "made", released.root))
        assert 38 < float(10 * torch.log10((before.max() - before.min()) ** 2 / (before - after).square().mean())) < 43
        assert torch.equal(*(read_volume(root / case.label, "label").data for root in (small / "made", released.root)))


def test_no_patient_is_named_in_what_is_released(released, real):
    names = {case.case for case in real} | {case.patient for case in real}
    for path in released.root.rglob("*"):
        if path.is_file():
            text = path.read_bytes()
            assert not [name for name in names if name.encode() in text], path


def test_a_released_cohort_is_valid(released, small, capsys):
    trust = released.root / "signer.pub"
    verdicts = verify([released.root], trust)
    assert len(verdicts) == 10 and {verdict.state for verdict in verdicts.values()} == {"valid"}
    assert cli.main(["verify", str(released.root), "--trust", str(trust)]) == 0
    assert cli.main(["verify", str(released.root)]) == 2
    assert "untrusted_key" in capsys.readouterr().out


def test_without_metadata_the_watermark_tells_who_can_read_it(released, small, tmp_path, capsys):
    case = released.cases[2]
    stripped = read_volume(released.path(case.image))
    strays = {"as it was": stripped.data, "mirrored and cut": stripped.data.flip(1)[:, 2:, :, :-1], "other": torch.from_numpy(texture(7))[None]}
    for name, data in strays.items():
        write_volume(tmp_path / "stray.nii.gz", stripped.with_data(data.contiguous()))
        options = ["verify", str(tmp_path / "stray.nii.gz"), "--released", str(released.root), "--key", str(small / "keys" / "signer.pem")]
        assert cli.main(options) == 2
        told = capsys.readouterr().out
        assert "metadata_missing" in told
        assert (f"carries the watermark of {case.case} in its voxels" in told) == (name != "other"), name


def test_a_changed_file_is_told(released, tmp_path):
    shutil.copytree(released.root, tmp_path / "copy")
    victim = tmp_path / "copy" / released.cases[0].image
    volume = read_volume(victim)
    volume.data[0, 3, 3, 3] += 1e-3
    sidecar = victim.with_name(victim.name.replace(".nii.gz", ".prov.json"))
    write_volume(victim, volume, sidecar.read_bytes())
    with pytest.raises(UserError, match="1 of 10 files are not valid"):
        verify([tmp_path / "copy"], released.root / "signer.pub")


def test_a_damaged_file_is_told_and_those_after_it_are_judged(released, tmp_path, capsys):
    shutil.copytree(released.root, tmp_path / "copy")
    victim = tmp_path / "copy" / released.cases[0].image
    victim.write_bytes(victim.read_bytes()[:200])
    with pytest.raises(UserError, match="1 of 10 files are not valid"):
        verify([tmp_path / "copy"], released.root / "signer.pub")
    told = capsys.readouterr().out
    assert told.count("valid  ") == 9 and "cannot be read as a volume" in told and told.splitlines()[0].startswith("tampered")


def damage(data: bytearray, kind: str) -> bytes:
    """A signed NIfTI file, not compressed, after an accident."""
    begin = int(np.frombuffer(data[108:112], "<f4")[0])
    if kind == "a voxel that is none":
        data[begin : begin + 4] = np.float32(np.nan).tobytes()
    elif kind == "cut":
        return bytes(data[: begin + 100])
    elif kind == "another unit of length":
        data[123] = 1  # metres
    elif kind == "another code of the extension":
        data[356] ^= 1
    return bytes(data)


@pytest.mark.parametrize("kind", ["a voxel that is none", "cut", "cut when packed", "another unit of length", "another code of the extension"])
def test_damage_does_not_hide_that_a_file_was_signed(released, small, tmp_path, capsys, kind):
    """And the files after it are judged, also where watermarks are sought. Nothing lies beside them."""
    plain = bytearray(gzip.decompress(released.path(released.cases[0].image).read_bytes()))
    packed = gzip.compress(damage(plain, kind))
    (tmp_path / "a.nii.gz").write_bytes(packed[:-1000] if kind == "cut when packed" else packed)
    shutil.copyfile(released.path(released.cases[1].image), tmp_path / "b.nii.gz")
    trusted = ["--trust", str(released.root / "signer.pub")]
    sought = ["--released", str(released.root), "--key", str(small / "keys" / "signer.pem")]
    for options in (trusted, [*trusted, *sought]):
        assert cli.main(["verify", str(tmp_path), *options]) == (0 if "extension" in kind else 2)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("valid" if "extension" in kind else "tampered") and any(
            "b.nii.gz" in line and line.startswith("valid") for line in lines
        )


def test_a_folder_in_the_place_of_a_manifest_and_a_reader_that_leaves(released, tmp_path):
    shutil.copyfile(released.path(released.cases[0].image), tmp_path / "a.nii.gz")
    (tmp_path / "a.prov.json").mkdir()
    assert verdict(tmp_path / "a.nii.gz", [public_key(released.root / "signer.pub")]).state == "tampered"
    trust = str(released.root / "signer.pub")
    script = f"import sys; from medldm.cli import main; sys.exit(main(['verify', {str(released.root)!r}, '--trust', {trust!r}]))"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read() and process.wait() in (0, 141)


def test_what_is_released_does_not_say_where_anything_lay(released, small):
    for path in released.root.rglob("*"):
        assert path.is_dir() or str(small).encode() not in path.read_bytes(), path


def test_an_image_that_is_the_same_everywhere_is_refused_before_the_search(small, real):
    made = generated(small / "flat", real, [210, 211])
    flat = read_volume(made.path(made.cases[1].image))
    write_volume(made.path(made.cases[1].image), flat.with_data(torch.full_like(flat.data, 0.25)))
    cases = tuple(replace(case, sha256=sha256(*(made.path(p) for p in (case.image, case.label) if p))) for case in made.cases)
    replace(made, cases=cases).save()
    with pytest.raises(UserError, match=f"The image of {made.cases[1].case} is the same everywhere"):
        release(made.root, real.root, small / "flat_out", small / "keys" / "signer.pem")
    assert not (small / "flat_out").exists()


def test_a_file_in_the_place_of_another_one_is_told(released, tmp_path, capsys):
    shutil.copytree(released.root, tmp_path / "copy")
    one, other = released.cases[:2]
    for suffix in (".nii.gz", ".prov.json"):
        source, target = (tmp_path / "copy" / case.label.replace(".nii.gz", suffix) for case in (one, other))
        shutil.copyfile(source, target)
    with pytest.raises(UserError, match="1 of 10 files are not valid"):
        verify([tmp_path / "copy"], released.root / "signer.pub")
    assert f"signed as the label of {one.case}" in capsys.readouterr().out
    shutil.copyfile(tmp_path / "copy" / one.label, tmp_path / "elsewhere.nii.gz")
    assert verify([tmp_path / "elsewhere.nii.gz"], released.root / "signer.pub")


@pytest.fixture(scope="module")
def dicom(released, small):
    """The released cohort as DICOM files."""
    return export(released.root, small / "dicom", "dicom")


def test_dicom_files_of_a_released_cohort_are_valid(released, dicom, small, capsys):
    trust = released.root / "signer.pub"
    verdicts = verify([dicom], trust)
    assert len(verdicts) == 10 and {verdict.state for verdict in verdicts.values()} == {"valid"}
    assert {file.parent.name: verdict.manifest["case"] for file, verdict in verdicts.items()} == {case.case: case.case for case in released}
    assert cli.main(["verify", str(dicom)]) == 2 and "untrusted_key" in capsys.readouterr().out


def test_a_changed_byte_of_a_dicom_file_is_told(released, dicom, tmp_path):
    """Of the manifest, of the pixels, and of what places and scales them."""
    keys = [public_key(released.root / "signer.pub")]
    for name in ("image.dcm", "label.dcm"):
        source = dicom / released.cases[0].case / name
        content, file = source.read_bytes(), tmp_path / name
        manifest, pixels = content.index(b'{"manifest"'), content.index(b"\xe0\x7f\x10\x00") + 12
        where = [manifest - 20, *range(manifest, manifest + 900, 97), *range(pixels, len(content) - 1, (len(content) - pixels) // 7)]
        for place in where:
            file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            assert verdict(file, keys).state == ("valid" if place < manifest else "tampered"), place  # the name of the block hides nothing
        for keyword, value in {"RescaleSlope": "1.5", "RescaleIntercept": "0", "SyntheticData": "NO", "StudyDate": "20000101"}.items():
            data = dcmread(source)
            if keyword in data:
                setattr(data, keyword, value)
                data.save_as(file)
                assert verdict(file, keys).state == ("valid" if keyword == "StudyDate" else "tampered"), keyword
        for group, keyword, index in (("PixelMeasures", "PixelSpacing", 1), ("PlaneOrientation", "ImageOrientationPatient", 3)):
            data = dcmread(source)
            values = data.SharedFunctionalGroupsSequence[0][f"{group}Sequence"].value[0][keyword].value
            values[index] = float(values[index]) + 1e-3
            data.save_as(file)
            assert verdict(file, keys).state == "tampered", keyword
        data = dcmread(source)
        del data[0x0099, 0x1001]
        data.save_as(file)
        assert verdict(file, keys).state == "metadata_missing"


@pytest.mark.parametrize("where", ["label", "code", "gone"])
def test_segments_with_other_names_are_told(released, dicom, tmp_path, where):
    data, file = dcmread(dicom / released.cases[0].case / "label.dcm"), tmp_path / "label.dcm"
    segment = data.SegmentSequence[0]
    if where == "label":
        segment.SegmentLabel = "other"
    elif where == "code":
        segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning = "other"
    else:
        del segment.SegmentLabel
    data.save_as(file)
    found = verdict(file, [public_key(released.root / "signer.pub")])
    assert (found.state, found.reason) == ("tampered", "Its segments have other names than those that were signed.")


def test_without_its_manifest_a_dicom_file_is_told_by_its_watermark(released, dicom, small, tmp_path, capsys):
    data = dcmread(dicom / released.cases[1].case / "image.dcm")
    data.remove_private_tags()
    data.save_as(tmp_path / "stray.dcm")
    options = ["verify", str(tmp_path / "stray.dcm"), "--released", str(released.root), "--key", str(small / "keys" / "signer.pem")]
    assert cli.main(options) == 2
    told = capsys.readouterr().out
    assert "metadata_missing" in told and f"carries the watermark of {released.cases[1].case} in its voxels" in told


def test_what_was_changed_after_its_release_is_not_exported(released, small, tmp_path):
    shutil.copytree(released.root, tmp_path / "copy")
    victim = tmp_path / "copy" / released.cases[0].image
    volume, note = read_volume(victim), sidecar(victim).read_bytes()
    volume.data[0, 3, 3, 3] += 1e-3
    write_volume(victim, volume, note)
    with pytest.raises(UserError, match="not the file that was written"):
        export(tmp_path / "copy", small / "changed", "dicom")
    cohort = Cohort.load(tmp_path / "copy")
    first = cohort.cases[0]
    digest = sha256(cohort.path(first.image), cohort.path(first.label))
    replace(cohort, cases=(replace(first, sha256=digest), *cohort.cases[1:])).save()
    with pytest.raises(UserError, match="is not what was signed"):
        export(tmp_path / "copy", small / "changed", "dicom")


def test_a_cohort_of_copies_is_stopped_unless_somebody_takes_it_on(small, real, capsys):
    made = generated(small / "copies", real, [(200 + n, n) for n in range(4)] + [210, 211])
    options = ["release", "--cohort", str(made.root), "--training", str(real.root), "--key", str(small / "keys" / "signer.pem")]
    assert cli.main([*options, "--out", str(small / "stopped")]) == 2
    assert "The audit is fail" in capsys.readouterr().err
    assert not (small / "stopped" / "cohort.csv").exists() and (small / "stopped" / "audit.csv").exists()
    assert cli.main([*options, "--out", str(small / "overridden"), "--override", "phantoms only"]) == 0
    kept = Cohort.load(small / "overridden")
    assert {case.case for case in kept} == {"copies-4", "copies-5"}
    sheet = (small / "overridden" / "datasheet.md").read_text()
    assert "phantoms only" in sheet and "Trained without differential privacy." in sheet


def test_what_cannot_be_audited_is_refused(small, real, released):
    key = small / "keys" / "signer.pem"
    stranger = generated(small / "stranger", write_cohort(small / "other", [50, 51], ["train", "test"]), [300])
    for cohort, training, message in (
        (real.root, real.root, "holds real images"),
        (stranger.root, real.root, "another cohort"),
        (small / "made", small / "made", "held-out split"),
    ):
        with pytest.raises(UserError, match=message):
            release(cohort, training, small / "refused", key)
    assert not (small / "refused").exists()
    with pytest.raises(UserError, match="both"):
        verify([released.root], released=released.root)
    with pytest.raises(UserError, match="no NIfTI file"):
        verify([small / "keys"])
