"""The whole chain, from images to a scored synthetic cohort."""

import shutil
import time
from functools import partial
from pathlib import Path

from medldm.commands.cache_latents import cache_latents
from medldm.commands.check import check
from medldm.commands.evaluate import evaluate
from medldm.commands.generate import generate
from medldm.commands.prepare import prepare
from medldm.commands.train_autoencoder import train_autoencoder
from medldm.commands.train_diffusion import train_diffusion
from medldm.commands.train_features import train_features
from medldm.data.phantom import write_phantoms
from medldm.errors import UserError
from medldm.files import atomic
from medldm.models.lean import LeanAutoencoder
from medldm.models.nets import UNet
from medldm.tracking import chain
from medldm.training.options import Training

#: Of train_autoencoder, train_diffusion and train_features on the embedded phantoms; configs/phantom holds the same.
PHANTOM_SETTINGS = (
    dict(
        model=partial(LeanAutoencoder, widths=(32, 64)),
        training=Training(steps=1000, validate_every=500),
        crop=(24, 24, 24),
    ),
    dict(
        net=partial(UNet, channels=(48, 96)),
        conditions=["age", "lesion_volume", "sex", "volume_lesion", "volume_ventricles"],
        training=Training(steps=800, learning_rate=5e-3, other_learning_rate=2e-3, warm_up=50, final=0.03, validate_every=400),
    ),
    dict(
        training=Training(steps=120, batch=32, learning_rate=5e-3, other_learning_rate=5e-3, validate_every=60),
        crop=(24, 24, 24),
    ),
)


def demo(out: Path, source: Path | None = None, covariates: Path | None = None, count: int | None = None, seed: int = 0) -> Path:
    """Run check, prepare, train-autoencoder, cache-latents, train-diffusion, generate, train-features and evaluate in order.

    Without a source the embedded head phantoms are used, with settings for minutes instead of tens of minutes. Stopped
    anywhere, the same command continues; finished steps are not repeated.

    Args:
        out: a folder for everything.
        source: images to train on; MSD, nnU-Net or plain layout.
        covariates: CSV with a column `case` and one column per covariate.
        count: synthetic cases; by default 64, or 32 from phantoms.
        seed: of every step.

    Returns:
        Path of the report.
    """
    if count is not None and count < 1:
        raise UserError(f"count={count}: at least 1 is needed.")
    started, out = time.monotonic(), Path(out)
    phantoms = source is None
    autoencoder_settings, diffusion_settings, features_settings = PHANTOM_SETTINGS if phantoms else ({}, {}, {})
    if source is None:
        source = out / "source"
        write_phantoms(source, patients=60, seed=seed)
    _title(1, "check")
    check(source, covariates=covariates)  # before anything is written, so that a bad source leaves nothing behind
    with chain(out, "demo"):
        _title(2, "prepare")
        prepare(source, out / "cohort", covariates=covariates, seed=seed)
        _title(3, "train-autoencoder")
        train_autoencoder(out / "cohort", out / "autoencoder", seed=seed, **autoencoder_settings)
        _title(4, "cache-latents")
        cache_latents(out / "cohort", out / "autoencoder", out / "latents", seed=seed)
        _title(5, "train-diffusion")
        train_diffusion(out / "latents", out / "diffusion", seed=seed, **diffusion_settings)
        _title(6, "generate")
        generate(out / "diffusion", count or (32 if phantoms else 64), out / "generated", seed=seed)
        _title(7, "train-features")
        train_features(out / "cohort", out / "features", seed=seed, **features_settings)
        _title(8, "evaluate")
        evaluated = evaluate(out / "evaluation", out / "cohort", out / "generated", out / "autoencoder", features=out / "features", seed=seed)
    report = out / "report.html"
    with atomic(report) as temporary:
        shutil.copyfile(evaluated, temporary)
    print(f"\n{(time.monotonic() - started) / 60:.1f} minutes. The report: {report}")
    return report


def _title(number: int, name: str) -> None:
    print(f"\n[{number}/8] {name}")
