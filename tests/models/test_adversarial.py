"""The adversarial term against closed forms, its discriminators against what their settings say of them."""

import pytest
import torch
from torch import nn

from medldm.errors import UserError
from medldm.models.adversarial import Adversarial, balance, fooling, hinge, with_gradient


def discriminators(crop=None, **settings):
    torch.manual_seed(0)
    settings = Adversarial(**{"channels": 4, **settings})
    return settings, settings.build(1)


def test_the_losses_are_those_of_the_paper():
    real, fake = [torch.tensor([2.0, 0.5, -1.0])], [torch.tensor([-3.0, 0.0, 1.0])]
    assert hinge(real, fake) == pytest.approx((0 + 0.5 + 2) / 3 + (0 + 1 + 2) / 3)
    assert fooling(fake) == pytest.approx(2 / 3)
    assert hinge(real * 2, fake * 2) == hinge(real, fake) and fooling(fake * 3) == fooling(fake)


def test_discriminators_that_know_nothing_have_a_loss_of_two():
    assert hinge([torch.zeros(1, 1, 2, 2, 2)], [torch.zeros(1, 1, 2, 2, 2)]) == 2


@pytest.mark.parametrize(("scales", "layers"), [(1, 1), (2, 1), (1, 2), (3, 1), (1, 3)])
def test_the_smallest_crop_is_the_smallest_that_can_be_judged(scales, layers):
    settings, net = discriminators(scales=scales, layers=layers)
    edge = settings.smallest_crop
    scores, _ = net(torch.randn(1, 1, edge, edge + 3, 2 * edge))
    assert len(scores) == scales and min(scores[-1].shape[2:]) == settings.coarsest((edge, edge + 3, 2 * edge)) == 1
    assert settings.coarsest((2 * edge, 2 * edge, 2 * edge)) == min(net(torch.randn(1, 1, *[2 * edge] * 3))[0][-1].shape[2:])
    settings.check((edge, edge, edge), steps=2000)
    with pytest.raises(UserError, match=f"need {edge} along"):
        settings.check((2 * edge, edge - 1, 2 * edge), steps=2000)
    with pytest.raises(RuntimeError):
        net(torch.randn(1, 1, edge - 1, edge, edge))


@pytest.mark.parametrize(("scales", "layers"), [(1, 1), (2, 1), (1, 2)])
def test_a_score_judges_a_patch_of_the_stated_width(scales, layers):
    _, net = discriminators(scales=scales, layers=layers)
    for module in net.modules():
        if hasattr(module, "N"):
            module.N = nn.Identity()
    x = torch.randn(1, 1, 64, 8 * 2 ** (scales * layers), 8 * 2 ** (scales * layers), requires_grad=True)
    score = net(x)[0][-1]
    middle = [n // 2 for n in score.shape[2:]]
    (gradient,) = torch.autograd.grad(score[(0, 0, *middle)], x)
    touched = (gradient != 0).nonzero()[:, 2]
    assert touched.max() - touched.min() + 1 == 6 * 2 ** (scales * layers) - 2


def test_a_score_depends_on_its_own_crop_alone():
    _, net = discriminators()
    crops = torch.randn(3, 1, 16, 16, 16)
    together = net(torch.cat([crops, 5 * crops + 3]))[0]
    for scores, alone in zip(together, net(crops[:1])[0], strict=True):
        assert torch.allclose(scores[:1], alone, atol=1e-6)
    assert not list(net.buffers())


def test_the_balance_is_the_ratio_of_gradients_at_the_last_layer():
    last = nn.Parameter(torch.tensor([1.0, 2.0]))
    reconstruction, adversarial = (last * torch.tensor([3.0, 4.0])).sum(), 2 * last[0]
    assert balance(reconstruction, adversarial, last) == pytest.approx(5 / 2.0001)
    assert balance(1e9 * reconstruction, adversarial, last) == 1e4
    assert balance(reconstruction, 0 * adversarial, last) == 1e4
    assert not balance(reconstruction, adversarial, last).requires_grad


def test_a_value_with_a_gradient_acts_like_the_term_it_came_from():
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    direct = (3 * x).sin().sum()
    seen = (3 * x).detach().requires_grad_()
    value = seen.sin().sum()
    ours = with_gradient(value, torch.autograd.grad(value, seen)[0], 3 * x)
    assert ours == direct
    assert torch.allclose(torch.autograd.grad(ours, x)[0], torch.autograd.grad(direct, x)[0], rtol=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [{"weight": 0.0}, {"weight": float("nan")}, {"learning_rate": -1.0}, {"start": -1}, {"scales": 0}, {"layers": 0}, {"layers": 5}, {"channels": 6}],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Adversarial(**wrong)


def test_a_term_that_would_never_start_is_refused():
    with pytest.raises(UserError, match="start is 1000 in a training of 1000"):
        Adversarial(start=1000).check((32, 32, 32), steps=1000)
