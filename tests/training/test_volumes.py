"""Structures at their true volumes."""

from functools import partial

import pytest
import torch
from torch import nn

from medldm.commands.train_autoencoder import train_autoencoder
from medldm.errors import UserError
from medldm.models.autoencoder import Autoencoder
from medldm.models.lean import LeanAutoencoder
from medldm.models.monai_autoencoder import MonaiAutoencoder
from medldm.models.quantized import QuantizedAutoencoder
from medldm.randomness import keyed
from medldm.run import load_model
from medldm.training import volumes
from medldm.training.options import Training
from medldm.training.volumes import even_volumes

LEAN = partial(LeanAutoencoder, widths=(8,))
MONAI = partial(MonaiAutoencoder, channels=(8, 8), groups=4, intensities=(0.0, 1.0))


class Plain(Autoencoder):
    """One structure, whose logit is the image; background has 0."""

    def __init__(self):
        super().__init__(1, 1, 2, 1)
        self.head = nn.Conv3d(2, 3, 1)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[1.0, 0], [0, 0], [1, 0]]).reshape(3, 2, 1, 1, 1))

    def posterior(self, x):
        return x, torch.zeros_like(x)

    def decode_raw(self, z):
        return self.head(z)

    @property
    def last_layer(self):
        return self.head


def case(*runs):
    """Voxels in rows of 10: (how many, intensity, label)."""
    image, label = (torch.cat([torch.full((run[0],), run[place]) for run in runs]).reshape(1, -1, 10, 1) for place in (1, 2))
    return image.float(), label.float()


@pytest.mark.parametrize("build", [LEAN, MONAI, partial(QuantizedAutoencoder, body=LEAN)])
@torch.no_grad()
def test_numbers_that_were_taken_from_the_logits_come_back(build):
    torch.manual_seed(0)
    model = build(2, 3).eval()
    image = torch.randn(2, 2, 16, 16, 16, generator=keyed("images"))
    x = model.join(image, torch.zeros(2, 1, 16, 16, 16))
    logits = model.reconstruct(x)[:, 2:]
    model.last_layer.weight[2:] /= logits.std((0, 2, 3, 4)).reshape(-1, 1, 1, 1, 1)
    model.last_layer.bias[2:] -= model.reconstruct(x)[:, 2:].mean((0, 2, 3, 4))  # every class is found somewhere
    before = model.reconstruct(x)
    label = before[:, 2:].argmax(1, keepdim=True).float()

    def cleared(x, label, join=model.join):  # the label map that is asked for must not be seen
        return join(x, torch.zeros_like(label))

    model.join = cleared
    model.last_layer.bias[2:] += torch.tensor([0.0, -0.4, 0.3, 0.1])
    changed = (model.reconstruct(x)[:, 2:].argmax(1, keepdim=True) != label).float().mean()
    told = even_volumes(model, list(zip(image, label, strict=True)), 0)
    after = model.reconstruct(x)
    assert "evened to 0." in told
    assert torch.equal(after[:, :2], before[:, :2])  # the image is as it was
    assert changed > 0.05 > 0.01 > (after[:, 2:].argmax(1, keepdim=True) != label).float().mean()


def test_a_thin_structure_gets_the_voxels_that_lie_below_the_border():
    model = Plain()
    told = even_volumes(model, [case((80, 0.5, 1), (20, -0.5, 1), (400, -2.0, 0))], 0)
    assert "off by at most 20.0%" in told and "evened to 0.0% and 1.000" in told
    assert model.head.bias[2].item() > 0.5 and model.head.bias[:2].tolist() == [0, 0]


def test_volumes_that_would_cost_overlap_are_left_as_they_are():
    model = Plain()
    told = even_volumes(model, [case((50, 0.5, 1), (50, -0.5, 0), (50, -2.0, 1), (400, -2.0, 0))], 0)
    assert "off by at most 50.0%, mean Dice 0.667; left as they are" in told
    assert not model.head.bias.any()


def test_what_no_argmax_can_even_is_left_and_cases_without_structures_are_told():
    model = Plain()
    assert "left as they are" in even_volumes(model, [case((60, -0.5, 1), (300, -0.5, 0))], 0)
    assert "no structure lies" in even_volumes(model, [case((60, 0.5, 0))], 0)
    assert not model.head.bias.any()


def test_very_many_voxels_are_drawn(monkeypatch):
    monkeypatch.setattr(volumes, "NUMBERS", 4000)
    generator = keyed("voxels")
    image = torch.randn(1, 40, 40, 40, generator=generator)
    label = (image + 0.5 * torch.randn(image.shape, generator=generator) > 0.8).float()
    models = [Plain(), Plain()]
    for model in models:
        even_volumes(model, [(image, label)] * 2, 0)
    assert models[0].head.bias[2] == models[1].head.bias[2] != 0
    found = float(models[0].reconstruct(models[0].join(image[None], label[None]))[:, 1:].argmax(1).float().mean())
    assert abs(found / float(label.mean()) - 1) < 0.1 < abs(float((image > 0).float().mean()) / float(label.mean()) - 1)


def test_a_training_ends_with_it_and_the_images_are_the_same(phantom_cohort, tmp_path, capsys, monkeypatch):
    train = partial(train_autoencoder, phantom_cohort.root, model=LEAN, training=Training(steps=200, batch=2))
    even = train(out=tmp_path / "even")
    said = capsys.readouterr().out
    monkeypatch.setattr("medldm.commands.train_autoencoder.even_volumes", lambda *given: "nothing")
    raw = train(out=tmp_path / "raw")
    assert said.count("volumes of structures: off by at most") == 1
    one, other = (load_model(run).state_dict() for run in (even, raw))
    changed = [name for name in one if not torch.equal(one[name], other[name])]
    assert changed == ["head.bias"] and "evened to" in said
    assert one["head.bias"][0] == other["head.bias"][0]


class Nameless(Plain):
    """Says nothing of its last layer."""

    last_layer = Autoencoder.last_layer


def test_a_model_that_names_no_last_layer_is_refused_before_the_training(phantom_cohort, tmp_path):
    with pytest.raises(UserError, match="names no last layer"):
        train_autoencoder(phantom_cohort.root, tmp_path / "out", lambda image, labels: Nameless(), training=Training(steps=1))
    assert not (tmp_path / "out").exists()
