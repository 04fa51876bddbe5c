"""Errors that are as large as the estimates' disagreement: the model finds them, covers them, and says where they are."""

import pytest
import torch

from medldm.diffusion.posteriors.uncertainty import ErrorModel, features
from medldm.errors import UserError
from medldm.randomness import keyed

SHAPE = (18, 22, 20)


def case(number):
    """Truth, a reconstruction off by a size that varies from place to place, and two estimates that disagree where it is large."""
    generator = keyed("case", number)
    size = 0.02 + 0.3 * torch.linspace(0, 1, SHAPE[1])[None, None, :, None].expand(1, *SHAPE) ** 2
    truth = torch.randn((1, *SHAPE), generator=generator) * 0.1
    found = truth + size * torch.randn((1, *SHAPE), generator=generator)
    estimates = found + size * torch.randn((2, 1, *SHAPE), generator=generator)
    return truth, found, estimates, found[None] + 0.01


def test_intervals_cover_and_say_where_errors_are_large():
    model = ErrorModel.fit([case(n) for n in range(4)])
    for truth, *known in (case(n) for n in range(10, 14)):
        found = known[0]
        std, error = model(*known), (found - truth).abs()
        assert 0.87 < float((error < 1.645 * std).float().mean()) < 0.93
        assert float(torch.corrcoef(torch.stack([error.flatten(), std.flatten()]))[0, 1]) > 0.4
        assert std.shape == found.shape and (std > 0).all()


def test_errors_that_are_alike_everywhere_get_one_size():
    def flat(n):
        truth, _, *known = case(n)
        return truth, truth + 0.1 * torch.randn(truth.shape, generator=keyed(n, "flat")), *known

    model = ErrorModel.fit([flat(n) for n in range(4)])
    _, *known = flat(9)
    assert torch.allclose(model(*known).mean(), torch.tensor(0.1), rtol=0.1)


def test_features_are_variances_but_for_borders():
    _, found, estimates, cleaned = case(0)
    once, twice = features(found, estimates, cleaned), features(2 * found, 2 * estimates, 2 * cleaned)
    assert once.shape == (10, 1, *SHAPE) and (once >= 0).all()
    assert torch.allclose(twice[1:7], 4 * once[1:7], rtol=1e-3, atol=1e-4) and torch.equal(twice[7:], once[7:])
    assert torch.equal(once[7, 0, 0], torch.ones(SHAPE[1:])) and float(once[7, 0, 9].max()) < 0.05


def test_without_cases_nothing_is_known_of_errors():
    with pytest.raises(UserError, match="at least one"):
        ErrorModel.fit([])
