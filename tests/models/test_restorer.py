"""The restorer: what it is before training, what it is trained towards, and that it learns detail from a guide."""

import pytest
import torch

from medldm.errors import UserError
from medldm.models.restorer import Restorer
from medldm.randomness import keyed, seeded
from medldm.training.restorer import GuidedCrops


def images(count=2, shape=(7, 8, 10), seed=0):
    clean = torch.rand(count, 1, *shape, generator=keyed("clean", seed)) * 2 - 1
    guide = clean + 0.2 * torch.randn(clean.shape, generator=keyed("guide", seed))
    return clean, guide


def model(**settings):
    with seeded(0, "restorer"):
        return Restorer(1, residual=0.2, width=16, blocks=2, **settings)


def test_without_training_it_is_the_best_linear_estimate_around_the_guide():
    clean, guide = images()
    sigma = torch.tensor([0.1, 0.4])
    noisy = clean + sigma.reshape(-1, 1, 1, 1, 1)
    gain = (0.04 / (0.04 + sigma.square())).reshape(-1, 1, 1, 1, 1)
    assert torch.allclose(model()(noisy, sigma, guide), guide + gain * (noisy - guide), atol=1e-6)


def test_a_network_that_meets_its_target_gives_the_clean_image(monkeypatch):
    clean, guide = images()
    sigma = torch.tensor([0.05, 0.3])
    noisy = clean + sigma.reshape(-1, 1, 1, 1, 1) * torch.randn(clean.shape, generator=keyed("n"))
    net = model()
    target = net.target(clean, noisy, sigma, guide)
    assert 0.5 < float(target.std()) < 1.5
    monkeypatch.setattr(net, "network", lambda *_: target)
    assert torch.allclose(net(noisy, sigma, guide), clean, atol=1e-5)


def test_images_of_a_batch_do_not_meet():
    clean, guide = images()
    net = model()
    torch.nn.init.normal_(net.head.weight, generator=keyed("head"))
    sigma = torch.tensor([0.1, 0.3])
    both = net(clean, sigma, guide)
    assert torch.allclose(both[1:], net(clean[1:], sigma[1:], guide[1:]), atol=1e-5)
    assert not torch.allclose(both[:1], net(clean[:1], sigma[1:], guide[:1]), atol=1e-3), "the noise level matters"


def test_settings_out_of_range_are_refused():
    for wrong in ({"residual": 0.0}, {"width": 0}, {"blocks": 0}):
        with pytest.raises(UserError):
            Restorer(1, **wrong)


def test_crops_are_of_the_same_place_in_image_and_guide():
    cases = []
    for number in range(3):
        image = torch.arange(9 * 9 * 9.0).reshape(1, 9, 9, 9) + 1000 * number
        cases.append((image, torch.stack([image + 0.25, image + 0.5])))
    crops = GuidedCrops(cases, (4, 5, 6), 2, seed=1)
    pairs = [crops[step, slot] for step in range(6) for slot in range(2)]
    assert all(image.shape == (1, 4, 5, 6) and (guide - image).unique().numel() == 1 for image, guide in pairs)
    assert {float((guide - image)[0, 0, 0, 0]) for image, guide in pairs} == {0.25, 0.5}
    assert torch.equal(crops[3, 1][0], GuidedCrops(cases, (4, 5, 6), 2, seed=1)[3, 1][0])
