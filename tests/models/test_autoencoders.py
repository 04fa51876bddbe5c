"""Contracts of every autoencoder."""

from copy import deepcopy
from functools import partial

import pytest
import torch

from medldm.errors import UserError
from medldm.models.autoencoder import pad_to_multiple
from medldm.models.lean import LeanAutoencoder, shuffle, unshuffle
from medldm.models.monai_autoencoder import MonaiAutoencoder
from medldm.models.quantized import QuantizedAutoencoder
from medldm.run import build, describe
from medldm.training.base import compute_again

AUTOENCODERS = {
    "lean f4": (partial(LeanAutoencoder, widths=(8, 16)), 4),
    "lean f8": (partial(LeanAutoencoder, widths=(8, 16, 16), latent_channels=8, blocks=1), 8),
    "lean f2": (partial(LeanAutoencoder, widths=(8,)), 2),
    "monai f4": (partial(MonaiAutoencoder, channels=(8, 16, 16), groups=8), 4),
    "monai with attention": (partial(MonaiAutoencoder, channels=(8, 16), groups=8, attention=True), 2),
    "monai like MAISI": (partial(MonaiAutoencoder, channels=(8, 16), groups=8, blocks=2, upsampling="trilinear", intensities=(0.0, 1.0)), 2),
    "quantised f4": (partial(QuantizedAutoencoder, body=partial(LeanAutoencoder, widths=(8, 16)), codes=16, groups=2), 4),
}


@pytest.fixture(params=AUTOENCODERS)
def case(request):
    make, factor = AUTOENCODERS[request.param]
    torch.manual_seed(0)
    return make(1, 2).eval(), factor


def volume(*shape):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, *shape, generator=generator) * 2 - 1
    return image, torch.randint(0, 3, (1, 1, *shape), generator=generator).float()


@torch.no_grad()
def test_shapes_of_latents_and_decoded_volumes(case):
    model, factor = case
    x = model.join(*volume(16, 24, 16))
    mean, std = model.posterior(x)
    assert x.shape == (1, 3, 16, 24, 16)
    assert mean.shape == std.shape == (1, model.latent_channels, 16 // factor, 24 // factor, 16 // factor)
    assert (std == 0).all() if isinstance(model, QuantizedAutoencoder) else (std > 0).all()
    assert model.decode_raw(mean).shape == (1, 1 + 3, 16, 24, 16)


@torch.no_grad()
def test_a_volume_of_any_size_comes_back_at_its_size(case):
    model, _ = case
    image, label = model.split(model.reconstruct(model.join(*volume(17, 13, 19))))
    assert image.shape == label.shape == (1, 1, 17, 13, 19)
    assert image.abs().max() <= 1 and set(label.unique().tolist()) <= {0.0, 1.0, 2.0}


@torch.no_grad()
def test_what_pads_a_common_grid_changes_nothing(case):
    model, _ = case
    x, sizes = model.join(*volume(24, 24, 24)), [(17, 13, 19), (24, 20, 9)]
    grid = torch.full((2, x.shape[1], 24, 24, 24), torch.nan)
    for padded, (i, j, k) in zip(grid, sizes, strict=True):
        padded[:, :i, :j, :k] = x[0, :, :i, :j, :k]
    for result, (i, j, k) in zip(model.reconstruct(grid, sizes), sizes, strict=True):
        assert torch.equal(result[:, :i, :j, :k], model.reconstruct(x[:, :, :i, :j, :k])[0])
        assert not result[:, i:].any() and not result[:, :, j:].any() and not result[:, :, :, k:].any()


@torch.no_grad()
def test_a_constant_volume_is_taken_and_one_that_is_not_finite_refused(case):
    model, factor = case
    x = torch.full((1, model.in_channels, 2 * factor, factor, factor), -1.0)  # two cells, smaller than any receptive field
    assert model.reconstruct(x).isfinite().all()
    x[0, 0, 0, 0, 1] = torch.nan
    with pytest.raises(UserError, match="1 voxels that are not finite"):
        model.reconstruct(x)


def test_whitening_is_undone_and_decode_uses_it(case):
    model, factor = case
    model.latent_mean.copy_(torch.arange(model.latent_channels) * 0.5)
    model.latent_std.copy_(torch.arange(model.latent_channels) + 1.0)
    z = torch.randn(1, model.latent_channels, 16 // factor, 16 // factor, 16 // factor)
    assert torch.allclose(model.whiten(model.unwhiten(z)), z, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(model.decode(z), model.decode_raw(model.unwhiten(z)))


def test_every_parameter_gets_a_gradient_and_matrices_are_parameters(case):
    model, _ = case
    for parameter in model.parameters():
        if not parameter.any():  # zero-initialised convolutions would pass no gradient on
            torch.nn.init.normal_(parameter, std=0.05)
    mean, std = model.posterior(model.join(*volume(16, 16, 16)))
    model.decode_raw(mean + std).pow(2).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    own = {id(p) for p in model.parameters()}
    assert model.matrix_parameters() and all(id(p) in own and p.ndim > 1 for p in model.matrix_parameters())


def test_blocks_computed_again_give_the_same_gradients_and_keep_less(case):
    model, _ = case
    x = model.join(*volume(16, 16, 16))
    kept, gradients = [0, 0], []
    for again in (0, 1):
        if again:
            compute_again(model.residual_blocks())
            model = deepcopy(model)  # as the weight average does

        def keep(tensor, again=again):
            kept[again] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            mean, std = model.posterior(x)
            loss = model.decode_raw(mean + std).pow(2).sum()
        gradients.append(torch.autograd.grad(loss, model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert kept[1] < 0.9 * kept[0]  # half and less at the default widths


def test_the_description_rebuilds_it(case):
    model, _ = case
    copy = build(describe(model))
    copy.load_state_dict(model.state_dict())
    assert type(copy) is type(model) and describe(copy) == describe(model)


@pytest.mark.parametrize("wrong", [{"widths": ()}, {"widths": (8, 0)}, {"blocks": 0}, {"latent_channels": 0}])
def test_numbers_that_make_no_network_are_refused(wrong):
    with pytest.raises(UserError, match="at least"):
        LeanAutoencoder(1, 0, **wrong)


def test_image_only_mode_has_no_label():
    model = LeanAutoencoder(2, 0, widths=(8, 16))
    image = torch.zeros(1, 2, 16, 16, 16)
    decoded = model.reconstruct(model.join(image, None))
    assert decoded.shape == (1, 2, 16, 16, 16) and model.split(decoded)[1] is None


def test_shuffling_moves_every_voxel_of_a_block_and_back():
    x = torch.arange(2 * 4 * 4 * 6.0).reshape(1, 2, 4, 4, 6)
    packed = unshuffle(x)
    assert packed.shape == (1, 16, 2, 2, 3)
    assert set(packed[0, :8, 0, 0, 0].tolist()) == set(x[0, 0, :2, :2, :2].flatten().tolist())
    assert torch.equal(shuffle(packed), x)


def test_padding_reflects_and_a_volume_too_small_for_it_is_refused():
    x = torch.arange(6.0).expand(1, 1, 8, 8, 6)
    padded, crop = pad_to_multiple(x, 4)
    assert padded[0, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 4, 3]
    assert torch.equal(padded[(..., *crop)], x)
    with pytest.raises(UserError, match="too small"):
        pad_to_multiple(torch.zeros(1, 1, 8, 8, 1), 4)


@torch.no_grad()
def test_wide_layers_of_the_lean_network_never_see_full_resolution():
    model, seen = LeanAutoencoder(1, 2), []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.register_forward_hook(lambda m, _, y: seen.append((m.out_channels, y.shape[-1])))
    model.reconstruct(model.join(*volume(16, 16, 16)))
    assert max(channels for channels, size in seen if size == 16) <= 16
    assert max(channels for channels, size in seen) > 300
