"""A walk of latents to measurements: images of any size, nearer to what was measured, by slabs as by the whole."""

import pytest
import torch

from medldm.diffusion.denoiser import Denoiser
from medldm.diffusion.latent_solver import LatentSolver, round_trip, unsaid_by
from medldm.diffusion.model import LatentDiffusion
from medldm.diffusion.population import Population
from medldm.diffusion.posteriors.refine import misfit
from medldm.diffusion.process import Flow
from medldm.errors import UserError
from medldm.models.lean import LeanAutoencoder
from medldm.models.nets import UNet
from medldm.models.tiling.plan import Budget, Plan
from medldm.operators.acquisitions import Noisy
from medldm.randomness import keyed, seeded

GRID, NOISE = (4, 4, 4), 0.003


@pytest.fixture
def model():
    """Random weights; the denoiser's last layer is 0 at first, so that it knows of the data that they are white."""
    with seeded(0, "weights"):
        autoencoder = LeanAutoencoder(1, 0, widths=(4, 8), blocks=1)
        denoiser = Denoiser(UNet(autoencoder.latent_channels, (16, 32), width=16), Flow(), {})
    names = ("extent_i", "extent_j", "extent_k")
    return LatentDiffusion(autoencoder, denoiser, Population.fit([dict.fromkeys(names, 4.0)] * 3, keyed(0)), GRID, (2.0,) * 3, {}, {}).eval()


def images(model, shape):
    """Two images that the decoder can say, cut to a shape."""
    auto = model.autoencoder
    cells = [-(-n // auto.factor) for n in shape]
    codes = [torch.randn(1, auto.latent_channels, *cells, generator=keyed("code", n)) for n in range(2)]
    with torch.no_grad():
        return [auto.decode(code)[(..., *(slice(n) for n in shape))] for code in codes]


@pytest.mark.parametrize("shape", [(16, 16, 16), (15, 14, 13), (9, 5, 3), (17, 16, 20)])
def test_it_comes_nearer_to_what_was_measured_whatever_the_size(model, shape):
    truth, other = images(model, shape)
    operator, y = Noisy(NOISE).measure(truth, (1.0, 1.0, 1.0), 0)
    found = LatentSolver(model, unsaid_by(model.autoencoder, [truth[0]]))(operator, y, NOISE, other)
    assert found.shape == truth.shape and found.isfinite().all()
    assert float(misfit(operator, y, found)) < 0.7 * float(misfit(operator, y, round_trip(model.autoencoder, other)))


def test_by_slabs_it_finds_the_same(model, monkeypatch):
    truth, other = images(model, (15, 14, 13))
    operator, y = Noisy(NOISE).measure(truth, (1.0, 1.0, 1.0), 0)
    solver = LatentSolver(model, unsaid_by(model.autoencoder, [truth[0]]))
    whole = solver(operator, y, NOISE, other)
    monkeypatch.setattr(Budget, "plan", lambda self, layers, shape: Plan(3))
    model.autoencoder.budget = Budget(1 << 30)
    slabs = solver(operator, y, NOISE, other)
    assert not torch.equal(slabs, whole), "it was computed in another way"
    assert float((slabs - whole).abs().max()) < 1e-3 * float(whole.abs().max())


def test_much_larger_images_than_those_of_the_training_are_refused(model):
    image = torch.zeros(1, 1, 40, 16, 16)
    with pytest.raises(UserError):
        LatentSolver(model, torch.zeros(1, 1))(Noisy(NOISE).operator((40, 16, 16), (1.0,) * 3), image, NOISE, image)
