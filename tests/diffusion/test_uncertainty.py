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
    return truth, found, estimates


def test_intervals_cover_and_say_where_errors_are_large():
    model = ErrorModel.fit([case(n) for n in range(4)])
    for truth, found, estimates in (case(n) for n in range(10, 14)):
        std, error = model(found, estimates), (found - truth).abs()
        assert 0.87 < float((error < 1.645 * std).float().mean()) < 0.93
        assert float(torch.corrcoef(torch.stack([error.flatten(), std.flatten()]))[0, 1]) > 0.4
        assert std.shape == found.shape and (std > 0).all()


def test_errors_that_are_alike_everywhere_get_one_size():
    def flat(n):
        truth, _, estimates = case(n)
        return truth, truth + 0.1 * torch.randn(truth.shape, generator=keyed(n, "flat")), estimates

    model = ErrorModel.fit([flat(n) for n in range(4)])
    _, found, estimates = flat(9)
    assert torch.allclose(model(found, estimates).mean(), torch.tensor(0.1), rtol=0.1)


def test_features_are_variances():
    _, found, estimates = case(0)
    assert features(found, estimates).shape == (5, 1, *SHAPE) and (features(found, estimates) >= 0).all()
    assert torch.allclose(features(2 * found, 2 * estimates)[1:], 4 * features(found, estimates)[1:], rtol=1e-3, atol=1e-4)


def test_without_cases_nothing_is_known_of_errors():
    with pytest.raises(UserError, match="at least one"):
        ErrorModel.fit([])
