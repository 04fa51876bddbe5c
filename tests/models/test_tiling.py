"""Encoding and decoding by slabs is what the network does whole: any size, any slab, gradients included, within the planned memory."""

import weakref
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medldm.errors import OutOfSpace, UserError
from medldm.machine import bytes_text, parse_bytes
from medldm.models.lean import LeanAutoencoder
from medldm.models.monai_autoencoder import MonaiAutoencoder
from medldm.models.quantized import QuantizedAutoencoder
from medldm.models.tiling.fields import Memory, Moments, Stored
from medldm.models.tiling.layers import Convolution, Upsampled
from medldm.models.tiling.plan import SPARE_BYTES, SPARE_SHARE, Budget, Plan, estimate
from medldm.models.tiling.streamer import Streamer

NETWORKS = {
    "lean f2": partial(LeanAutoencoder, 1, 0, widths=(8,)),
    "lean f4": partial(LeanAutoencoder, 1, 2, widths=(8, 16)),
    "lean f8": partial(LeanAutoencoder, 2, 0, widths=(8, 16, 24), blocks=1),
    "monai f4": partial(MonaiAutoencoder, 1, 2, channels=(8, 16, 16), groups=8),
    "quantised": partial(QuantizedAutoencoder, 1, 0, body=partial(LeanAutoencoder, widths=(8, 16), blocks=1), codes=64, groups=2),
    "monai with attention": partial(MonaiAutoencoder, 1, 0, channels=(8, 16), groups=4, blocks=2, attention=True),
    "monai like MAISI": partial(MonaiAutoencoder, 1, 2, channels=(8, 16), groups=8, blocks=(1, 2), upsampling="trilinear", intensities=(0, 1)),
}


@pytest.fixture(params=NETWORKS)
def model(request):
    """A network in which no weight is 0, and statistics of normalisations matter."""
    torch.manual_seed(0)
    network = NETWORKS[request.param]().eval()
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.normal_(module.weight, 0, module.weight[0].numel() ** -0.5)
            nn.init.normal_(module.bias, 0, 0.3)
        if isinstance(module, nn.GroupNorm):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.3)
    return network


def latent(model, cells=(7, 3, 5), batch=2, dtype=torch.float32):
    return torch.randn(batch, model.latent_channels, *cells, generator=torch.Generator().manual_seed(1), dtype=dtype)


def decode_tiled(model, z, plan):
    return plan.run(model.decoder_layers(), z).float()


def difference(found, wanted):
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))  # deviations may all be 0


@torch.no_grad()
def test_slabs_of_any_height_decode_and_encode_as_the_whole(model):
    x = torch.randn(2, model.in_channels, *(n * model.factor for n in (5, 3, 4)), generator=torch.Generator().manual_seed(2))
    mean, std = model.posterior(x)
    z = latent(model)
    whole = model.decode_raw(z)
    for rows in (1, 2, 3, 5, 8, 100):
        for recompute in (0, 1, 2):
            plan = Plan(rows, recompute)
            assert difference(decode_tiled(model, z, plan), whole) < 1e-5
            for found, wanted in zip(model.posterior_of(plan.run(model.encoder_layers(), x)), (mean, std), strict=True):
                assert difference(found, wanted) < 1e-5


@torch.no_grad()
def test_in_double_precision_nothing_but_the_last_rounding_is_left(model):
    model.double()
    z = latent(model, dtype=torch.float64)
    assert difference(decode_tiled(model, z, Plan(3)), model.decode_raw(z)) < 2e-7


@torch.no_grad()
def test_bf16_agrees_within_its_rounding(model):
    z = latent(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert difference(decode_tiled(model, z, Plan(3)), model.decode_raw(z)) < 2e-2


@pytest.mark.parametrize("recompute", [0, 1, 2])
def test_gradients_are_those_of_the_whole(model, recompute):
    model.double()
    z = latent(model, dtype=torch.float64).requires_grad_()
    weights = torch.randn(model.decode_raw(z).shape, generator=torch.Generator().manual_seed(3))
    (wanted,) = torch.autograd.grad((model.decode_raw(z) * weights).sum(), z)
    (found,) = torch.autograd.grad((decode_tiled(model, z, Plan(3, recompute)) * weights).sum(), z)
    assert difference(found, wanted) < 1e-5  # the last step of both is in single precision


@torch.no_grad()
def test_activations_on_the_host_change_nothing(model):
    z = latent(model)
    assert torch.equal(decode_tiled(model, z, Plan(3, offload=True)), decode_tiled(model, z, Plan(3)))


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 8), st.data())
@settings(max_examples=60, deadline=None)
def test_an_enlargement_is_never_made_and_yet_convolved(rows, channels, first, data):
    i, j, k = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4)))
    x, conv = torch.randn(1, channels, i, j, k, dtype=torch.float64), nn.Conv3d(channels, 3, 3, padding=1).double()
    start = min(first, 2 * i - 1)
    stop = min(start + rows, 2 * i)
    stored = Stored(tuple(x.shape), Memory())
    stored.adopt(0, i, x)
    wanted = conv(F.interpolate(x, scale_factor=2, mode="nearest"))[:, :, start:stop]
    with torch.no_grad():
        assert torch.allclose(Upsampled(stored, conv.weight, conv.bias).read(start, stop), wanted, atol=1e-12)
    assert torch.allclose(Upsampled(stored, conv.weight, conv.bias).read(start, stop), wanted, atol=1e-12)


@pytest.mark.parametrize("stride, padding", [(1, (0, 0)), (1, (1, 1)), (2, (1, 1)), (2, (0, 1))])
@torch.no_grad()
def test_convolutions_read_by_rows(stride, padding):
    x, weight = torch.randn(1, 2, 9, 6, 7, dtype=torch.float64), torch.randn(3, 2, 3, 3, 3, dtype=torch.float64)
    wanted = F.conv3d(F.pad(x, padding * 3), weight, stride=stride)
    streamer = Streamer(2)
    inner = Convolution(streamer.take(x), weight[:2], None, 1, (1, 1))  # one that is not stored, so that its rows roll along
    for source, expected in (
        (streamer.take(x), wanted),
        (inner, F.conv3d(F.pad(F.conv3d(x, weight[:2], padding=1), padding * 3), weight, stride=stride)),
    ):
        field = Convolution(source, weight, None, stride, padding)
        assert field.shape == tuple(expected.shape)
        found = torch.cat([field.read(start, min(start + 2, field.shape[2])) for start in range(0, field.shape[2], 2)], dim=2)
        assert torch.allclose(found, expected, atol=1e-12)


def test_moments_of_parts_are_those_of_the_whole():
    x = torch.randn(2, 6, 11, 3, 4, dtype=torch.float64) * 3 + 1000
    moments = Moments()
    for part in x.split((1, 4, 2, 4), dim=2):
        variance, mean = torch.var_mean(part, dim=(2, 3, 4), correction=0)
        moments.add(mean, variance, part[0, 0].numel())
    mean, factor = moments.of_groups(3, 1e-5)
    variance, wanted = torch.var_mean(x.reshape(2, 3, -1), dim=2, correction=0)
    assert torch.allclose(mean[:, ::2], wanted, rtol=1e-12) and torch.allclose(mean[:, 1::2], wanted, rtol=1e-12)
    assert torch.allclose(factor[:, ::2], (variance + 1e-5).rsqrt(), rtol=1e-9)


def test_chunks_are_given_up_and_too_early_is_noticed():
    stored = Stored((1, 1, 40, 2, 2), memory := Memory())
    with torch.no_grad():
        for start in range(0, 40, 4):
            stored.put(start, start + 4, torch.full((1, 1, 4, 2, 2), float(start)))
    assert memory.held == 160 and len(stored.chunks) == 40 // stored.length
    stored.drop(20)
    assert memory.held == 160 - 4 * (20 - 20 % stored.length)
    assert stored.read(20, 24).unique().tolist() == [20.0]
    with pytest.raises(RuntimeError, match="too early"):
        stored.read(0, 2)


class Tensors(TorchDispatchMode):
    """Bytes of all tensors that operations make, while they live."""

    def __init__(self):
        super().__init__()
        self.live, self.peak, self.known = 0, 0, weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage() not in self.known:
                storage = leaf.untyped_storage()
                self.known.add(storage)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self.free, storage.nbytes())
        return out

    def free(self, size):
        self.live -= size


@pytest.mark.parametrize("recompute", [0, 1, 2])
@torch.no_grad()
def test_tensors_stay_within_what_a_dry_run_counts(model, recompute):
    z = latent(model, (24, 8, 8), batch=1)
    for rows in (2, 5, 16):
        with Tensors() as tensors:
            decode_tiled(model, z, Plan(rows, recompute))
        counted = (estimate(model.decoder_layers(), tuple(z.shape), rows, recompute).peak - SPARE_BYTES) / (1 + SPARE_SHARE)
        assert tensors.peak <= 1.02 * counted, (rows, tensors.peak / counted)


def test_less_memory_gives_another_plan_and_too_little_is_refused(model):
    layers, shape = model.decoder_layers(), (1, model.latent_channels, 40, 40, 40)
    widest = Budget(1 << 40).plan(layers, shape)
    plans = [widest]
    while len(plans) < 4:
        plans.append(Budget(plans[-1].peak - 1).plan(layers, shape))
    assert all(later.peak < plan.peak for plan, later in pairwise(plans)) and len({str(plan) for plan in plans}) == 4
    with pytest.raises(OutOfSpace, match=r"[GM]iB at least; 1 MiB were given.*--memory"):
        Budget(1 << 20).plan(layers, shape)


@torch.no_grad()
def test_a_budget_changes_nothing_but_memory(model):
    x = torch.rand(1, model.in_channels, 17, 13, 19, generator=torch.Generator().manual_seed(0))
    z = latent(model, batch=1)
    whole, decoded, posterior = model.reconstruct(x), model.decode(z), model.encode(x[:, :, :16, :8, :16])
    model.budget = Budget(1 << 30)
    assert difference(model.reconstruct(x), whole) < 2e-5 and difference(model.decode(z), decoded) < 1e-5
    assert difference(model.encode(x[:, :, :16, :8, :16])[0], posterior[0]) < 1e-5


def test_memory_that_runs_out_is_told_with_the_plan(model):
    def exhausted(source, streamer):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfSpace, match=r"slabs of 8 rows, .*on the host.*--memory"):
        Plan(8, 1, offload=True).run([exhausted], torch.zeros(1, 1, 2, 2, 2))


@pytest.mark.parametrize("text, bytes_", [("8GB", 8 * 10**9), ("1.5 GiB", 3 << 29), ("500mib", 500 << 20), ("12 B", 12)])
def test_amounts_of_memory(text, bytes_):
    assert parse_bytes(text) == bytes_


def test_amounts_of_memory_for_people():
    assert [bytes_text(count) for count in (3 << 29, 500 << 20, 0)] == ["1.50 GiB", "500 MiB", "0 MiB"]


@pytest.mark.parametrize("text", ["8", "GB", "-1GB", "8 apples", ""])
def test_what_is_no_amount_of_memory(text):
    with pytest.raises(UserError, match="8GB"):
        parse_bytes(text)
