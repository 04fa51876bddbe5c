"""`restore`: volumes of a cohort go back to the grid, the intensities and the label values of their source."""

import numpy as np
import pytest
import torch

from medldm.commands.prepare import prepare
from medldm.commands.restore import restore
from medldm.errors import UserError
from medldm.volume import Volume, read_volume, write_volume

OBLIQUE = np.array([[-1.1, 0.3, 0.2, 40], [0.25, 1.4, -0.3, -60], [0.1, 0.2, 2.1, 10], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module", autouse=True)
def one_store(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db")
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Smooth oblique, left-handed images with label values 4 and 7."""
    root, rng = tmp_path_factory.mktemp("oblique") / "source", np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in (24, 20, 14)], indexing="ij"))
    for n in range(3):
        image = sum(rng.normal() * np.sin(axis / (4 + n) + rng.normal()) for axis in grid) * 300 + 1000
        label = np.where(grid[0] > 11 + n, 4, 0) + np.where(grid[1] > 15, 3, 0)
        label[label == 3] = 0
        write_volume(root / f"images/c{n}.nii.gz", Volume(torch.from_numpy(image[None]).float(), OBLIQUE))
        write_volume(root / f"labels/c{n}.nii.gz", Volume(torch.from_numpy(label[None]).float(), OBLIQUE, "label"))
    return root


def pairs(source, out, kind, unit):
    for path in sorted((source / kind).iterdir()):
        yield read_volume(path, unit), read_volume(out / kind / path.name, unit)


def test_without_interpolation_everything_comes_back(source, tmp_path):
    cohort = prepare(source, tmp_path / "cohort", window=(-1000.0, 3000.0), val=0, test=0.34)
    assert cohort.labels == {1: "label_4", 2: "label_7"}
    restore(tmp_path / "cohort", tmp_path / "cohort", tmp_path / "back")
    for before, after in pairs(source, tmp_path / "back", "images", "a.u."):
        assert after.shape == before.shape and np.allclose(after.affine, before.affine, atol=1e-4)
        assert torch.allclose(after.data, before.data, atol=0.01)
    for before, after in pairs(source, tmp_path / "back", "labels", "label"):
        assert torch.equal(after.data, before.data) and set(after.data.unique().tolist()) == {0, 4, 7}


def test_resampled_volumes_return_to_the_grid(source, tmp_path):
    cohort = prepare(source, tmp_path / "cohort", spacing=(1.2, 1.2, 1.2), window=(-1000.0, 3000.0), val=0, test=0.34)
    assert {case.shape for case in cohort} != {(24, 20, 14)}
    restore(tmp_path / "cohort", tmp_path / "cohort", tmp_path / "back")
    for before, after in pairs(source, tmp_path / "back", "images", "a.u."):
        assert after.shape == before.shape and np.allclose(after.affine, before.affine, rtol=0, atol=1e-3)
        inner = (slice(None), *[slice(3, -3)] * 3)
        assert (after.data - before.data)[inner].abs().mean() < 0.02 * before.data.std()
    for before, after in pairs(source, tmp_path / "back", "labels", "label"):
        assert (after.data == before.data).float().mean() > 0.95  # half a voxel along the borders


def test_what_cannot_be_restored_is_refused_before_anything_is_written(source, tmp_path):
    cohort = prepare(source, tmp_path / "cohort", val=0, test=0.34)
    stranger = tmp_path / "other/images/c9.nii.gz"
    write_volume(stranger, read_volume(cohort.path("images/c0.nii.gz")))
    with pytest.raises(UserError, match="no record of how case 'c9'"):
        restore(cohort.root, tmp_path / "other", tmp_path / "back")
    stranger.unlink()
    with pytest.raises(UserError, match=r"no \.nii\.gz files"):
        restore(cohort.root, tmp_path / "other", tmp_path / "back")
    with pytest.raises(UserError, match="no records"):
        restore(source, cohort.root, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    moved = read_volume(cohort.path("images/c0.nii.gz"))
    moved.affine[0, 3] += 0.4
    write_volume(tmp_path / "other/images/c0.nii.gz", moved)
    with pytest.raises(UserError, match=r"c0\.nii\.gz: A volume of .* does not lie on the grid"):
        restore(cohort.root, tmp_path / "other", tmp_path / "back")


def test_a_second_run_says_so(source, tmp_path, capsys):
    cohort = prepare(source, tmp_path / "cohort", val=0, test=0.34)
    restore(cohort.root, cohort.path("labels"), tmp_path / "back")
    assert not (tmp_path / "back/images").exists()
    restore(cohort.root, cohort.path("labels"), tmp_path / "back")
    assert "restored already" in capsys.readouterr().out
