"""From settings to operators: sizes, noise, what counts as measured."""

import math

import numpy as np
import pytest
import torch

from medldm.errors import UserError
from medldm.operators.acquisitions import (
    AcceleratedMRI,
    Blurred,
    LargeVoxels,
    MissingBlock,
    Noisy,
    SparseCT,
    ThickSlices,
    ring_of_coils,
    sensitivities,
)
from medldm.operators.base import dot_error
from medldm.operators.ct import FanCT
from medldm.operators.masks import PoissonDisc
from medldm.operators.scanners import ConeBeamCT, FanBeamCT, LowDoseCT, RadialMRI
from medldm.randomness import keyed

SHAPE, SPACING = (21, 24, 17), (0.8, 1.0, 2.5)
ALL = {
    "mri": AcceleratedMRI(),
    "eight coils": AcceleratedMRI(mask=PoissonDisc(acceleration=6), coils=8),
    "ct": SparseCT(),
    "arc": SparseCT(views=20, degrees=120),
    "stack of stars": RadialMRI(),
    "stars and coils": RadialMRI(spokes=8, coils=4),
    "fan": FanBeamCT(views=20),
    "cone": ConeBeamCT(views=9),
    "slices": ThickSlices(),
    "large voxels": LargeVoxels(),
    "blurred": Blurred(),
    "missing": MissingBlock(),
    "noisy": Noisy(),
}


@pytest.mark.parametrize("name", ALL)
def test_noise_is_as_large_as_it_says_and_only_where_something_is_measured(name):
    acquisition = ALL[name]
    operator = acquisition.operator(SHAPE, SPACING, 0)
    x = torch.rand(2, 1, *SHAPE, generator=keyed("x"), dtype=torch.float64) * 2 - 1
    y, clean = acquisition.simulate(operator, x, 0), operator(x)
    assert y.dtype == clean.dtype and torch.equal(y, acquisition.simulate(operator, x, 0))
    where = acquisition.where(operator, y).bool()
    parts = torch.view_as_real(y - clean) if y.is_complex() else y - clean
    assert float(parts[where].std()) == pytest.approx(acquisition.noise, rel=0.05) and not parts[~where].any()
    assert int(where[0].sum()) * (2 if y.is_complex() else 1) == operator.count(y)
    back = torch.randn(y.shape, dtype=y.dtype, generator=keyed("y"))
    assert dot_error(operator, x, back) < 1e-10


@pytest.mark.parametrize("name", ALL)
def test_another_key_is_another_draw(name):
    acquisition, x = ALL[name], torch.rand(1, 1, *SHAPE, generator=keyed("x"))
    one, two = (acquisition.simulate(acquisition.operator(SHAPE, SPACING, key), x, key) for key in (0, 1))
    assert not torch.equal(one, two)


@pytest.fixture(autouse=True)
def needed(request):
    """Skip what needs a package that is absent."""
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name", "")
    if name in ("stack of stars", "stars and coils"):
        pytest.importorskip("torchkbnufft", reason="torchkbnufft is not installed")
    if name == "cone":
        pytest.importorskip("itk", reason="itk-rtk is not installed")


def test_few_photons_leave_noise_that_weights_make_alike():
    """Weighted residuals of every ray have the standard deviation that is said, through air as well as through the densest tissue."""
    acquisition, shape = LowDoseCT(views=40, photons=2e3), (24, 24, 5)
    x = torch.full((1, 1, *shape), -1.0, dtype=torch.float64)
    x[..., 6:18, 6:18, :] = 1
    operator, y = acquisition.measure(x, SPACING, 0)
    residual = (y - operator(x)) / acquisition.noise
    through = acquisition.operator(shape, SPACING)(x + 1) > 0.2
    assert float(residual[through].std()) == pytest.approx(1, abs=0.05) and float(residual[~through].std()) == pytest.approx(1, abs=0.05)
    weight = operator.outer.weight[0]
    assert abs(float(residual.mean())) < 0.1 and float(weight[through[0, 0]].mean()) < 0.8 * float(weight[~through[0, 0]].mean())
    assert dot_error(operator, torch.randn(1, 1, *shape, dtype=torch.float64), torch.randn(y.shape, dtype=torch.float64)) < 1e-10
    sharper = LowDoseCT(views=40, photons=2e5).measure(x, SPACING, 0)[0]
    assert float(sharper.outer.weight.mean()) == pytest.approx(10 * float(operator.outer.weight.mean()), rel=0.05)


def test_detectors_see_the_whole_image():
    """A larger detector sees no more."""
    acquisition = FanBeamCT(views=8)
    operator = acquisition.operator(SHAPE, SPACING)
    ones = torch.ones(1, 1, *SHAPE, dtype=torch.float64)
    larger = FanCT(SHAPE, acquisition.angles, acquisition.source, acquisition.detector, operator.spacing, operator.bins + 20)
    assert torch.allclose(operator(ones), larger(ones)[:, :, :, 10:-10]) and not larger(ones)[:, :, :, :9].any()


def test_the_detector_of_a_cone_sees_the_whole_image():
    pytest.importorskip("itk", reason="itk-rtk is not installed")
    shadow = ConeBeamCT(views=8).operator(SHAPE, SPACING)(torch.ones(1, 1, *SHAPE, dtype=torch.float64))[0, 0]
    assert (shadow.flatten(1).amax(1) > 0).all()
    for axis in (1, 2):
        assert not shadow.select(axis, 0).any() and not shadow.select(axis, -1).any()


def test_measured_coil_maps_are_stretched_and_normalised(tmp_path):
    maps = ring_of_coils((12, 10, 1), 5) * 3
    np.save(tmp_path / "maps.npy", maps.numpy())
    found = sensitivities(SHAPE, 1, str(tmp_path / "maps.npy"))
    assert found.shape == (5, *SHAPE) and torch.allclose(found.abs().square().sum(0), torch.ones(SHAPE), atol=1e-5)
    assert torch.allclose(found[:, 0, 0, 0], maps[:, 0, 0, 0] / 3, atol=1e-5), "corners stay corners"
    assert AcceleratedMRI(maps=str(tmp_path / "maps.npy")).operator(SHAPE, SPACING, 0).outer.coils.shape == (5, *SHAPE)
    np.save(tmp_path / "real.npy", maps.abs().numpy())
    for name in ("real.npy", "absent.npy"):
        with pytest.raises(UserError, match=name):
            sensitivities(SHAPE, 1, str(tmp_path / name))


def test_shares_masks_and_coils():
    known = MissingBlock(share=0.25).operator((40, 40, 40), SPACING).mask
    assert 1 - float(known.float().mean()) == pytest.approx(0.25, abs=0.02)
    acquisition = ALL["mri"]
    mask = acquisition.measured(acquisition.operator(SHAPE, SPACING, 3))
    assert math.prod(SHAPE) / int(mask.sum()) == pytest.approx(4, rel=0.05) and ALL["slices"].measured(None) is None
    maps = ring_of_coils(SHAPE, 8)
    assert torch.allclose(maps.abs().square().sum(0), torch.ones(SHAPE), atol=1e-5)
    assert float(maps[0].abs()[-1, 12].mean()) > 2 * float(maps[0].abs()[0, 12].mean()), "the first coil lies at the end of I"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Noisy(noise=-1),
        lambda: SparseCT(views=0),
        lambda: SparseCT(degrees=400),
        lambda: MissingBlock(share=1),
        lambda: LowDoseCT(noise=0.0),
        lambda: RadialMRI(spokes=0).operator(SHAPE, SPACING),
        lambda: FanBeamCT(source=0.4).operator(SHAPE, SPACING),
        lambda: ring_of_coils(SHAPE, 0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(UserError):
        make()
