"""Train a denoiser on cached latents."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from medldm.cohort import Case, Cohort
from medldm.commands.training_run import train_run
from medldm.diffusion.canaries import Canaries, Canary
from medldm.diffusion.conditions.base import Condition, Value
from medldm.diffusion.conditions.category import Category
from medldm.diffusion.conditions.scalar import Scalar
from medldm.diffusion.denoiser import Denoiser, loss_floor
from medldm.diffusion.model import EXTENT, LatentDiffusion
from medldm.diffusion.population import Population
from medldm.diffusion.process import Flow, Process
from medldm.errors import UserError
from medldm.models.autoencoder import Autoencoder
from medldm.models.grain import Grain
from medldm.models.latents import weights_digest
from medldm.models.nets import DenoisingNet, UNet
from medldm.randomness import keyed, seeded
from medldm.run import Run, load_model
from medldm.training.budget import COVERS, Budget, Privacy
from medldm.training.latents import Draw, Latents
from medldm.training.options import Training
from medldm.training.private import PatientLatents, refuse_statistics
from medldm.types import Shape3

if TYPE_CHECKING:
    from medldm.training.diffusion import DiffusionTraining


def train_diffusion(
    latents: Path,
    out: Path,
    net: Callable[[int], DenoisingNet] = UNet,
    process: Process = Flow(),
    predicts: str = "flow",
    conditions: list[str] | None = None,
    draw: Draw = "mean",
    training: Training = Training(steps=3000, learning_rate=5e-3, other_learning_rate=2e-3, warm_up=50, final=0.03),
    privacy: Privacy | None = None,
    canaries: Canaries | None = None,
    seed: int = 0,
) -> Path:
    """Train a conditioned denoiser on the split "train" of cached latents; the split "val" shows progress.

    The run holds the autoencoder with its whitening too. A stopped training continues from its last checkpoint when the same command is given again.

    With `privacy` the weights of the denoiser keep to a budget of differential privacy for each training patient. Batches then are patients drawn at
    random, `training.batch` on average, and neither draws nor noise follow the seed. With `canaries` mixtures of patients are planted, and
    `evaluate --privacy true --diffusion RUN` says how well the model remembers them.

    Args:
        latents: a folder made by `cache-latents`.
        out: the run folder.
        net: the network; its latent channels come from the latents.
        process: the path from data to noise.
        predicts: what the network predicts, "data", "noise", "velocity" or "flow".
        conditions: covariates to condition on; by default all that vary in the training cases.
        draw: train on posterior means, on one fixed draw of each latent, or on a fresh draw whenever it comes.
        training: length, batch, learning rates, precision.
        privacy: budget of differential privacy; null trains without.
        canaries: cases to plant; null plants none.
        seed: decides initial weights, order, times and noise.

    Returns:
        The run folder.
    """
    arguments = dict(locals())
    training.check_trains()
    source = Cohort.load(latents)
    if source.unit != "latent":
        raise UserError(f"{latents} holds images, not latents.", "Encode it with: medldm cache-latents --cohort DIR --autoencoder RUN --out DIR")
    autoencoder = _autoencoder(source, draw)
    with seeded(seed, "weights"):
        denoiser = _denoiser(source, net(autoencoder.latent_channels), process, predicts, conditions)
    planted = _planted(canaries, source, privacy, seed)
    budget = _budget(privacy, source, denoiser, training, len(planted))
    reads = {"latents": source.fingerprint(), **source.parents}
    run = Run.claim(out, "train-diffusion", arguments, reads)
    if run.finished:
        print(f"{out} is finished already.")
        return out
    run.facts |= {"canaries": {**asdict(canaries), "seed": seed}} if canaries else {}
    dataset = _dataset(source, "train", denoiser, autoencoder, draw, training.batch, seed, PatientLatents if budget else Latents, planted)
    held_out = _dataset(source, "val", denoiser, autoencoder, draw, training.batch, seed).whole()
    _tell(source, denoiser, autoencoder, draw)
    module = _module(denoiser, training, seed, tuple(source.facts["grid"]), budget)
    with _accounted(run, budget):
        train_run(run, reads, module, dataset, held_out, partial(_result, source, autoencoder, denoiser, seed), validation_batch=8)
    return out


def _module(denoiser: Denoiser, training: Training, seed: int, grid: Shape3, budget: Budget | None) -> "DiffusionTraining":
    from medldm.training.diffusion import DiffusionTraining, PrivateDiffusion

    return PrivateDiffusion(denoiser, training, seed, grid, budget) if budget else DiffusionTraining(denoiser, training, seed, grid)


def _result(source: Cohort, autoencoder: Autoencoder, denoiser: Denoiser, seed: int) -> LatentDiffusion:
    """All that the run is to hold, as it is when this is called."""
    population = Population.fit([_row(case, denoiser) for case in source.split("train")], keyed(seed, "population"))
    units = {name: source.covariates[name] for name in denoiser.conditions}
    grain = Grain.of(source.facts["grain"]) if "grain" in source.facts else None
    grid, spacing = tuple(source.facts["grid"]), tuple(source.facts["voxel_spacing"])
    return LatentDiffusion(autoencoder, denoiser, population, grid, spacing, source.labels, units, grain)


def _planted(canaries: Canaries | None, source: Cohort, privacy: Privacy | None, seed: int) -> list[Canary]:
    """What is planted among the training cases, each as often as asked for.

    Raises:
        UserError: there are too few patients, or a private training would hold copies, each of which counts as a patient.
    """
    if canaries is None:
        return []
    if privacy and canaries.copies > 1:
        raise UserError("canaries.copies: a private training takes each patient for one, so copies would say nothing of it.", "Set it to 1.")
    found = canaries.draw([case.person for case in source.split("train")], seed)
    return [canary for canary in found if canary.planted for _ in range(canaries.copies)]


def _budget(privacy: Privacy | None, source: Cohort, denoiser: Denoiser, training: Training, planted: int) -> Budget | None:
    """The plan of noise for a private training.

    Raises:
        UserError: the plan is impossible, see `Budget.plan`, or the network keeps statistics of patients.
    """
    if privacy is None:
        return None
    refuse_statistics(denoiser)
    return Budget.plan(privacy, len(source.split("train").people) + planted, training.batch, training.steps)


@contextmanager
def _accounted(run: Run, budget: Budget | None) -> Iterator[None]:
    """Say what a private training may spend, and what it has spent when it ends or is stopped; the run records it.

    Steps after the last checkpoint of a training that was stopped are not counted: nobody sees what they gave.
    """
    if budget is None:
        yield
        return
    from medldm.training.resume import latest

    run.facts["privacy"] = budget.record()
    plan = f"noise multiplier {budget.noise_multiplier:.3g}, clip {budget.clip:g}, each patient in {budget.sample_rate:.2%} of the steps"
    print(f"privacy: epsilon {budget.epsilon:.3g} at delta {budget.delta:.2g} after {budget.steps} steps; {plan}")
    print(f"privacy: this covers {COVERS}.")
    try:
        yield
    finally:
        done = budget.steps if run.finished else latest(run.root / "checkpoints")[0]
        print(f"privacy: epsilon {budget.spent(done):.3g} at delta {budget.delta:.2g} was spent in {done} of {budget.steps} steps")


def _autoencoder(source: Cohort, draw: Draw) -> Autoencoder:
    """The autoencoder of a folder of latents, whitening what training will see.

    Raises:
        UserError: the folder holds another autoencoder than the one that made the latents, or lacks what draws need.
    """
    model = load_model(source.root)
    if not isinstance(model, Autoencoder):
        raise UserError(f"{source.root} holds a {type(model).__name__}, not an autoencoder.", "Cache the latents again.")
    made, here = source.facts.get("weights"), weights_digest(model)
    if made is not None and made != here:
        reason = f"{source.root} holds latents of the autoencoder {made[:12]} beside the autoencoder {here[:12]}."
        raise UserError(reason, "Cache the latents again with the autoencoder that you want.")
    if draw != "mean":
        if "noise_variance" not in source.facts:
            raise UserError(f"{source.root} does not say how noisy its latents are.", "Cache them again, or train with --draw mean.")
        model.latent_std.copy_((model.latent_std.double() ** 2 + torch.tensor(source.facts["noise_variance"], dtype=torch.float64)).sqrt())
    return model


def _denoiser(source: Cohort, network: DenoisingNet, process: Process, predicts: str, conditions: list[str] | None) -> Denoiser:
    """A denoiser whose conditions know the training cohort.

    Raises:
        UserError: the grid does not suit the network, or a condition does not exist or does not vary.
    """
    train, grid = source.split("train"), source.facts["grid"]
    if any(n % network.multiple for n in grid):
        name = type(network).__name__
        raise UserError(
            f"The latent grid {grid} is no multiple of {network.multiple}, which {name} needs.", f"Cache with --multiple {network.multiple}."
        )
    names = _chosen(train, conditions, source.root)
    return Denoiser(network, process, {name: _condition(name, train, network.width) for name in names}, predicts)


def _dataset(
    source: Cohort,
    split: str,
    denoiser: Denoiser,
    autoencoder: Autoencoder,
    draw: Draw,
    batch: int,
    seed: int,
    kind: type[Latents] = Latents,
    planted: Sequence[Canary] = (),
) -> Latents:
    """Whitened latents of a split with their conditions."""
    cases = source.split(split)
    codes = [denoiser.encode({name: case.covariates[name] for name in denoiser.conditions}) for case in cases]
    return kind(
        cases, torch.stack(codes) if codes else torch.zeros(0, 0), autoencoder.whiten, tuple(source.facts["grid"]), batch, seed, draw, planted
    )


def _tell(source: Cohort, denoiser: Denoiser, autoencoder: Autoencoder, draw: Draw) -> None:
    """Print what will be trained on what, and what draws cost."""
    if draw != "mean":
        noise = torch.tensor(source.facts["noise_variance"]) / autoencoder.latent_std**2
        floor = loss_floor(noise, denoiser.process, denoiser.predicts)
        print(f"posterior noise in the latents puts a floor of {floor:.3g} under the loss")
    parameters = sum(p.numel() for p in denoiser.parameters())
    cells, names = "x".join(map(str, source.facts["grid"])), ", ".join(denoiser.conditions) or "none"
    print(f"{parameters / 1e6:.2f} M parameters, {len(source.split('train'))} cases, grid {cells}, conditions: {names}")


def _chosen(train: Cohort, wanted: list[str] | None, latents: Path) -> list[str]:
    """Names of the covariates to condition on.

    Raises:
        UserError: one of them does not exist, or does not vary.
    """
    varying = [name for name in sorted(train.covariates) if len({case.covariates.get(name) for case in train} - {None}) > 1]
    for name in wanted or []:
        if name not in varying:
            raise UserError(f"conditions: {name!r} is no covariate of {latents} that varies; there are {', '.join(varying) or 'none'}.")
    return varying if wanted is None else wanted


def _condition(name: str, train: Cohort, width: int) -> Condition:
    values = [case.covariates[name] for case in train if case.covariates[name] is not None]
    if any(isinstance(value, str) for value in values):
        return Category(width, sorted({str(value) for value in values}))
    return Scalar(width, float(np.mean(values)), max(float(np.std(values)), math.ulp(1.0)))


def _row(case: Case, denoiser: Denoiser) -> dict[str, Value]:
    """Conditions and field of view of a case, for the population."""
    extent = {name: float(cells) for name, cells in zip(EXTENT, case.shape, strict=True)}
    return {**{name: case.covariates[name] for name in denoiser.conditions}, **extent}
