import copy

import pytest
import torch
from torch import nn

from medldm.training.optimizers import Muon, orthogonalise, parameter_groups


@pytest.mark.parametrize("shape", [(8, 8), (16, 40), (40, 16)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    u, s, v = torch.linalg.svd(torch.randn(*shape, generator=torch.Generator().manual_seed(0)), full_matrices=False)
    result = orthogonalise(u @ torch.diag(s) @ v)
    inner = u.T @ result @ v.T
    assert torch.allclose(inner, torch.diag(inner.diagonal()), atol=1e-3)
    assert inner.diagonal().min() > 0.6 and inner.diagonal().max() < 1.3


def test_other_groups_are_updated_as_adamw_does():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(4, 4), nn.Linear(4, 4)
    theirs.load_state_dict(ours.state_dict())
    a = Muon([{"params": list(ours.parameters())}], lr=1e-2)
    b = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=1e-4, betas=(0.9, 0.95), fused=True)
    for step in range(3):
        for model, optimizer in ((ours, a), (theirs, b)):
            optimizer.zero_grad()
            model(torch.full((2, 4), float(step + 1))).pow(2).sum().backward()
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))


def conv():
    torch.manual_seed(0)
    model = nn.Conv3d(4, 8, 3)
    return model, Muon(parameter_groups(model, [model.weight], rest_lr=0.5), lr=0.1, weight_decay=0.0)


def test_a_matrix_moves_by_an_orthogonal_step_of_known_size():
    model, optimizer = conv()
    before = model.weight.detach().clone()
    model(torch.randn(1, 4, 5, 5, 5)).pow(2).sum().backward()
    optimizer.step()
    step = (model.weight.detach() - before).flatten(1) / (0.1 * 0.2 * 108**0.5)
    assert ((torch.linalg.svdvals(step) - 1).abs() < 0.4).all()
    assert optimizer.param_groups[1]["lr"] == 0.5


def test_without_gradients_nothing_moves():
    model, optimizer = conv()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))


def test_its_state_survives_saving():
    model, optimizer = conv()
    batch = torch.randn(1, 4, 5, 5, 5)
    model(batch).pow(2).sum().backward()
    optimizer.step()
    twin, other = conv()
    twin.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for m, o in ((model, optimizer), (twin, other)):
        o.zero_grad()
        m(batch).pow(2).sum().backward()
        o.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))
