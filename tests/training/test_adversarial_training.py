"""The discriminators in training: equal to two optimizers in turn, apart from the model, and apart in their failures."""

import copy
import csv
import math
from functools import partial

import pytest
import torch
from torch.utils.data import Dataset

from medldm.commands.train_autoencoder import train_autoencoder
from medldm.errors import UserError
from medldm.models.adversarial import Adversarial
from medldm.models.lean import LeanAutoencoder
from medldm.models.losses import AutoencoderLoss
from medldm.models.monai_autoencoder import MonaiAutoencoder
from medldm.randomness import keyed, seeded
from medldm.training.autoencoder import IMAGE_TERMS, AutoencoderTraining
from medldm.training.fit import fit
from medldm.training.optimizers import Muon, parameter_groups
from medldm.training.options import Training
from medldm.training.resume import latest

STEPS, START, CROP = 7, 3, (8, 12, 8)
SMALL = Adversarial(weight=0.5, start=START, channels=4, learning_rate=1e-2)
ROUNDING = 5e-5  # a hundredth of one step of AdamW, which also makes steps of gradients that are but rounding errors; mostly 3e-7
OPTIONS = Training(steps=STEPS, batch=2, warm_up=2, precision="32-true", save_every=2)


class Volumes(Dataset):
    """Item (step, slot): a smooth image and a label map of one structure, decided by the key."""

    def __getitem__(self, key):
        image = torch.rand(1, *CROP, generator=keyed("image", *key)) * 2 - 1
        return image, (image > 0).float()


class Watched(AutoencoderTraining):
    """Remembers the weights themselves, of which the training gives the average."""

    def on_train_batch_end(self, outputs, batch, batch_idx):
        super().on_train_batch_end(outputs, batch, batch_idx)
        self.weights = [p.detach().clone() for p in self.model.parameters()]
        self.moved = [*getattr(self, "moved", []), self.weights]


def autoencoder():
    with seeded(0, "weights"):
        model = LeanAutoencoder(1, 1, latent_channels=2, widths=(16,), blocks=1)
        for parameter in model.parameters():  # so that nothing starts at zero
            torch.nn.init.normal_(parameter, std=0.05)
        return model


def trained(folder, adversarial=SMALL, options=OPTIONS, change=lambda module: None):
    module = Watched(autoencoder(), AutoencoderLoss(), options, 0, CROP, adversarial=adversarial)
    change(module)
    fit(module, Volumes(), None, folder, [], lambda line: None)
    return module


def in_turn(adversarial):
    """The same training as anyone would write it: two optimizers, the autoencoder's step before the discriminators'."""
    model, options, loss = autoencoder(), OPTIONS, AutoencoderLoss()
    judge = AutoencoderTraining(model, loss, options, 0, CROP, adversarial=adversarial).adversary.network
    first = Muon(parameter_groups(model, model.matrix_parameters(), options.other_learning_rate), lr=options.learning_rate)
    second = torch.optim.AdamW(judge.parameters(), lr=adversarial.learning_rate, betas=(0.5, 0.9), weight_decay=options.weight_decay)
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in (first, second)]

    def set_rates(optimizer, peaks, step, length):
        cosine = 0.5 * (1 + math.cos(math.pi * step / length))
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * min(1.0, (step + 1) / options.warm_up) * (options.final + (1 - options.final) * cosine)

    for step in range(STEPS):
        image, label = (torch.stack(pair) for pair in zip(*(Volumes()[step, slot] for slot in range(2)), strict=True))
        mean, std = model.posterior(model.join(image, label))
        decoded = model.decode_raw(mean + std * torch.randn(mean.shape, generator=keyed(0, "posterior", step)))
        terms = loss(decoded, image, label, mean, std, step)
        total, contest = sum(terms.values()), step >= adversarial.start
        if contest:
            judge.requires_grad_(False)
            fooled = -sum(score.mean() for score in judge(decoded[:, :1])[0]) / adversarial.scales
            factor = adversarial.weight
            if adversarial.adaptive:
                others = sum(terms[name] for name in IMAGE_TERMS if name in terms)
                norms = [torch.autograd.grad(x, model.head.weight, retain_graph=True)[0].norm() for x in (others, fooled)]
                factor = factor * (norms[0] / (norms[1] + 1e-4))
            total = total + factor * fooled
        first.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
        set_rates(first, rates[0], step, STEPS)
        first.step()
        if contest:
            judge.requires_grad_(True)
            scores = judge(torch.cat([image, decoded[:, :1].detach()]))[0]  # one batch: AdamW makes a step of a gradient of rounding errors
            told = sum((1 - s[:2]).clamp(min=0).mean() + (1 + s[2:]).clamp(min=0).mean() for s in scores) / adversarial.scales
            second.zero_grad()
            told.backward()
            torch.nn.utils.clip_grad_norm_(judge.parameters(), options.clip)
            set_rates(second, rates[1], step - adversarial.start, STEPS - adversarial.start)
            second.step()
    return list(model.parameters()), list(judge.parameters())


@pytest.mark.parametrize("settings", [{}, {"adaptive": False}, {"start": 0, "scales": 1}], ids=str)
def test_it_equals_two_optimizers_in_turn(settings, tmp_path):
    adversarial = Adversarial(**{**vars(SMALL), **settings})
    module = trained(tmp_path, adversarial)
    model, judge = in_turn(adversarial)
    untouched = AutoencoderTraining(autoencoder(), AutoencoderLoss(), OPTIONS, 0, CROP, adversarial=adversarial).adversary.network
    for found, wanted, before in zip(module.adversary.network.parameters(), judge, untouched.parameters(), strict=True):
        assert torch.allclose(found, wanted, atol=ROUNDING, rtol=0)
        assert found.shape == (1,) or not torch.equal(found, before)  # one number added to all scores does not part them
    assert all(torch.allclose(a, b, atol=ROUNDING, rtol=0) for a, b in zip(module.weights, model, strict=True))


def test_before_its_start_it_does_nothing(tmp_path):
    calls = []
    module = trained(tmp_path / "with", change=lambda m: m.adversary.network.register_forward_hook(lambda *_: calls.append(m.global_step)))
    without = trained(tmp_path / "without", adversarial=None)
    assert calls == list(range(START, STEPS))
    for step, (a, b) in enumerate(zip(module.moved, without.moved, strict=True)):
        assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True)) == (step < START)


def test_it_is_in_checkpoints_but_not_in_the_model_nor_in_the_average(tmp_path):
    module = trained(tmp_path)
    step, path, _ = latest(tmp_path / "checkpoints")
    saved = torch.load(path, weights_only=True)
    assert step == 6 and not any("adversary" in key or "discriminator" in key for key in saved["state_dict"])
    assert set(saved["companions"]["discriminator"]) == set(module.adversary.network.state_dict())
    assert set(saved["state_dict"]) == {f"model.{key}" for key in module.model.state_dict()}


def poisoned(module, which, steps):
    """Let one network's gradient be NaN in these steps."""
    network = module.model if which == "model" else module.adversary.network
    parameter = list(network.parameters())[-1]
    parameter.register_hook(lambda gradient: gradient * float("nan") if module.global_step in steps else gradient)


@pytest.mark.parametrize("which", ["model", "discriminator"])
def test_a_bad_step_of_one_is_not_the_others(which, tmp_path):
    seen = []

    class Seen(Watched):
        def on_train_batch_end(self, *arguments):
            super().on_train_batch_end(*arguments)
            seen.append([[p.detach().clone() for p in net.parameters()] for net in (self.model, self.adversary.network)])

    module = Seen(autoencoder(), AutoencoderLoss(), OPTIONS, 0, CROP, adversarial=SMALL)
    poisoned(module, which, {5})
    fit(module, Volumes(), None, tmp_path, [], lambda line: None)
    still = [all(torch.equal(p, q) for p, q in zip(a, b, strict=True)) for a, b in zip(seen[4], seen[5], strict=True)]
    assert still == [which == "model", which == "discriminator"]
    assert all(torch.isfinite(p).all() for net in seen[-1] for p in net)


def test_five_bad_steps_of_the_discriminator_end_the_training_by_name(tmp_path):
    options = Training(**{**vars(OPTIONS), "steps": 12})
    with pytest.raises(UserError, match="gradient of the discriminator was not finite 5 times"):
        trained(tmp_path, options=options, change=lambda m: poisoned(m, "discriminator", set(range(4, 12))))


@pytest.mark.parametrize("build", [partial(LeanAutoencoder, widths=(8,)), partial(MonaiAutoencoder, channels=(8, 8), groups=4)])
def test_the_last_layer_makes_the_voxels(build):
    model = build(2, 1)
    x = torch.randn(1, 2, 8, 8, 8)
    before = model.decode_raw(model.posterior(model.join(x, torch.zeros(1, 1, 8, 8, 8)))[0])
    assert model.last_layer.out_channels == model.out_channels
    with torch.no_grad():
        model.last_layer.weight[0] *= 2
    changed = (model.decode_raw(model.posterior(model.join(x, torch.zeros(1, 1, 8, 8, 8)))[0]) - before).abs().amax((0, 2, 3, 4))
    assert changed[0] > 0 and (changed[1:] == 0).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="concerns CPUs")
def test_few_places_are_judged_in_float32():
    crop = (24, 40, 24)  # three halvings leave 2 x 4 x 2 places, whose bf16 weight gradients oneDNN gets wrong
    gradients = []
    for narrow in (False, True):
        module = AutoencoderTraining(autoencoder(), AutoencoderLoss(), OPTIONS, 0, crop, adversarial=Adversarial(start=0, scales=1, layers=3))
        image = torch.randn(2, 1, *crop, generator=keyed("image"))
        reconstruction = (image * module.model.last_layer.weight.mean() * 50).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            terms = module.adversary(image, reconstruction, (reconstruction - image).abs().mean(), module.model)
        terms["discriminator"].backward()
        gradients.append([p.grad for p in module.adversary.network.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(*gradients, strict=True))


def test_a_discriminator_that_wins_is_a_concern():
    module = AutoencoderTraining(autoencoder(), AutoencoderLoss(), OPTIONS, 0, CROP, adversarial=SMALL)
    for _ in range(500):
        module.adversary._watch(torch.tensor(1.0))
    module.adversary._watch(torch.tensor(float("nan")))
    assert module.concerns() == []
    for _ in range(500):
        module.adversary._watch(torch.tensor(0.01))
    assert "tells all reconstructions" in module.concerns()[0]


def test_the_command_trains_with_it_and_says_what_does_not_fit(phantom_cohort, tmp_path):
    brief = Training(steps=4, batch=2, warm_up=1)
    model = partial(LeanAutoencoder, widths=(8,))
    out = train_autoencoder(
        phantom_cohort.root, tmp_path / "run", model, training=brief, adversarial=Adversarial(start=2, channels=4), whole_from=0.8
    )
    with open(out / "history.csv", newline="") as stream:
        names = {row["name"] for row in csv.DictReader(stream)}
    assert {"train/adversarial", "train/discriminator", "train/adaptive_weight"} <= names
    for wrong, said in (
        ({"adversarial": Adversarial(start=4)}, "start is 4"),
        ({"adversarial": Adversarial(start=2, scales=5)}, "need 64"),
        ({"whole_from": 1.0}, "whole_from is 1.0"),
    ):
        with pytest.raises(UserError, match=said):
            train_autoencoder(phantom_cohort.root, tmp_path / "other", model, training=brief, **wrong)
        assert not (tmp_path / "other").exists()


class SquaredFeatures:
    """Settings of a perceptual term whose features are the voxels: twice the mean squared error."""

    weight = 2.0

    def load(self):
        return lambda reconstruction, image, generator: (reconstruction - image).square().mean()


@pytest.mark.parametrize("adversarial", [None, SMALL])
def test_a_perceptual_term_acts_like_any_other(adversarial):
    losses, gradients = [], []
    batch = [torch.stack(pair) for pair in zip(*(Volumes()[0, slot] for slot in range(2)), strict=True)]
    for loss, perceptual in ((AutoencoderLoss(squared=2.0), None), (AutoencoderLoss(), SquaredFeatures())):
        settings = adversarial and Adversarial(**{**vars(adversarial), "start": 0})
        module = AutoencoderTraining(autoencoder(), loss, OPTIONS, 0, CROP, perceptual, settings)
        losses.append(module.training_step(batch, 0))
        losses[-1].backward()
        gradients.append([p.grad for p in module.model.parameters()])
        name = "train/perceptual" if perceptual else "train/squared"
        assert float(module.record[name]) > 0
    assert torch.allclose(*losses)
    assert all((a - b).abs().max() <= 1e-4 * a.abs().max() for a, b in zip(*gradients, strict=True))


def test_networks_that_are_asked_are_neither_copied_nor_saved_with_the_model():
    module = AutoencoderTraining(autoencoder(), AutoencoderLoss(), OPTIONS, 0, CROP, SquaredFeatures(), SMALL)
    twin = copy.deepcopy(module)  # as the weight average makes one
    assert twin.perceptual is module.perceptual and twin.adversary is module.adversary and twin.model is not module.model
    assert all(key.startswith("model.") for key in module.state_dict())
