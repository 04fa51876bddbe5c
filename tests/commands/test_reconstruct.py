"""`reconstruct` from simulated measurements and from files: what it writes, that it finds the scale, and what it refuses."""

import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from medldm.cohort import Cohort
from medldm.commands.measured_files import read
from medldm.commands.reconstruct import doubts, reconstruct
from medldm.commands.train_restorer import train_restorer
from medldm.diffusion.calibrated import STRANGE, Reconstruction, Solved, highest, strangeness
from medldm.diffusion.reconstruction import Measurement
from medldm.errors import UserError
from medldm.files import read_json, write_json
from medldm.operators.acquisitions import AcceleratedMRI, MissingBlock, SparseCT, ThickSlices
from medldm.operators.ct import diagonal
from medldm.operators.masks import VariableDensity
from medldm.operators.mri import kspace
from medldm.randomness import keyed
from medldm.run import load_model
from medldm.training.options import Training
from medldm.volume import Volume, read_volume, write_volume

MRI = AcceleratedMRI(0.02, VariableDensity(2.0, 4, hermitian=True))
SCALE = 700.0


@pytest.fixture(scope="module")
def restorer(phantom_cohort, tmp_path_factory):
    brief = Training(steps=4, batch=2, warm_up=2, validate_every=2, save_every=2)
    return train_restorer(phantom_cohort.root, tmp_path_factory.mktemp("runs") / "restorer", width=8, blocks=1, training=brief)


@pytest.fixture(scope="module")
def held_out(phantom_cohort):
    cohort = Cohort.load(phantom_cohort.root).split("test")
    return read_volume(cohort.path(cohort.cases[0].image))


@pytest.fixture(scope="module")
def simulated(phantom_cohort, restorer, tmp_path_factory):
    out = tmp_path_factory.mktemp("simulated") / "out"
    reconstruct(phantom_cohort.root, restorer, out, MRI, count=1, samples=2)
    return out


def table(path):
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_it_leaves_images_errors_samples_tables_and_a_page(simulated, held_out, capsys):
    made = Cohort.load(simulated)
    (case,) = made.cases
    image, std = read_volume(made.path(case.image)), read_volume(simulated / "std" / f"{case.case}.nii.gz")
    assert np.allclose(image.affine, held_out.affine) and image.shape == held_out.shape and (std.data > 0).all()
    samples = [read_volume(simulated / "samples" / f"{case.case}-{n}.nii.gz").data for n in (0, 1)]
    assert not torch.equal(*samples) and float((samples[0] - image.data).square().mean()) > 0.1 * float(std.data.square().mean())
    (row,) = table(simulated / "reconstruction.csv")
    assert 0.5 < float(row["residual_over_noise"]) < 1.2 and row["converged"] == "True"
    trace = table(simulated / "trace.csv")
    assert [int(row["turn"]) for row in trace] == list(range(1, 13)) and {row["case"] for row in trace} == {case.case}
    assert 0 < float(trace[-1]["residual_over_noise"]) < 3
    scores = {row["name"]: float(row["value"]) for row in table(simulated / "metrics.csv")}
    assert scores["psnr"] > 15 and scores["gain"] == pytest.approx(scores["psnr"] - scores["psnr_classical"], abs=1e-3)
    page = (simulated / "report.html").read_text()
    assert "AcceleratedMRI" in page and "Not for diagnosis" in page


def test_the_same_command_again_says_that_it_is_done(simulated, phantom_cohort, restorer, capsys):
    reconstruct(phantom_cohort.root, restorer, simulated, MRI, count=1, samples=2)
    assert "finished already" in capsys.readouterr().out


def test_a_calibration_serves_again(simulated, phantom_cohort, restorer, tmp_path):
    """The same image and errors to the last bit without tuning; and no calibration for something else."""
    again = reconstruct(phantom_cohort.root, restorer, tmp_path / "again", MRI, calibration=simulated, count=1)
    (case,) = again.cases
    for path in (case.image, f"std/{case.case}.nii.gz"):
        assert torch.equal(read_volume(again.path(path)).data, read_volume(simulated / path).data)
    other = AcceleratedMRI(0.02, VariableDensity(3.0, 4, hermitian=True))
    for acquisition, message in ((other, "acceleration"), (SparseCT(), "other measurements")):
        with pytest.raises(UserError, match=message):
            reconstruct(phantom_cohort.root, restorer, tmp_path / "other", acquisition, calibration=simulated)
    with pytest.raises(UserError, match="holds no calibration"):
        reconstruct(phantom_cohort.root, restorer, tmp_path / "other", MRI, calibration=tmp_path)
    shutil.copytree(simulated, tmp_path / "copy")
    provenance = read_json(tmp_path / "copy" / "provenance.json")
    provenance["reads"]["restorer"] = "0" * 64
    write_json(tmp_path / "copy" / "provenance.json", provenance)
    with pytest.raises(UserError, match="another restorer"):
        reconstruct(phantom_cohort.root, restorer, tmp_path / "other", MRI, calibration=tmp_path / "copy")
    assert not (tmp_path / "other").exists()


def test_an_image_of_another_kind_is_told(simulated, restorer, held_out):
    """Two calibration patients say little of what is usual; with limits just above a usual image, its negative and its mirror image are told."""
    solve = Reconstruction.load(simulated, MRI, load_model(restorer).eval())

    def solved(image, solve):
        operator, y = MRI.measure(image[None], held_out.spacing, "kind")
        return solve(Measurement(operator, y, MRI.noise, MRI.measured(operator)))

    usual = solved(held_out.data, solve)
    assert not usual.out_of_distribution
    limits = 1.3 * strangeness(solve.solver.restored.restoration, usual.image)
    strict = replace(solve, usual=tuple(limits.tolist()))
    assert not solved(held_out.data, strict).out_of_distribution
    assert solved(-held_out.data, strict).out_of_distribution and solved(held_out.data.flip(3), strict).out_of_distribution


def test_memory_without_a_decoder_is_refused(phantom_cohort, restorer, tmp_path):
    with pytest.raises(UserError, match="there is no --run"):
        reconstruct(phantom_cohort.root, restorer, tmp_path / "out", MRI, memory="8GB")
    assert not (tmp_path / "out").exists()


def test_what_speaks_against_a_result_is_told():
    zero = torch.zeros(1, 4, 4, 4)
    good = Solved(zero, zero, {}, 1.0, [1.2, 1.0], True, False)
    for changes, noise, said in (
        ({}, 0.1, ()),
        ({"residual": 2.0, "converged": False}, 0.1, ("does not explain the measurements",)),
        ({"residual": 1.0, "converged": False, "trace": [1.0, 5.0]}, 0.1, ("is of the turn before its turns led away from the measurements",)),
        ({"residual": 0.3}, 0.1, ("is nearer to the measurements than their noise: is that less than what was given or estimated?",)),
        ({"residual": 1e-5}, 0.0, ()),
        ({"out_of_distribution": True}, 0.1, ("does not look like the cohort",)),
    ):
        assert doubts(replace(good, **changes), noise) == said


def test_the_limit_is_exceeded_as_often_as_it_says():
    for n in (3, 10):
        values = torch.randn(20000, n + 1, generator=keyed("limit", n), dtype=torch.float64)
        beyond = sum(row[-1] > highest(row[:-1]) for row in values.tolist()) / len(values)
        assert 0.3 * STRANGE < beyond < 2.0 * STRANGE
    assert highest([1.0]) == float("inf")


def measurements(folder, held_out, **changes):
    """Single-coil k-space of a held-out image in a unit of its own, with a phase and noise."""
    x = (held_out.data[None] + 1) * SCALE
    i = torch.linspace(-1, 1, x.shape[2])[:, None, None]
    mask = MRI.mask(x.shape[2:], keyed("mask"))
    y = kspace(x * torch.polar(torch.ones(()), 0.5 + 0.3 * i))[0]
    y = (y + 0.02 * SCALE * torch.randn(y.shape, generator=keyed("n"), dtype=torch.complex64) * 2**0.5) * mask
    arrays = {"kspace": y.numpy(), "mask": mask.numpy(), "affine": held_out.affine} | changes
    folder.mkdir(exist_ok=True)
    np.savez(folder / "doejane.npz", **{name: value for name, value in arrays.items() if value is not None})
    return folder


def test_a_scan_of_unknown_scale_and_phase_comes_back_in_its_unit(phantom_cohort, restorer, held_out, tmp_path, capsys):
    reconstruct(phantom_cohort.root, restorer, tmp_path / "out", MRI, measurements(tmp_path / "scans", held_out))
    found, truth = read_volume(tmp_path / "out" / "images" / "m001.nii.gz"), (held_out.data + 1) * SCALE
    assert np.allclose(found.affine, held_out.affine)
    assert float(torch.corrcoef(torch.stack([found.data.flatten(), truth.flatten()]))[0, 1]) > 0.95
    assert abs(float((found.data * truth).sum() / truth.square().sum()) - 1) < 0.1
    told = capsys.readouterr().out
    assert not (tmp_path / "out" / "metrics.csv").exists() and "m001: scale" in told
    assert "doejane" not in told + (tmp_path / "out" / "report.html").read_text() + (tmp_path / "out" / "cohort.csv").read_text()


def anatomy(restorer):
    return load_model(restorer).anatomy


def test_thick_slices_of_a_file_get_the_grid_between_them(restorer, held_out, tmp_path):
    acquisition = ThickSlices(0.01, 2, 4.0)
    operator = acquisition.operator(held_out.shape, held_out.spacing)
    thick = operator((held_out.data[None] + 1) * SCALE)[0]
    affine = held_out.affine @ np.diag([1, 1, 4, 1.0])
    affine[:3, 3] += held_out.affine[:3, 2] * 1.5
    write_volume(tmp_path / "thick.nii.gz", Volume(thick, affine))
    found = read(tmp_path / "thick.nii.gz", acquisition, None, anatomy(restorer), held_out.spacing)
    assert found.shape == held_out.shape and np.allclose(found.affine, held_out.affine, atol=1e-3)
    assert found.scale == pytest.approx(SCALE, rel=0.1)


def test_a_sinogram_of_a_file(restorer, held_out, tmp_path):
    acquisition = SparseCT(0.005, 30)
    operator = acquisition.operator(held_out.shape, held_out.spacing)
    y = operator((held_out.data[None] + 1) * SCALE)[0, 0].numpy()
    angles = (np.arange(30) * np.pi / 30).astype(np.float64)
    np.savez(tmp_path / "ct.npz", sinogram=y, angles=angles, shape=np.array(held_out.shape))
    found = read(tmp_path / "ct.npz", acquisition, None, anatomy(restorer), held_out.spacing)
    across = diagonal(held_out.shape, held_out.spacing)
    assert found.scale == pytest.approx(SCALE / across, rel=0.1), "integrals are over millimetres, so images are per millimetre"
    for wrong, message in ((-y, "not negative"), (y[:, :, :3], "was expected")):
        np.savez(tmp_path / "wrong.npz", sinogram=wrong, angles=angles, shape=np.array(held_out.shape))
        with pytest.raises(UserError, match=message):
            read(tmp_path / "wrong.npz", acquisition, None, anatomy(restorer), held_out.spacing)
    np.savez(tmp_path / "wrong.npz", sinogram=y, angles=np.degrees(angles), shape=np.array(held_out.shape))
    with pytest.raises(UserError, match="radians"):
        read(tmp_path / "wrong.npz", acquisition, None, anatomy(restorer), held_out.spacing)


def test_bad_measurements_are_refused(restorer, held_out, tmp_path):
    shape = tuple(held_out.shape)
    broken = np.full((1, *shape), np.nan, dtype=np.complex64)
    ones = np.ones((2, *shape), dtype=np.complex64)
    for changes, message in (
        ({"kspace": broken, "mask": None}, "not finite"),
        ({"kspace": np.zeros(shape)}, "complex"),
        ({"mask": np.zeros(shape, bool)}, "measures nothing"),
        ({"mask": np.ones((3, 3, 3), bool)}, "0 or 1 for each point"),
        ({"kspace": ones, "coils": ones}, "sum to 1"),
        ({"kspace": None}, "neither kspace nor"),
    ):
        path = measurements(tmp_path / "wrong", held_out, **changes) / "doejane.npz"
        with pytest.raises(UserError, match=message):
            read(path, MRI, None, anatomy(restorer), held_out.spacing)
    write_volume(tmp_path / "image.nii.gz", held_out)
    with pytest.raises(UserError, match="is an image"):
        read(tmp_path / "image.nii.gz", MRI, None, anatomy(restorer), held_out.spacing)
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "cut.npz").write_bytes((measurements(tmp_path / "whole", held_out) / "doejane.npz").read_bytes()[:5000])
    for name in ("text.npz", "cut.npz"):
        with pytest.raises(UserError, match="cannot be read"):
            read(tmp_path / name, MRI, None, anatomy(restorer), held_out.spacing)


def test_bad_settings_are_refused_before_the_work(phantom_cohort, restorer, tmp_path):
    (tmp_path / "empty").mkdir()
    for changes, message in (
        ({"measurements": tmp_path / "empty"}, "holds no measurements"),
        ({"measurements": tmp_path / "nowhere"}, "holds no measurements"),
        ({"samples": -1}, "samples=-1"),
        ({"count": 0}, "count=0"),
        ({"noise": 0.05}, "--acquisition.noise"),
        ({"measurements": tmp_path / "empty", "noise": -7.0}, "above 0"),
        ({"measurements": tmp_path / "empty", "count": 2}, "--count"),
        ({"run": restorer}, "not a diffusion model"),
    ):
        with pytest.raises(UserError, match=message):
            reconstruct(phantom_cohort.root, restorer, tmp_path / "out", MRI, **changes)
    with pytest.raises(UserError, match="at least 0"):
        MissingBlock(noise=-1)
    other = tmp_path / "restorer"
    shutil.copytree(restorer, other)
    provenance = read_json(other / "provenance.json")
    write_json(other / "provenance.json", provenance | {"reads": {"cohort": "0" * 64}})
    with pytest.raises(UserError, match="another cohort"):
        reconstruct(phantom_cohort.root, other, tmp_path / "out", MRI)
    assert not (tmp_path / "out").exists()
