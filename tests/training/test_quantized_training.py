"""A quantised autoencoder through the commands: latents without posterior noise do for all that follows."""

import csv

import pytest
import torch

from medldm.cli import main
from medldm.models.quantized import QuantizedAutoencoder
from medldm.run import load_model
from medldm.training.latents import load_latents

MODEL = ["--model", "medldm.models.quantized.QuantizedAutoencoder", "--model.codes", "32", "--model.groups", "2"]
BODY = ["--model.body", "medldm.models.lean.LeanAutoencoder", "--model.body.widths", "[8,16]", "--model.body.blocks", "1"]


def run(name, **options):
    """Run a command in this process; options as on the command line."""
    return main([name, *(part for key, value in options.items() for part in (f"--{key}", str(value)))])


@pytest.fixture(scope="module")
def trained(phantom_cohort, tmp_path_factory):
    out = tmp_path_factory.mktemp("quantised") / "autoencoder"
    short = ["--training.steps", "20", "--training.validate_every", "10"]
    assert main(["train-autoencoder", "--cohort", str(phantom_cohort.root), "--out", str(out), *MODEL, *BODY, *short]) == 0
    return out


def test_it_is_trained_and_loaded_with_codes_that_are_used(trained):
    model = load_model(trained)
    assert isinstance(model, QuantizedAutoencoder) and model.updates == 20 and model.perplexity.min() > 8
    with open(trained / "history.csv", newline="") as stream:
        noted = {row["name"] for row in csv.DictReader(stream)}
    assert {"train/perplexity", "train/commitment", "val/psnr"} <= noted and "train/kl" not in noted


def test_latents_denoiser_samples_and_figures_follow(trained, phantom_cohort, tmp_path, capsys):
    cohort, latents = phantom_cohort.root, tmp_path / "latents"
    assert run("cache-latents", cohort=cohort, autoencoder=trained, out=latents, memory="2GB") == 0
    assert "0 % 0 % 0 % 0 %" in capsys.readouterr().out
    mean, std = load_latents(next((latents / "latents").glob("*.safetensors")))[0]
    assert mean.isfinite().all() and not std.any()
    options = {"net.channels": "[8,16]", "training.steps": 2, "draw": "fresh"}
    assert run("train-diffusion", latents=latents, out=tmp_path / "diffusion", **options) == 0
    assert run("generate", run=tmp_path / "diffusion", count=1, out=tmp_path / "generated") == 0
    assert run("evaluate", autoencoder=trained, reference=cohort, out=tmp_path / "figures", memory="2GB") == 0
    with open(tmp_path / "figures" / "metrics.csv", newline="") as stream:
        figures = {row["name"]: float(row["value"]) for row in csv.DictReader(stream)}
    assert torch.tensor(list(figures.values())).isfinite().all() and figures["psnr"] > 5
    assert figures["bits_per_voxel"] == pytest.approx(2 * 5 / 64, rel=0.3)  # of whole cells, some of which reach beyond the volume


def test_a_rate_is_told_and_settings_of_a_divergence_are_refused(phantom_cohort, tmp_path, capsys):
    start = ["train-autoencoder", "--cohort", str(phantom_cohort.root), "--out", str(tmp_path / "run"), *MODEL, *BODY]
    assert main([*start, "--loss.free_bits", "1"]) == 2
    assert "loss.free_bits" in capsys.readouterr().err and not (tmp_path / "run").exists()
    assert main([*start, "--training.steps", "1"]) == 0
    assert "2 x 32 codes (0.156 bits a voxel)" in capsys.readouterr().out
