"""Faces that a model draws: what is outside of the region stays, and nothing inside depends on what was there."""

import numpy as np
import pytest
import torch

from medldm.diffusion.denoiser import Denoiser
from medldm.diffusion.model import LatentDiffusion
from medldm.diffusion.population import Population
from medldm.diffusion.process import Flow
from medldm.errors import UserError
from medldm.models.lean import LeanAutoencoder
from medldm.models.nets import UNet
from medldm.privacy.reface import Drawing, _adjoined, refaced
from medldm.randomness import keyed, seeded
from medldm.volume import Volume

GRID, BRIEF = (4, 4, 4), Drawing(steps=2)


@pytest.fixture(scope="module")
def model():
    """Random weights: what it draws looks like nothing, and follows the rules all the same."""
    with seeded(0, "weights"):
        autoencoder = LeanAutoencoder(1, 2, widths=(4, 8), blocks=1)
        denoiser = Denoiser(UNet(autoencoder.latent_channels, (16, 32), width=16), Flow(), {})
        for parameter in denoiser.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    names = ("extent_i", "extent_j", "extent_k")
    population = Population.fit([dict.fromkeys(names, 4.0) for _ in range(3)], keyed(0))
    return LatentDiffusion(autoencoder, denoiser, population, GRID, (2.0,) * 3, {1: "a", 2: "b"}, {}).eval()


@pytest.fixture(scope="module")
def head():
    """An image of 16 x 14 x 16 voxels, of which the front lower corner is the face."""
    image = torch.rand(1, 16, 14, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = np.zeros(image.shape[1:], bool)
    mask[3:13, 8:, :8] = True
    return Volume(image, np.diag([2.0, 2.0, 2.0, 1.0])), mask


def test_voxels_outside_of_the_face_keep_their_bits(model, head):
    volume, mask = head
    drawn = refaced(volume, mask, model, 0, how=BRIEF)
    assert np.array_equal(drawn.data[0].numpy()[~mask], volume.data[0].numpy()[~mask])
    inside = drawn.data[0].numpy()[mask]
    assert np.isfinite(inside).all() and np.abs(inside).max() <= 1 and inside.std() > 0
    assert np.array_equal(drawn.affine, volume.affine)


def test_nothing_of_the_face_that_was_there_is_left(model, head):
    volume, mask = head
    other = volume.data.clone()
    other[0][torch.from_numpy(mask)] = torch.rand(int(mask.sum()), generator=torch.Generator().manual_seed(9)) * 2 - 1
    assert torch.equal(refaced(volume, mask, model, 0, how=BRIEF).data, refaced(volume.with_data(other), mask, model, 0, how=BRIEF).data)


def test_a_seed_draws_one_face_and_another_seed_another(model, head):
    faces = [refaced(*head, model, seed, how=BRIEF).data for seed in (1, 1, 2)]
    assert torch.equal(faces[0], faces[1]) and not torch.allclose(faces[0], faces[2], atol=1e-3)


def test_a_head_that_is_a_little_larger_gets_a_larger_grid(model, head):
    volume, mask = head
    larger, wider = Volume(torch.nn.functional.pad(volume.data, (0, 0, 0, 0, 0, 4)), volume.affine), np.pad(mask, ((0, 4), (0, 0), (0, 0)))
    drawn = refaced(larger, wider, model, 0, how=BRIEF).data[0].numpy()
    assert np.array_equal(drawn[~wider], larger.data[0].numpy()[~wider]) and drawn[wider].std() > 0


@pytest.mark.parametrize(("extent", "grid"), [((4, 4, 4), (4, 4, 4)), ((1, 3, 4), (4, 4, 4)), ((5, 4, 4), (6, 4, 4))])
def test_the_grid_is_that_of_the_training_or_the_next_one_that_the_network_takes(model, extent, grid):
    assert model.room(extent) == grid


def test_the_seam_takes_the_brightness_of_what_it_adjoins():
    mask = np.zeros((20, 20, 20), bool)
    mask[:, 10:] = True
    there, drawn = torch.zeros(20, 20, 20), torch.full((20, 20, 20), -0.5)
    fitted = _adjoined(drawn, there, mask, [2.0] * 3)
    assert float(fitted[:, 10].abs().max()) < 0.15 and torch.allclose(fitted[:, 19], drawn[:, 19], atol=0.01)
    assert torch.all(fitted[:, 11:, :].diff(dim=1) <= 1e-6), "the difference fades"


def test_what_cannot_be_drawn_is_refused(model, head):
    volume, mask = head
    with pytest.raises(UserError, match="mask"):
        refaced(volume, np.ones_like(mask), model, 0, how=BRIEF)
    large = Volume(torch.zeros(1, 24, 16, 16), volume.affine)
    with pytest.raises(UserError, match=r"24 x 16 x 16 voxels are more than 1\.25 times"):
        refaced(large, np.pad(mask, ((0, 8), (0, 2), (0, 0))), model, 0, how=BRIEF)
    with pytest.raises(UserError, match="steps must be"):
        Drawing(steps=0)
