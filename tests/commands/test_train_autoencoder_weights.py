"""Training from weights of others, and importing them without any training."""

from functools import partial

import pytest
import torch
from monai.networks.nets import AutoencoderKL

from medldm.commands.cache_latents import cache_latents
from medldm.commands.evaluate import evaluate
from medldm.commands.train_autoencoder import train_autoencoder
from medldm.commands.train_diffusion import train_diffusion
from medldm.errors import UserError
from medldm.files import read_json, sha256
from medldm.models.monai_autoencoder import MonaiAutoencoder
from medldm.models.quantized import QuantizedAutoencoder
from medldm.run import load_model
from medldm.training.options import Training

MODEL = partial(MonaiAutoencoder, channels=(8, 16), latent_channels=2, groups=4, attention=True, intensities=(0.0, 1.0))
NOTHING = Training(steps=0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(3)
    structure = dict(channels=(8, 16), num_res_blocks=(1, 1), attention_levels=(False, True), latent_channels=2, norm_num_groups=4)
    path = tmp_path_factory.mktemp("weights") / "w [red]\x1b[31m.pt"
    torch.save({"state_dict": AutoencoderKL(spatial_dims=3, **structure).state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def imported(phantom_cohort, weights, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "imported"
    return train_autoencoder(phantom_cohort.root, out, MODEL, training=NOTHING, with_labels=False, weights=weights)


def difference(run, weights):
    """Largest between the weights of a run and those of the file."""
    found = load_model(run).net.state_dict()
    return max(float((found[name] - value).abs().max()) for name, value in torch.load(weights, weights_only=True)["state_dict"].items())


def test_zero_steps_import_a_run_that_other_commands_take(imported, phantom_cohort, weights, tmp_path):
    assert difference(imported, weights) == 0
    assert read_json(imported / "provenance.json")["reads"]["weights"] == sha256(weights)
    assert (imported / "history.csv").read_text().split() == ["step,name,value"] and (imported / "curves.png").stat().st_size
    latents = cache_latents(phantom_cohort.root, imported, tmp_path / "latents")
    with pytest.raises(UserError, match="trains nothing"):
        train_diffusion(latents, tmp_path / "none", training=NOTHING)
    assert not (tmp_path / "none").exists()
    evaluate(tmp_path / "evaluation", reference=phantom_cohort.root, autoencoder=imported)
    assert "psnr," in (tmp_path / "evaluation" / "metrics.csv").read_text()


def test_an_imported_run_is_finished_and_belongs_to_its_weights(imported, phantom_cohort, weights, tmp_path, capsys):
    again = partial(train_autoencoder, phantom_cohort.root, imported, MODEL, training=NOTHING, with_labels=False)
    again(weights=weights)
    assert "finished already" in capsys.readouterr().out
    content = torch.load(weights, weights_only=True)
    content["state_dict"]["quant_conv_mu.conv.bias"] += 1
    before = weights.read_bytes()
    try:
        torch.save(content, weights)
        with pytest.raises(UserError, match=r"made from other inputs \(weights"):
            again(weights=weights)
    finally:
        weights.write_bytes(before)


def test_training_starts_from_the_weights(phantom_cohort, weights, tmp_path):
    still = Training(steps=2, batch=1, learning_rate=1e-12, other_learning_rate=1e-12, precision="32-true")
    train = partial(train_autoencoder, phantom_cohort.root, model=MODEL, with_labels=False)
    assert difference(train(out=tmp_path / "started", training=still, weights=weights), weights) < 1e-6
    assert difference(train(out=tmp_path / "random", training=still), weights) > 0.01
    onwards = train(out=tmp_path / "onwards", training=NOTHING, weights=tmp_path / "started" / "model.safetensors")
    assert difference(onwards, weights) < 1e-6


def test_a_file_that_does_not_fit_leaves_no_folder_behind(phantom_cohort, weights, tmp_path):
    with pytest.raises(UserError, match="--with_labels false"):
        train_autoencoder(phantom_cohort.root, tmp_path / "out", MODEL, training=NOTHING, weights=weights)
    with pytest.raises(UserError, match=r"trains nothing.*--weights"):
        train_autoencoder(phantom_cohort.root, tmp_path / "out", MODEL, training=NOTHING)
    quantised = partial(QuantizedAutoencoder, body=MODEL)
    with pytest.raises(UserError, match="holds no codes"):
        train_autoencoder(phantom_cohort.root, tmp_path / "out", quantised, training=NOTHING, weights=weights, with_labels=False)
    with pytest.raises(UserError, match=r"training\.steps=-1"):
        Training(steps=-1)
    assert not (tmp_path / "out").exists()
