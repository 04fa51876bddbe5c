"""kill -9 at any step of any training, then the same command: the same bits as a training that was never stopped."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from medldm.commands.cache_latents import cache_latents
from medldm.commands.train_autoencoder import train_autoencoder
from medldm.files import sha256
from medldm.models.lean import LeanAutoencoder
from medldm.training.options import Training
from medldm.training.resume import stored

# also with discriminators, and with whole volumes after the crops
CONTEST = ["--adversarial.start", "4", "--adversarial.channels", "4", "--whole_from", "0.6"]
SHORT = ["--training.steps", "24", "--training.save_every", "3", "--training.validate_every", "10", "--training.warm_up", "3"]


@pytest.fixture(scope="module")
def latents(phantom_cohort, tmp_path_factory):
    root = tmp_path_factory.mktemp("latents")
    autoencoder = train_autoencoder(phantom_cohort.root, root / "autoencoder", model=LeanAutoencoder, training=Training(steps=2, batch=1))
    return cache_latents(phantom_cohort.root, autoencoder, root / "latents")


NETWORKS = {
    "lean": ["--model.widths", "[8,16]"],
    "quantised": [
        "--model",
        "medldm.models.quantized.QuantizedAutoencoder",
        "--model.codes",
        "16",
        "--model.decay",
        "0.8",
        "--model.revive",
        "0.3",
        *CONTEST,
    ],
    "denoiser": ["--net.channels", "[16,32]"],
}


def command(name, network, folder, out):
    role = "--cohort" if name == "train-autoencoder" else "--latents"
    small = NETWORKS[network]
    return [sys.executable, "-m", "medldm", name, role, str(folder), "--out", str(out), *SHORT, *small]


def start(arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": ""}
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def kill_after(process, folder, step):
    """SIGKILL as soon as a checkpoint of at least this step lies there: at some moment of the steps after it."""
    while process.poll() is None and not any(found >= step for found, _ in stored(folder / "checkpoints")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("name, network", [("train-autoencoder", "lean"), ("train-autoencoder", "quantised"), ("train-diffusion", "denoiser")])
def test_a_killed_training_ends_with_the_same_weights(name, network, phantom_cohort, latents, tmp_path):
    source = phantom_cohort.root if name == "train-autoencoder" else latents.root
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    text, _ = (uninterrupted := start(command(name, network, source, whole))).communicate()
    assert uninterrupted.returncode == 0, text
    step = random.choice([3, 6, 9, 12, 15, 18])
    kill_after(start(command(name, network, source, stopped)), stopped, step)
    assert not (stopped / "provenance.json").exists()
    text, _ = (continued := start(command(name, network, source, stopped))).communicate()
    assert continued.returncode == 0 and "continuing from step" in text, text
    assert sha256(stopped / "model.safetensors") == sha256(whole / "model.safetensors")
    assert (stopped / "history.csv").read_text() == (whole / "history.csv").read_text()
