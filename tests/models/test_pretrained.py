"""Weights of MONAI, of `generative`, of MAISI and of earlier runs: exact where they fit, one clear sentence where they do not."""

import json
import zipfile
from functools import partial

import pytest
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.networks.nets import VQVAE, AutoencoderKL, MultiScalePatchDiscriminator
from safetensors.torch import save_file

from medldm.errors import UserError
from medldm.models.lean import LeanAutoencoder
from medldm.models.monai_autoencoder import MonaiAutoencoder
from medldm.models.monai_layout import canonical, layout
from medldm.models.pretrained import load_weights
from medldm.models.quantized import QuantizedAutoencoder
from medldm.run import describe, save_model

BASE = dict(spatial_dims=3, in_channels=1, out_channels=1, latent_channels=2, norm_num_groups=4)
STRUCTURES = {  # levels and blocks; attention per level; in the middle
    "plain": ((8, 16, 24), (2, 2, 2), (False, False, False), False),
    "lowest": ((8, 16), (1, 1), (False, True), True),
    "middle": ((8, 16), (1, 2), (False, False), True),
    "everywhere": ((8, 12, 16), (1, 2, 1), (True, False, True), False),
    "upper": ((8, 12), (1, 1), (True, False), True),
}


@pytest.fixture(params=STRUCTURES)
def structure(request):
    return STRUCTURES[request.param]


def randomised(network):
    """The network with no weight at its first value."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (p[0].numel() ** -0.5 if p.ndim > 1 else 0.3) + (p.ndim == 1) * 0.1)
    return network.eval()


def maisi(channels, blocks, attention, middle, splits=1, **changes):
    options = dict(num_channels=channels, num_res_blocks=blocks, attention_levels=attention, num_splits=splits, save_mem=False)
    options |= dict(with_encoder_nonlocal_attn=middle, with_decoder_nonlocal_attn=middle)
    return randomised(AutoencoderKlMaisi(**BASE | options | changes))


def monai(channels, blocks, attention, middle, **changes):
    options = dict(channels=channels, num_res_blocks=blocks, attention_levels=attention)
    options |= dict(with_encoder_nonlocal_attn=middle, with_decoder_nonlocal_attn=middle)
    return randomised(AutoencoderKL(**BASE | options | changes))


def ours(channels, blocks, attention, middle, labels=0, **changes):
    settings = dict(channels=channels, blocks=blocks, attention=attention, middle_attention=middle, latent_channels=2, groups=4)
    return MonaiAutoencoder(1, labels, **settings | changes).eval()


def saved(path, content):
    torch.save(content, path)
    return path


PLAIN = STRUCTURES["plain"]
SMALL = ((8, 16), (1, 1), (False, False), False)


@torch.no_grad()
def compare(model, network, bound=1e-5):
    """Posterior and decoded volume of both, relative to the largest number."""
    x = torch.rand(1, 1, 32, 12, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    low, high = model.intensities
    mean, std = network.encode(low + (x + 1) * (high - low) / 2)
    decoded = (network.decode(mean) - low) / (high - low) * 2 - 1
    for found, wanted in zip((*model.posterior(x), model.decode_raw(mean)), (mean, std, decoded), strict=True):
        assert (found - wanted).abs().max() <= bound * wanted.abs().max()


@pytest.mark.parametrize("splits", [1, 2])
def test_a_maisi_network_and_ours_are_the_same_function(structure, splits, tmp_path):
    network = maisi(*structure, splits)
    model = ours(*structure, upsampling="trilinear", intensities=(0.0, 1.0))
    said = load_weights(model, saved(tmp_path / "autoencoder.pt", network.state_dict()))
    compare(model, network)
    assert "of MAISI" in said and "groups=4, intensities=[0.0, 1.0]" in said


@pytest.mark.parametrize("changes", [{}, {"include_fc": False}, {"use_combined_linear": True}])
def test_a_monai_network_and_ours_are_the_same_function(structure, changes, tmp_path):
    network, model = monai(*structure, **changes), ours(*structure)
    assert "of MONAI" in load_weights(model, saved(tmp_path / "autoencoder.pt", network.state_dict()))
    compare(model, network)


def test_the_projection_that_the_older_package_made_and_never_used_is_not_used(tmp_path):
    structure = STRUCTURES["lowest"]
    network = monai(*structure, include_fc=False)  # no projection, as in the older forward pass
    old = {}
    for name, value in network.state_dict().items():
        name = name.replace(".attn.", ".").replace(".postconv.", ".conv.")
        old[name] = value
        if ".to_q." in name:
            old[name.replace(".to_q.", ".proj_attn.")] = torch.randn_like(value)
    load_weights(model := ours(*structure), saved(tmp_path / "old.pth", old))
    compare(model, network)


WRAPPINGS = {
    "plain": lambda w: w,
    "MAISI": lambda w: {"epoch": 3, "scale_factor": torch.ones(1), "unet_state_dict": w},
    "parallel": lambda w: {"model": {f"module.{k}": v for k, v in w.items()}, "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
    "Lightning": lambda w: {"state_dict": {f"autoencoder.{k}": v for k, v in w.items()} | {"discriminator.0.weight": torch.ones(3)}, "epoch": 3},
    "deep": lambda w: {"a": {"b": {"autoencoder_state_dict": {f"net.model.{k}": v for k, v in w.items()}}}},
    "half": lambda w: {k: v.half() for k, v in w.items()},
    "bfloat16": lambda w: {k: v.bfloat16() for k, v in w.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings_prefixes_and_short_numbers_are_looked_through(wrapping, tmp_path):
    network = monai(*SMALL)
    said = load_weights(model := ours(*SMALL), saved(tmp_path / "w.ckpt", WRAPPINGS[wrapping](network.state_dict())))
    compare(model, network, {"half": 1e-2, "bfloat16": 5e-2}.get(wrapping, 1e-5))
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert ("not used: discriminator (1 tensors)" in said) == (wrapping == "Lightning")


def test_safetensors_are_told_by_content(tmp_path):
    network = monai(*SMALL)
    save_file(network.state_dict(), tmp_path / "weights.bin")
    load_weights(model := ours(*SMALL), tmp_path / "weights.bin")
    compare(model, network)


def test_the_older_format_of_torch_is_read(tmp_path):
    torch.save(monai(*SMALL).state_dict(), tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    load_weights(model := ours(*SMALL), tmp_path / "w.pt")
    compare(model, monai(*SMALL))


@pytest.mark.parametrize("make", [lambda: LeanAutoencoder(1, 2, widths=(8, 16)), lambda: ours(*PLAIN, labels=2, upsampling="trilinear")])
def test_a_run_continues_in_another_one_without_the_statistics_of_its_latents(make, tmp_path):
    before, after = randomised(make()), make()
    before.latent_mean.fill_(3.0)
    save_model(tmp_path, before)
    assert "an earlier run" in load_weights(after, tmp_path / "model.safetensors")
    for name, value in after.state_dict().items():
        assert torch.equal(value, before.state_dict()[name]) or (name == "latent_mean" and not value.any())


def test_a_quantised_autoencoder_starts_from_a_gaussian_one(tmp_path):
    before = randomised(LeanAutoencoder(1, 2, widths=(8, 16)))
    after = QuantizedAutoencoder(1, 2, partial(LeanAutoencoder, widths=(8, 16)))
    codes = after.codebook.clone()
    save_model(tmp_path, before)
    load_weights(after, tmp_path / "model.safetensors")
    found = after.body.state_dict()
    assert all(torch.equal(found[name], value) for name, value in before.state_dict().items() if not name.startswith("latent_"))
    assert torch.equal(after.codebook, codes) and not after.updates
    with pytest.raises(UserError, match=r"does not fit|other settings"):
        load_weights(QuantizedAutoencoder(1, 2, partial(LeanAutoencoder, widths=(8, 24))), tmp_path / "model.safetensors")


def test_settings_that_weights_do_not_tell_are_compared_with_those_beside_them(tmp_path):
    save_model(tmp_path, ours(*SMALL, upsampling="trilinear"))
    with pytest.raises(UserError, match=r"other settings \(groups: 4 there, 8 here; upsampling: trilinear there, nearest here\)"):
        load_weights(ours(*SMALL, groups=8), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"holds a medldm.*MonaiAutoencoder; the model is a medldm.*LeanAutoencoder"):
        load_weights(LeanAutoencoder(1, 0, widths=(8,)), tmp_path / "model.safetensors")


@pytest.mark.parametrize("prefix, make", [("monai", monai), ("maisi", maisi)])
def test_the_settings_that_a_message_gives_are_those_that_fit(structure, prefix, make, tmp_path):
    path = saved(tmp_path / "w.pt", make(*structure).state_dict())
    with pytest.raises(UserError) as refused:
        load_weights(MonaiAutoencoder(1, 0, channels=(16,), groups=4), path)
    text = str(refused.value)
    options = dict(option.split(" ", 1) for option in text.split("Give --model.")[1].rstrip(".").split(" --model."))
    settings = {}
    for name, value in options.items():
        settings[name] = value if name == "upsampling" else json.loads(value.strip("'"))
    load_weights(MonaiAutoencoder(1, 0, **settings | {"groups": 4}), path)
    assert ("MAISI" in text) == (prefix == "maisi") and "The model is: 1 channels in and 1 out, channels [16]" in text


def test_groups_of_maisi_are_named_where_they_are_possible():
    weights = canonical(monai((32, 64), (1, 1), (False, False), False).state_dict())
    assert layout(weights, False).settings() == (
        "--model.channels '[32,64]' --model.blocks 1 --model.latent_channels 2 --model.attention false --model.groups 32"
    )


def test_nothing_is_loaded_unless_everything_fits(tmp_path):
    network, model = monai(*SMALL), ours(*SMALL)
    weights, before = network.state_dict(), {k: v.clone() for k, v in model.state_dict().items()}
    broken = {
        r"1 weights missing \(decoder.blocks.2.conv.bias\)": {k: v for k, v in weights.items() if k != "decoder.blocks.2.postconv.conv.bias"},
        r"1 weights left over \(further\)": weights | {"further": torch.ones(2)},
        r"1 weights of another shape \(such as quant_conv_mu.conv.bias: \[3\] there, \[2\] here": weights
        | {"quant_conv_mu.conv.bias": torch.ones(3)},
        "not finite, in 1 weights": weights | {"quant_conv_mu.conv.bias": torch.tensor([0.0, float("nan")])},
        "quant_conv_mu.conv.bias: no tensor of numbers": weights | {"quant_conv_mu.conv.bias": torch.ones(2, dtype=torch.int64)},
        "epoch: no tensor of numbers": weights | {"epoch": 3},
        "same weight twice": weights | {"quant_conv_mu.conv.conv.bias": torch.ones(2)},
        r"2 autoencoders \(ema, model\)": {"model": weights, "ema": weights},
        r"2 autoencoders \(ema, model\)|2 autoencoders": {f"{p}.{k}": v for k, v in weights.items() for p in ("ema", "model")},
    }
    for message, content in broken.items():
        with pytest.raises(UserError, match=message):
            load_weights(model, saved(tmp_path / "w.pt", content))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_network_for_other_channels_is_told_from_one_of_another_structure(tmp_path):
    path = saved(tmp_path / "w.pt", monai(*SMALL).state_dict())
    with pytest.raises(UserError, match=r"--model.channels '\[8,16\]' .*--with_labels false"):
        load_weights(ours(*SMALL, labels=2), path)
    three = saved(tmp_path / "3.pt", monai(*SMALL, in_channels=3, out_channels=3).state_dict())
    with pytest.raises(UserError, match=r"3 channels in and 3 out; 1 contrasts and 0 labels are 1 in and 1 out.*cohort of 3 contrasts"):
        load_weights(ours(*SMALL), three)
    with pytest.raises(UserError, match=r"holds an autoencoder of MONAI.*--model medldm.models.monai_autoencoder.MonaiAutoencoder --model.channels"):
        load_weights(LeanAutoencoder(1, 0, widths=(8,)), path)


def vq():
    steps = dict(downsample_parameters=((2, 4, 1, 1),), upsample_parameters=((2, 4, 1, 1, 0),))
    return VQVAE(3, 1, 1, channels=(8,), num_res_channels=(8,), num_res_layers=1, num_embeddings=8, embedding_dim=4, **steps)


STRANGERS = {
    "a vector-quantised autoencoder": lambda: vq().state_dict(),
    "a discriminator": lambda: MultiScalePatchDiscriminator(num_d=2, num_layers_d=1, spatial_dims=3, channels=8, in_channels=1).state_dict(),
    "a diffusion network": lambda: {"time_embed.0.weight": torch.ones(2, 2), "conv_in.conv.weight": torch.ones(2)},
    "of diffusers or of CompVis": lambda: {"encoder.conv_in.weight": torch.ones(2), "decoder.conv_in.weight": torch.ones(2)},
    "a 2-D network": lambda: monai(*SMALL, spatial_dims=2).state_dict(),
    "transposed convolutions": lambda: monai(*SMALL, use_convtranspose=True).state_dict(),
    "in another order": lambda: monai(*SMALL[:3], False, with_encoder_nonlocal_attn=True).state_dict(),
    "an encoder without its decoder": lambda: {k: v for k, v in monai(*SMALL).state_dict().items() if k.startswith("encoder")},
    "first weights: layer.weight": lambda: {"layer.weight": torch.ones(2), "Doe^Jane\n1950": torch.ones(2)},
}


@pytest.mark.parametrize("what", STRANGERS)
def test_other_networks_are_named(what, tmp_path):
    path = saved(tmp_path / "w.pt", STRANGERS[what]())
    for model in (ours(*SMALL), LeanAutoencoder(1, 0, widths=(8,))):
        with pytest.raises(UserError, match=what) as refused:
            load_weights(model, path)
        assert "Doe" not in str(refused.value)


class Payload:
    """Something that only pickle can load."""


def compressed(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")


FILES = {
    "does not exist": lambda p: None,
    "is a folder": lambda p: p.mkdir(),
    "is empty": lambda p: p.touch(),
    "a web page": lambda p: p.write_text("\n <!DOCTYPE html><html>login</html>"),
    "Git LFS": lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00"),
    "is no file of weights": lambda p: p.write_bytes(b"\x89HDF\r\n"),
    "a compressed archive": compressed,
    "needs .*Payload to be loaded by pickle": lambda p: torch.save({"model": Payload()}, p),
    "holds no tensors by name": lambda p: torch.save({"epoch": 3, "losses": [torch.ones(1)]}, p),
    "TorchScript": lambda p: torch.jit.script(torch.nn.Linear(1, 1)).save(str(p)),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("message", FILES)
def test_what_is_no_file_of_weights_is_refused(message, tmp_path):
    FILES[message](tmp_path / "w.pt")
    with pytest.raises(UserError, match=message):
        load_weights(ours(*SMALL), tmp_path / "w.pt")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_files_cut_or_damaged_anywhere_are_refused_or_read(kind, old, tmp_path):
    weights, path = monai(*SMALL).state_dict(), tmp_path / "w"
    save_file(weights, path) if kind == "safetensors" else torch.save(weights, path, _use_new_zipfile_serialization=not old)
    whole = path.read_bytes()
    generator, model = torch.Generator().manual_seed(0), ours(*SMALL)
    for cut in (1, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError):
            load_weights(model, path)
    for place in torch.randint(0, 3000, (40,), generator=generator).tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        try:
            load_weights(model, path)  # a changed number is not noticed, a changed structure is
        except UserError as error:
            assert len(str(error)) < 700


def test_absurd_sizes_are_refused_unread(tmp_path, monkeypatch):
    weights = monai(*SMALL).state_dict()
    huge = torch.ones(1).expand(1 << 20, 1 << 20)  # of one number
    for name in ("quant_conv_mu.conv.weight", "further"):
        with pytest.raises(UserError, match="does not fit"):
            load_weights(ours(*SMALL), saved(tmp_path / "w.pt", weights | {name: huge}))
    monkeypatch.setattr("medldm.models.weight_files.LARGEST", 1000)
    with pytest.raises(UserError, match="at most"):
        load_weights(ours(*SMALL), tmp_path / "w.pt")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"blocks": (1, 1, 1)}, "blocks="), ({"blocks": 0}, "blocks="), ({"attention": (True,)}, "attention="),
        ({"upsampling": "cubic"}, "upsampling="),
        ({"intensities": (1.0, 0.0)}, "intensities="), ({"intensities": (0.0, float("inf"))}, "intensities="), ({"groups": 3}, "groups="),
    ],
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        MonaiAutoencoder(1, 0, **{"channels": (8, 16), "groups": 4} | settings)


def test_labels_are_not_rescaled():
    image, label = torch.rand(1, 1, 8, 8, 8) * 2 - 1, torch.randint(0, 3, (1, 1, 8, 8, 8)).float()
    torch.manual_seed(0)
    model = randomised(ours(*SMALL, labels=2, intensities=(-3.0, 5.0)))
    plain = randomised(ours(*SMALL, labels=2))
    x = model.join(image, label)
    inside = torch.cat([1 + 4 * x[:, :1], x[:, 1:]], 1)
    with torch.no_grad():
        assert torch.allclose(model.posterior(x)[0], plain.posterior(inside)[0], atol=1e-5)
        z = model.posterior(x)[0]
        wanted = plain.decode_raw(z)
        assert torch.allclose(model.decode_raw(z), torch.cat([(wanted[:, :1] - 1) / 4, wanted[:, 1:]], 1), atol=1e-5)
    assert describe(model)["init_args"]["intensities"] == [-3.0, 5.0]
