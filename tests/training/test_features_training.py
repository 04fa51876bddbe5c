"""Self-supervised features: the parts against their equations, and what a short training on phantoms is worth."""

import math
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from medldm.cohort import Cohort
from medldm.commands.prepare import prepare
from medldm.commands.train_features import train_features
from medldm.data.phantom import write_phantoms
from medldm.errors import UserError
from medldm.files import read_json, sha256
from medldm.metrics.frechet import frechet
from medldm.models.encoder import FeatureEncoder
from medldm.models.features import load_features
from medldm.models.perceptual import Perceptual, PerceptualDistance
from medldm.randomness import keyed, seeded
from medldm.training.data import load
from medldm.training.features import FeatureTraining, Pairs, Views, blurred, info_nce, recoloured, retrieval, spread, view_pair
from medldm.training.options import Training
from medldm.training.resume import stored

CROP = (16, 16, 16)
BRIEF = Training(steps=60, batch=12, learning_rate=5e-3, other_learning_rate=5e-3, warm_up=5, validate_every=30, save_every=20)


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    root = tmp_path_factory.mktemp("heads")
    write_phantoms(root / "source", patients=30, shape=(24, 28, 24), spacing=(7.0, 7.0, 7.0))
    return prepare(root / "source", root / "cohort", val=0.1, test=0.4)


@pytest.fixture(scope="module")
def run(heads, tmp_path_factory):
    return train_features(heads.root, tmp_path_factory.mktemp("features") / "run", training=BRIEF, crop=CROP)


@pytest.fixture(scope="module")
def networks(run):
    """The trained network and one with random weights."""
    with seeded(0, "weights"):
        return load_features(run), FeatureEncoder(1).requires_grad_(False).eval()


def unit(rows, seed=0):
    return F.normalize(torch.randn(*rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1)


def test_info_nce_is_the_equation():
    a, b = unit((5, 7)), unit((5, 7), 1)
    rows, total = torch.cat([a, b]), 0.0
    for i in range(10):
        others = [math.exp(float(rows[i] @ rows[k]) / 0.3) for k in range(10) if k != i]
        total -= math.log(math.exp(float(rows[i] @ rows[(i + 5) % 10]) / 0.3) / sum(others))
    assert float(info_nce(a, b, 0.3)) == pytest.approx(total / 10)
    assert float(info_nce(a, a, 0.01)) < 1e-3 < float(info_nce(a, a.roll(1, 0), 0.01))


def test_retrieval_counts_partners_and_spread_sees_collapse():
    a = unit((8, 32))
    assert retrieval(a, a) == 1 and retrieval(a, a.roll(1, 0)) == 0
    swapped = a[[1, 0, *range(2, 8)]]
    assert retrieval(a, swapped) == pytest.approx(6 / 8)
    assert spread(unit((500, 32))) == pytest.approx(1, abs=0.05) and spread(a[:1].repeat(8, 1)) == 0


def test_a_collapse_is_a_concern():
    training = FeatureTraining(FeatureEncoder(1, widths=(8, 8)), Training(steps=2), 0, CROP, 0.1)
    assert training.concerns() == []
    for value, count in ((0.9, 0), (0.01, 1)):
        training.spread = value
        assert len(training.concerns()) == count


def test_views_overlap_and_are_decided_by_their_key():
    volume = torch.arange(40 * 20 * 16, dtype=torch.float32).reshape(1, 40, 20, 16) / (20 * 20 * 16) - 1  # about one line per place along I
    for n in range(30):
        a, b = view_pair(volume, CROP, keyed(n))
        again = view_pair(volume, CROP, keyed(n))
        assert a.shape == b.shape == (1, *CROP) and torch.equal(a, again[0]) and torch.equal(b, again[1])
        assert not torch.equal(a, b)
    starts = []
    plain = volume * 0 + torch.linspace(-0.99, 0.99, 40).reshape(1, 40, 1, 1)
    for n in range(60):
        # the order of planes survives any change of intensities, so the mean tells the place well enough
        a, b = (float(view.mean()) for view in view_pair(plain, CROP, keyed(n)))
        starts.append((a, b))
    moved = np.array(starts) / (1.98 / 39)
    assert np.ptp(moved[:, 0]) > 12 and np.abs(moved[:, 0] - moved[:, 1]).max() < 8 + 12  # half a crop, and what gain and shift add


def test_blur_is_a_gaussian():
    x = torch.zeros(1, 25, 25, 25)
    x[0, 12, 12, 12] = 1
    y = blurred(x, 1.5)[0]
    assert float(y.sum()) == pytest.approx(1, abs=1e-5)
    places = torch.arange(25.0) - 12
    for axes in ((1, 2), (0, 2), (0, 1)):
        assert float((y.sum(axes) * places**2).sum()) == pytest.approx(1.5**2, rel=0.1)
    flat = torch.full((2, 9, 9, 9), 0.3)
    assert torch.allclose(blurred(flat, 1.0), flat, atol=1e-6)


def test_an_intensity_curve_keeps_the_order():
    x = torch.linspace(-1, 1, 50)
    curves = torch.stack([recoloured(x, keyed(n)) for n in range(20)])
    assert (curves.diff(dim=1) >= 0).all() and curves.std(0).min() > 0.01 and curves.abs().max() < 1.5


def test_a_run_holds_the_encoder_and_what_it_read(run, heads, networks):
    assert {"config.yaml", "model.yaml", "model.safetensors", "provenance.json", "history.csv"} <= {p.name for p in run.iterdir()}
    assert read_json(run / "provenance.json")["reads"] == {"cohort": heads.fingerprint()}
    net = networks[0]
    assert net.name == "selfsupervised_3d" and net.sha256 == sha256(run / "model.safetensors") == Perceptual(run).fingerprint()
    assert not any(key.startswith("head") for key in net.state_dict())
    assert "val/retrieval" in (run / "history.csv").read_text()


def test_views_of_a_held_out_case_find_each_other(heads, networks):
    pairs = Pairs(heads.split("test"), CROP, 5, 64)
    a, b = next(iter(DataLoader(pairs, batch_size=64)))
    found = []
    for net in networks:
        x, y = net.vector(a), net.vector(b)
        mean = torch.cat([x, y]).mean(0)
        found.append(retrieval(x - mean, y - mean))
    chance = 1 / len(pairs)
    assert len(pairs) >= 10 and found[0] > 3 * chance and found[0] > found[1]


def test_the_distance_grows_with_damage_and_blur_is_worse_than_another_brightness(heads, networks):
    images = torch.stack([image for image, _ in load(heads.split("test"))[:6]])
    noise = torch.randn(images.shape, generator=keyed(0))

    def blurs(sigma):
        return torch.stack([blurred(image, sigma) for image in images])

    ratios = []
    for net in networks:
        distance = PerceptualDistance(net)

        def far(x, distance=distance):
            return float(distance(x, images, keyed(0)))

        for damaged in ([blurs(s) for s in (0.5, 1.0, 1.5)], [images + s * noise for s in (0.05, 0.1, 0.2)], [images.roll(n, 2) for n in (1, 2, 3)]):
            values = [far(x) for x in damaged]
            assert 0 < values[0] < values[1] < values[2]
        soft = blurs(1.0)
        lost = (soft - images).abs().mean()
        ratios.append(far(soft) / far(images + lost))
    assert ratios[0] > 3 and ratios[0] > ratios[1]


def test_the_frechet_distance_sees_blur(heads, networks):
    real, other = (torch.cat([networks[0].vector(image[None]) for image, _ in load(heads.split(name))]).numpy() for name in ("train", "test"))
    soft = torch.cat([networks[0].vector(blurred(image, 1.0)[None]) for image, _ in load(heads.split("test"))]).numpy()
    mean, std = real.mean(0), real.std(0)
    near, far = (frechet((x - mean) / std, (real - mean) / std) for x in (other, soft))
    assert far > 3 * near


def test_a_training_that_was_stopped_ends_with_the_same_bits(heads, tmp_path):
    brief = Training(steps=12, batch=4, warm_up=2, validate_every=6, save_every=4)
    small = dict(widths=(8, 16), training=brief, crop=CROP)
    whole = train_features(heads.root, tmp_path / "whole", **small)
    stopped = tmp_path / "stopped"
    shutil.copytree(whole, stopped)
    steps = stored(stopped / "checkpoints")
    assert [step for step, _ in steps] == [8, 12]
    steps[-1][1].unlink()
    for name in ("model.safetensors", "model.yaml", "provenance.json"):
        (stopped / name).unlink()
    train_features(heads.root, stopped, **small)
    assert sha256(stopped / "model.safetensors") == sha256(whole / "model.safetensors")
    assert (stopped / "history.csv").read_text() == (whole / "history.csv").read_text()


def test_what_a_step_sees_depends_on_the_step_alone(heads):
    one, other = (Views(heads.split("train"), CROP, 4, seed) for seed in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one[7, 2], one[7, 2], strict=True))
    assert not torch.equal(one[7, 2][0], one[7, 3][0]) and not torch.equal(one[7, 2][0], other[7, 2][0])


WRONG = [
    ({"training": Training(batch=1)}, "batch=1"),
    ({"temperature": 0.0}, "temperature"),
    ({"widths": (12,)}, "multiples of 8"),
    ({"crop": (99, 16, 16)}, "crop"),
]


@pytest.mark.parametrize(("settings", "word"), WRONG, ids=[word for _, word in WRONG])
def test_impossible_settings_are_refused_before_anything_is_written(settings, word, heads, tmp_path):
    with pytest.raises(UserError, match=word):
        train_features(heads.root, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_run_of_another_kind_is_no_feature_network(run, tmp_path):
    from medldm.files import write_json
    from medldm.models.lean import LeanAutoencoder
    from medldm.run import save_model

    save_model(tmp_path, LeanAutoencoder(1, 0, widths=(8,)))
    write_json(tmp_path / "provenance.json", {"outputs": {"model.safetensors": sha256(tmp_path / "model.safetensors")}})
    with pytest.raises(UserError, match=r"LeanAutoencoder, not a feature network.*train-features"):
        load_features(tmp_path)


def test_latents_are_refused(heads, tmp_path):
    from dataclasses import replace

    shutil.copytree(heads.root, tmp_path / "latents")
    replace(Cohort.load(tmp_path / "latents"), unit="latent").save()
    with pytest.raises(UserError, match="latents, not images"):
        train_features(tmp_path / "latents", tmp_path / "out")
