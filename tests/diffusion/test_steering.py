import pytest
import torch

from medldm.diffusion.steering import Steering
from medldm.errors import UserError

A = torch.randn(2, 24, generator=torch.Generator().manual_seed(0))


def linear(z):
    return A @ z.flatten()


def steered(wanted, t=0.5, **settings):
    x_0 = torch.randn(3, 1, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    denoise = Steering(**settings).inform(lambda x, t: x, [linear] * 3, wanted)
    return x_0, denoise(x_0, torch.full((3,), t, dtype=torch.float64))


def test_a_linear_measurement_is_met_by_the_smallest_move():
    wanted = torch.tensor([[1.0, -2.0]] * 3)
    x_0, moved = steered(wanted, damping=1e-8, largest=10.0)
    assert torch.allclose(torch.stack([linear(z) for z in moved]), wanted, atol=1e-4)
    smallest = torch.linalg.pinv(A) @ (wanted[0] - linear(x_0[0]))
    assert torch.allclose((moved - x_0)[0].flatten(), smallest, atol=1e-4)


def test_nothing_moves_outside_its_times_or_where_nothing_is_asked():
    wanted = torch.tensor([[1.0, -2.0]] * 3)
    for t in (0.05, 0.9):
        x_0, same = steered(wanted, t)
        assert torch.equal(x_0, same)
    x_0, same = steered(torch.full((3, 2), torch.nan))
    assert torch.equal(x_0, same)


def test_a_missing_wish_leaves_the_other_alone():
    x_0, moved = steered(torch.tensor([[torch.nan, 4.0]] * 3), damping=1e-8, largest=10.0)
    assert linear(moved[1])[1] == pytest.approx(4.0, abs=1e-4)
    assert torch.linalg.matrix_rank((moved - x_0).flatten(1)) == 1


def test_no_move_is_longer_than_allowed():
    x_0, moved = steered(torch.tensor([[1e4, -1e4]] * 3), largest=0.02)
    lengths = (moved - x_0).flatten(1).norm(dim=1) / x_0.flatten(1).norm(dim=1)
    assert torch.allclose(lengths, torch.full((3,), 0.02), rtol=1e-4)


def test_wrong_times_are_refused():
    with pytest.raises(UserError, match=r"low=0\.5"):
        Steering(low=0.5, high=0.5)
