"""The search finds settings whose optimum is known, and every method that is offered can be searched."""

import math
from dataclasses import dataclass

import pytest
import torch

from medldm.errors import UserError
from medldm.operators.acquisitions import AcceleratedMRI, SparseCT, ThickSlices
from medldm.operators.classical import Classical
from medldm.operators.masks import VariableDensity
from medldm.operators.tuning import MOST, candidates, mean_squared_error, scaled, tune
from medldm.operators.voxelwise import Identity
from medldm.randomness import keyed

SHAPE = (16, 18, 12)


@dataclass(frozen=True)
class Scaled(Classical):
    """weight^offset_power y."""

    weight: float = 1.0
    offset: float = 1.0
    count: int = 3

    def __call__(self, operator, y):
        return self.weight * y + self.offset


@dataclass(frozen=True)
class Around(Classical):
    method: Classical

    def __call__(self, operator, y):
        return self.method(operator, y)


def known(weight=20.0, offset=0.1):
    y = torch.randn(1, 1, *SHAPE, generator=keyed("y"))
    return [(Identity(), y, weight * y + offset)]


def test_both_settings_are_found_to_the_root_of_their_factor():
    best, error = tune(Scaled(), {"weight": 3.0, "offset": 4.0}, known())
    assert abs(math.log(best.weight / 20)) <= math.log(3) / 2 and abs(math.log(best.offset / 0.1)) <= math.log(4)
    assert error == mean_squared_error(best, known()) < mean_squared_error(Scaled(), known())


def test_settings_of_a_method_inside_are_searched():
    best, _ = tune(Around(Scaled(offset=0.1)), {"method.weight": 2.0}, known())
    assert abs(math.log(best.method.weight / 20)) <= math.log(2) / 2


def test_whole_numbers_stay_whole_and_move():
    assert (
        scaled(Scaled(), "count", 1.3).count == 4 and scaled(Scaled(), "count", 0.9).count == 2 and scaled(Scaled(count=1), "count", 0.5).count == 1
    )
    assert scaled(Scaled(count=900), "count", 2.0).count == MOST == scaled(Scaled(count=MOST), "count", 2.0).count, "or more would always help"


def test_the_search_ends_where_there_is_no_noise():
    x = torch.rand(1, 1, 8, 9, 2, generator=keyed("x"))
    operator, y = SparseCT(0.0, views=6).measure(x, (1.0, 1.0, 1.0), 0)
    method, factors = candidates(SparseCT(0.0), (1.0, 1.0, 1.0))["sirt"]
    best, error = tune(method, factors, [(operator, y, x)])
    assert best.method.iterations <= MOST and error < mean_squared_error(method, [(operator, y, x)])


def test_without_cases_nothing_can_be_tuned():
    with pytest.raises(UserError, match="at least one"):
        tune(Scaled(), {"weight": 2.0}, [])


@pytest.mark.parametrize(
    "acquisition",
    [AcceleratedMRI(mask=VariableDensity(3, 2, hermitian=True)), SparseCT(views=12), SparseCT(views=9, degrees=120.0), ThickSlices()],
    ids=str,
)
def test_every_candidate_can_be_searched_and_does_not_get_worse(acquisition):
    x = torch.nn.functional.avg_pool3d(torch.rand(1, 1, 20, 22, 16, generator=keyed("x")), 5, 1)
    operator = acquisition.operator(x.shape[2:], (1.0, 1.0, 1.0), 0)
    cases = [(operator, acquisition.simulate(operator, x, 0), x)]
    found = candidates(acquisition, (1.0, 1.0, 1.0))
    assert ("fbp" in found) == (isinstance(acquisition, SparseCT) and acquisition.degrees == 180)
    assert ("spline" in found) == isinstance(acquisition, ThickSlices)
    for method, factors in found.values():
        for setting, factor in factors.items():
            assert scaled(method, setting, factor) != method
        assert math.isfinite(mean_squared_error(method, cases))
