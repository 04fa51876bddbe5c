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


def test_errors_that_grow_with_the_image_are_found():
    """Large where the image is bright: no sum of variances says that."""

    def bright(n):
        truth, _, estimates, cleaned = case(n)
        truth = truth.sign() * 0.5
        found = truth + torch.where(truth > 0, 0.2, 0.02) * torch.randn(truth.shape, generator=keyed(n, "bright"))
        return truth, found, found + 0.0 * estimates, found + 0.0 * cleaned

    model = ErrorModel.fit([bright(n) for n in range(4)])
    truth, *known = bright(9)
    std = model(*known)
    assert float(std[truth > 0].mean()) > 3 * float(std[truth < 0].mean())


def test_what_was_never_seen_gives_no_absurd_size():
    model = ErrorModel.fit([case(n) for n in range(4)])
    _, found, estimates, cleaned = case(9)
    std = model(1e4 * found, -1e4 * estimates, 1e4 * cleaned)
    assert std.isfinite().all() and float(std.max()) < 100


def test_the_same_cases_give_the_same_model():
    _, *known = case(9)
    assert torch.equal(*(ErrorModel.fit([case(n) for n in range(2)])(*known) for _ in range(2)))


def test_features_of_a_scaled_image_move_by_the_logarithm():
    once, twice = (features(*(scale * part for part in case(0)[1:])) for scale in (100, 200))
    assert once.shape == (14, 1, *SHAPE) and once.isfinite().all()
    assert torch.allclose((twice - once)[:8], torch.tensor(4.0).log(), atol=0.01)
    assert torch.equal(twice[10], 2 * once[10]) and torch.equal(twice[11:], once[11:])
    assert torch.equal(once[11, 0, 0], torch.ones(SHAPE[1:])) and float(once[11, 0, 9].max()) < 0.05


def test_without_cases_nothing_is_known_of_errors():
    with pytest.raises(UserError, match="at least one"):
        ErrorModel.fit([])
