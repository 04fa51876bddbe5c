"""From settings to operators: sizes, noise, what counts as measured."""

import math

import pytest
import torch

from medldm.errors import UserError
from medldm.operators.acquisitions import AcceleratedMRI, Blurred, LargeVoxels, MissingBlock, Noisy, SparseCT, ThickSlices, ring_of_coils
from medldm.operators.base import dot_error
from medldm.operators.masks import PoissonDisc
from medldm.randomness import keyed

SHAPE, SPACING = (21, 24, 17), (0.8, 1.0, 2.5)
ALL = {
    "mri": AcceleratedMRI(),
    "eight coils": AcceleratedMRI(mask=PoissonDisc(acceleration=6), coils=8),
    "ct": SparseCT(),
    "arc": SparseCT(views=20, degrees=120),
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
        lambda: ring_of_coils(SHAPE, 0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(UserError):
        make()
