"""Train an autoencoder on a cohort."""

from collections.abc import Callable
from pathlib import Path

from torch.utils.data import DataLoader

from medldm.cohort import Cohort
from medldm.commands.progress import TrainingProgress, draw_history
from medldm.data.steps.torchio_augment import Augment
from medldm.errors import UserError
from medldm.models.autoencoder import Autoencoder
from medldm.models.lean import LeanAutoencoder
from medldm.models.losses import AutoencoderLoss
from medldm.randomness import seeded
from medldm.run import Run, save_model
from medldm.tracking import tracked
from medldm.training.data import Crops, crop_size, load
from medldm.training.options import Training
from medldm.volume import read_volume


def train_autoencoder(
    cohort: Path,
    out: Path,
    model: Callable[[int, int], Autoencoder] = LeanAutoencoder,
    loss: AutoencoderLoss = AutoencoderLoss(),
    training: Training = Training(steps=1800),
    crop: tuple[int, int, int] | None = None,
    with_labels: bool = True,
    augment: Augment | None = None,
    seed: int = 0,
) -> Path:
    """Train an autoencoder on the split "train" of a cohort; the split "val" shows progress.

    A stopped training continues from its last checkpoint when the same command is given again.

    Args:
        cohort: a folder made by `prepare`.
        out: the run folder.
        model: the autoencoder; image channels and number of labels come from the cohort.
        loss: weights of the loss terms.
        training: length, batch, learning rates, precision.
        crop: voxels of a training crop; by default what fits every case, at most 64.
        with_labels: code image and label map together, so that generated volumes come with labels.
        augment: random changes of the crops beside small ones of brightness and contrast; none by default.
        seed: decides initial weights, order, crops and noise.

    Returns:
        The run folder.
    """
    source = Cohort.load(cohort)
    if source.unit == "latent":
        raise UserError(f"{cohort} holds latents, not images.", "Give the cohort of images that they were made from.")
    train, val = source.split("train"), source.split("val")
    if not len(train):
        raise UserError(f"{cohort} has no usable case in the split 'train'.", "Prepare it with more cases.")
    labels = _labels(source, cohort) if with_labels else 0
    with seeded(seed, "weights"):
        network = model(len(read_volume(train.path(train.cases[0].image)).data), labels)
    size = crop_size(train, network.factor, crop)
    arguments = dict(cohort=cohort, model=model, loss=loss, training=training, crop=crop, with_labels=with_labels, augment=augment, seed=seed)
    reads = {"cohort": source.fingerprint()}
    run = Run.claim(out, "train-autoencoder", arguments, reads)
    if run.finished:
        print(f"{out} is finished already.")
        return out
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{parameters / 1e6:.2f} M parameters, {len(train)} cases, crops of {'x'.join(map(str, size))}, {training.steps} steps of {training.batch}")

    from medldm.training.autoencoder import AutoencoderTraining
    from medldm.training.fit import fit

    with tracked(run, reads) as tracker, TrainingProgress(training.steps) as progress:
        module = AutoencoderTraining(network, loss, training, seed, size)
        watchers = [progress, lambda step, values: tracker.metrics(values, step=step), _warner(module.concerns, progress.say)]
        validation: DataLoader | None = DataLoader(load(val), batch_size=1) if len(val) else None
        fit(module, Crops(train, size, training.batch, seed, augment), validation, run.root, watchers, progress.say)
        save_model(run.root, network)
        tracker.artifact(draw_history(run.root))
        run.finish(reads, ["model.safetensors", "model.yaml", "history.csv"])
    return out


def _warner(concerns: Callable[[], list[str]], say: Callable[[str], None]) -> Callable[[int, dict[str, float]], None]:
    """A watcher that says each concern once, when validation has been done."""
    said: set[str] = set()

    def watch(step: int, values: dict[str, float]) -> None:
        for concern in concerns() if "val/psnr" in values else []:
            if concern not in said:
                say(f"step {step}: {concern}")
                said.add(concern)

    return watch


def _labels(source: Cohort, cohort: Path) -> int:
    """How many labels are coded with the image; 0 where there are no label maps.

    Raises:
        UserError: some cases have a label map and some have none, which would teach that nothing is there.
    """
    used = [case for case in source if case.status == "ok" and case.split]
    without = [case for case in used if not case.label]
    if without and len(without) < len(used):
        train = [case for case in used if case.split == "train"]
        missing = sum(case.split == "train" for case in without)
        others = f", and {len(without) - missing} of the {len(used) - len(train)} others" if len(without) > missing else ""
        raise UserError(
            f"{cohort}: {missing} of {len(train)} training cases have no label map{others}; where nobody looked is not where nothing is.",
            "Code the images alone: --with_labels false. Or prepare a cohort of the cases that have label maps.",
        )
    return 0 if without else len(source.labels)
