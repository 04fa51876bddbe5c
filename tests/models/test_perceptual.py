"""The perceptual distance against its equation, and what may and may not change it."""

import pytest
import torch
from torch import nn

from medldm.errors import UserError
from medldm.models.encoder import FeatureEncoder
from medldm.models.feature_net import FeatureNet
from medldm.models.perceptual import Perceptual, PerceptualDistance
from medldm.randomness import keyed, seeded


@pytest.fixture
def encoder():
    with seeded(3, "weights"):
        return FeatureEncoder(1, widths=(8, 16, 16)).requires_grad_(False).eval()


@pytest.fixture
def pair():
    a, b = torch.rand(2, 2, 1, 16, 20, 18, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return a, b


class Slices(FeatureNet):
    """Two maps of slices; remembers what it saw."""

    def __init__(self):
        super().__init__("slices", 2, 1)
        self.conv, self.seen = nn.Conv2d(1, 4, 3, bias=False), []

    def levels(self, x):
        self.seen.append(x)
        return [self.conv(x), x]


def test_it_is_the_equation(encoder, pair):
    total = []
    for x, y in zip(encoder.maps(pair[0]), encoder.maps(pair[1]), strict=True):
        for case in range(2):
            for place in torch.cartesian_prod(*(torch.arange(n) for n in x.shape[2:])).tolist():
                u, v = (f[(case, slice(None), *place)].double() for f in (x, y))
                total.append((float(((u / u.norm() - v / v.norm()) ** 2).sum()), x[0, 0].numel()))
    wanted = sum(value / count / 2 for value, count in total) / 4
    assert float(PerceptualDistance(encoder)(*pair, keyed(0))) == pytest.approx(wanted, rel=1e-3)


def test_it_is_zero_for_equal_and_at_most_four_and_symmetric(encoder, pair):
    distance = PerceptualDistance(encoder)
    assert float(distance(pair[0], pair[0], keyed(0))) == 0
    assert 0 < float(distance(*pair, keyed(0))) <= 4
    assert float(distance(*pair, keyed(0))) == pytest.approx(float(distance(*pair[::-1], keyed(0))), rel=1e-5)


def test_gradients_reach_the_reconstruction_alone(encoder, pair):
    a, b = (x.clone().requires_grad_() for x in pair)
    distance = PerceptualDistance(encoder)
    distance(a, b, keyed(0)).backward()
    assert a.grad.abs().sum() > 0 and b.grad is None and all(p.grad is None for p in encoder.parameters())
    direction = torch.randn(a.shape, generator=torch.Generator().manual_seed(5))
    step = 1e-2
    with torch.no_grad():
        slope = (distance(a + step * direction, b, keyed(0)) - distance(a - step * direction, b, keyed(0))) / (2 * step)
    assert float((a.grad * direction).sum()) == pytest.approx(float(slope), rel=0.05)


def test_the_gradient_at_equal_volumes_is_finite(encoder, pair):
    a = torch.full_like(pair[0], -1.0).requires_grad_()
    PerceptualDistance(encoder)(a, a.detach(), keyed(0)).backward()
    assert torch.isfinite(a.grad).all()


def test_autocast_changes_nothing(encoder, pair):
    distance = PerceptualDistance(encoder)
    plain = distance(*pair, keyed(0))
    with torch.autocast("cpu", torch.bfloat16):
        inside = distance(*pair, keyed(0))
    assert inside.dtype == torch.float32 and torch.equal(inside, plain)


def test_random_slices_of_each_orientation_are_compared(pair):
    net = Slices()
    value = PerceptualDistance(net, slices=3)(*pair, keyed(1))
    assert [tuple(x.shape) for x in net.seen[::2]] == [(6, 1, 20, 18), (6, 1, 16, 18), (6, 1, 16, 20)]
    for axis, seen in zip((2, 3, 4), net.seen[::2], strict=True):  # the image's, then the reconstruction's
        of_first = [any(torch.equal(s[0], whole) for whole in pair[1][0, 0].unbind(axis - 2)) for s in seen]
        assert of_first == [True] * 3 + [False] * 3
    again, other = (PerceptualDistance(net, slices=3)(*pair, keyed(n)) for n in (1, 2))
    assert torch.equal(value, again) and not torch.equal(value, other)


def test_the_image_decides_how_both_are_standardised(pair):
    class Standardised(FeatureEncoder):
        def prepare(self, x, like):
            return (x - like.mean()) / like.std()

    net = Standardised(1, widths=(8, 16)).requires_grad_(False)
    image = pair[1]
    assert float(PerceptualDistance(net)(image * 0.5 + 0.2, image, keyed(0))) > 1e-3


def test_contrasts_that_do_not_fit_are_refused(pair):
    with pytest.raises(UserError, match="reads 2 contrasts"):
        PerceptualDistance(FeatureEncoder(2, widths=(8, 8)))(pair[0], pair[1], keyed(0))


@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"weight": float("nan")}, {"slices": 0}])
def test_impossible_settings_are_refused(wrong, tmp_path):
    with pytest.raises(UserError, match=f"perceptual.{next(iter(wrong))}"):
        Perceptual(tmp_path, **wrong)


def test_a_network_that_is_not_there_is_asked_for(tmp_path):
    with pytest.raises(UserError, match=r"train-features.*MedicalNet"):
        Perceptual(tmp_path / "resnet_10.pth").load()
    with pytest.raises(UserError, match=r"train-features.*MedicalNet"):
        Perceptual(tmp_path / "resnet_10.pth").fingerprint()
