"""Codes: the nearest is found, gradients pass, codebooks learn what they stand for and are used."""

from functools import partial

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.vq import kmeans2

from medldm.cli import arguments_of
from medldm.errors import UserError
from medldm.models import quantized
from medldm.models.lean import LeanAutoencoder
from medldm.models.monai_autoencoder import MonaiAutoencoder
from medldm.models.quantized import EPSILON, QuantizedAutoencoder
from medldm.randomness import keyed
from medldm.run import build, describe, plain

SMALL = partial(LeanAutoencoder, widths=(8,), blocks=1)


def quantizer(channels=4, **settings):
    torch.manual_seed(0)
    return QuantizedAutoencoder(1, 0, partial(SMALL, latent_channels=channels), **settings)


def latents(channels=4, size=6, batch=2, seed=0):
    return torch.randn(batch, channels, size, size, size, generator=keyed(seed))


def cells(z, groups):
    """Latents as vectors [groups cells width], written the slow way."""
    vectors = z.double().movedim(1, -1).reshape(-1, groups, z.shape[1] // groups)
    return vectors.transpose(0, 1)


def distances(z, model):
    return (cells(z, model.groups)[:, :, None] - model.codebook.double()[:, None]).pow(2).sum(3)


@given(st.sampled_from([(1, 4), (2, 2), (4, 1), (1, 1), (3, 2)]), st.integers(2, 40), st.integers(0, 10**6), st.sampled_from([0, 1000]))
@settings(max_examples=50, deadline=None)
def test_the_nearest_code_is_that_of_brute_force(shape, codes, seed, offset):
    """Whole numbers, so that float32 is exact; far from the origin too."""
    groups, width = shape
    model = quantizer(groups * width, codes=codes, groups=groups)
    generator = keyed(seed)
    model.codebook.copy_(torch.randint(-20, 20, model.codebook.shape, generator=generator) + offset)
    z = torch.randint(-20, 20, (2, groups * width, 3, 4, 2), generator=generator).float() + offset
    taken = (cells(z, groups) - cells(model.quantise(z), groups)).pow(2).sum(2)
    assert torch.equal(taken, distances(z, model).amin(2))


def test_many_cells_are_searched_in_parts(monkeypatch):
    model, z = quantizer(codes=50, groups=2), latents(size=9)
    whole = model.quantise(z)
    monkeypatch.setattr(quantized, "AT_ONCE", 1000)
    assert torch.equal(model.quantise(z), whole) and whole.flatten(2).unique(dim=2).shape[2] > 50


def test_every_cell_holds_codes_in_their_place():
    model, z = quantizer(codes=16, groups=2), latents()
    found, nearest = model.quantise(z), distances(z, model).argmin(2)
    for number, where in enumerate(np.ndindex(2, 6, 6, 6)):
        batch, i, j, k = where
        wanted = torch.cat([model.codebook[group, nearest[group, number]] for group in range(2)])
        assert torch.equal(found[batch, :, i, j, k], wanted)


def test_the_gradient_passes_as_if_nothing_had_happened():
    model, z = quantizer(codes=16, groups=2), latents().requires_grad_()
    weights = torch.randn(z.shape, generator=keyed(1))
    (gradient,) = torch.autograd.grad((model.quantise(z) * weights).sum(), z)
    assert torch.equal(gradient, weights)


def test_codes_are_found_in_float32_under_autocast():
    model, z = quantizer(codes=256), latents()
    with torch.autocast("cpu", torch.bfloat16):
        found = model.quantise(z)
    assert found.dtype == torch.float32 and torch.equal(found, model.quantise(z))


def test_what_is_decoded_does_not_change_within_the_cell_of_a_code():
    model, z, x = quantizer(codes=8).eval(), latents(), torch.rand(1, 1, 8, 8, 8)
    with torch.no_grad():
        assert torch.equal(model.decode_raw(z), model.decode_raw(model.quantise(z)))
        assert torch.equal(model.decode_raw(z), model.body.decode_raw(model.quantise(z)))
        mean, std = model.posterior(x)
        assert torch.equal(mean, model.body.posterior(x)[0]) and not std.any()


def test_codes_follow_the_moving_averages_of_the_paper():
    """The same in float64, one cell after the other; without revival."""
    model, decay = quantizer(codes=5, groups=2, decay=0.8, revive=0.0), 0.8
    model.learn_codes(latents(seed=1), keyed(1))
    assert int(model.updates) == 1
    for step in range(1, 60):
        z = latents(seed=step)
        count, total, nearest = model.count.double(), model.total.double(), distances(z, model).argmin(2)
        model.learn_codes(z, keyed(step))
        d = min(decay, (step + 1) / (step + 10))
        for group in range(2):
            members = [cells(z, 2)[group, nearest[group] == code] for code in range(5)]
            wanted_count = d * count[group] + (1 - d) * torch.tensor([float(len(m)) for m in members], dtype=torch.float64)
            wanted_total = d * total[group] + (1 - d) * torch.stack([m.sum(0) for m in members])
            smoothed = (wanted_count + EPSILON) / (wanted_count.sum() + 5 * EPSILON) * wanted_count.sum()
            assert torch.allclose(model.count[group].double(), wanted_count, rtol=1e-5)
            assert torch.allclose(model.codebook[group].double(), wanted_total / smoothed[:, None], rtol=1e-4, atol=1e-5)


def test_on_latents_that_stay_codes_become_the_centroids_of_k_means():
    model, generator = quantizer(2, codes=6), keyed(0)
    centres = torch.tensor([[-4.0, 0], [4, 0], [0, 5]])
    which = torch.randint(3, (1000,), generator=generator)
    points = centres[which] + 0.3 * torch.randn(1000, 2, generator=generator)
    z = points.T.reshape(1, 2, 10, 10, 10)
    for step in range(1500):
        model.learn_codes(z, keyed(step))
    centroids, _ = kmeans2(points.double().numpy(), model.codebook[0].double().numpy(), iter=1, minit="matrix")
    assert np.abs(centroids - model.codebook[0].double().numpy()).max() < 1e-3
    owner = torch.cdist(model.codebook[0], centres).argmin(1)
    assert set(owner.tolist()) == {0, 1, 2}


def test_the_first_batch_gives_the_codes_and_unused_ones_return():
    model, z = quantizer(codes=32, groups=2), latents()
    model.learn_codes(z, keyed(0))
    assert model.perplexity.min() > 0.6 * 32
    model.codebook[:, 4:], model.total[:, 4:] = 1e3, 1e3 * model.count[:, 4:, None]
    model.updates.fill_(1000)
    assert len(set(distances(z, model)[0].argmin(1).tolist())) == 4
    for step in range(800):
        model.learn_codes(z, keyed(step))
        used = [len(set(one.argmin(1).tolist())) for one in distances(z, model)]
        if min(used) == 32:
            break
    assert 100 < step < 799, "codes return when their use has faded, not at once"
    for step in range(100):
        model.learn_codes(z, keyed(step))
    assert model.perplexity.min() > 0.5 * 32


def test_batches_of_other_sizes_do_not_unsettle_the_codes():
    """Whole volumes that follow crops have many more cells."""
    model = quantizer(codes=16)
    for step in range(60):
        model.learn_codes(latents(size=4, seed=step), keyed(step))
    before = model.codebook.clone()
    model.learn_codes(latents(size=24, seed=99), keyed(99))
    assert (model.codebook - before).abs().max() < 1 and model.perplexity > 8


def test_more_codes_than_cells_are_no_obstacle():
    model, z = quantizer(codes=600), latents(size=3)
    for step in range(20):
        model.learn_codes(z, keyed(step))
    assert model.codebook.isfinite().all() and (model.quantise(z) - z).abs().max() < 0.5


def test_a_batch_that_is_not_finite_changes_nothing():
    model, z = quantizer(codes=8), latents()
    model.learn_codes(z, keyed(0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    z[0, 0, 0, 0, 0] = torch.nan
    model.learn_codes(z, keyed(1))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.quantise(z)[0, 0, 0, 0, 0].isnan()


def test_the_generator_alone_decides():
    books, state = [], torch.get_rng_state()
    for seed in (1, 1, 2):
        model = build(describe(quantizer(codes=8)))
        torch.set_rng_state(state)
        model.learn_codes(latents(), keyed(seed))
        books.append(model.codebook)
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(books[0], books[1]) and not torch.equal(books[0], books[2])


def test_the_file_of_a_model_holds_one_whitening_and_the_body_names_its_last_layer():
    model = quantizer(codes=8)
    assert [name for name in model.state_dict() if "latent_" in name.replace("to_latent", "").replace("from_latent", "")] == [
        "latent_mean",
        "latent_std",
    ]
    assert model.last_layer is model.body.head and model.residual_blocks() == model.body.residual_blocks() != []


def test_perplexity_and_rate():
    model = quantizer(codes=8, groups=2)
    model.count.copy_(torch.tensor([[5.0] * 8, [3.0, 3, 0, 0, 0, 0, 0, 0]]))
    assert model.perplexity.tolist() == pytest.approx([8, 2])
    assert model.bits_per_voxel == pytest.approx(2 * 3 / 8)


@pytest.mark.parametrize("body, kind", [("lean.Lean", LeanAutoencoder), ("monai_autoencoder.Monai", MonaiAutoencoder)])
def test_the_command_line_the_configuration_and_the_description_build_the_same(body, kind, tmp_path):
    options = ["--model", "medldm.models.quantized.QuantizedAutoencoder", "--model.codes", "64", "--model.groups", "2"]
    options += ["--model.body", f"medldm.models.{body}Autoencoder", "--model.body.latent_channels", "6"]
    factory = arguments_of("train-autoencoder", ["--cohort", "c", "--out", "o", *options])["model"]
    model = factory(1, 3)
    assert isinstance(model.body, kind) and (model.codes, model.groups, model.latent_channels) == (64, 2, 6)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"model": plain(factory)}))
    again = arguments_of("train-autoencoder", ["--config", str(tmp_path / "c.yaml"), "--cohort", "c", "--out", "o"])["model"]
    copy = build(describe(model))
    assert describe(again(1, 3)) == describe(copy) == describe(model)
    copy.load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"codes": 1}, "codes=1"),
        ({"codes": 1 << 40}, "to 65536 codes"),
        ({"body": QuantizedAutoencoder}, "cannot be another one"),
        ({"groups": 3}, "groups=3 and 4 latent channels"),
        ({"groups": 0}, "groups=0"),
        ({"decay": 1.0}, "decay=1.0"),
        ({"revive": 0.5}, "revive=0.5"),
        ({"body": LeanAutoencoder(2, 0, widths=(8,))}, "codes 2 contrasts"),
    ],
)
def test_impossible_settings_are_refused(wrong, named):
    with pytest.raises(UserError, match=named):
        QuantizedAutoencoder(1, 0, **{"body": SMALL, **wrong})
