"""Train a feature network on a cohort, without labels and without anything from elsewhere."""

import math
from pathlib import Path

from medldm.cohort import Cohort
from medldm.commands.training_run import train_run
from medldm.errors import UserError
from medldm.models.encoder import FeatureEncoder
from medldm.randomness import seeded
from medldm.run import Run
from medldm.training.data import contrasts, crop_size, images_of
from medldm.training.options import Training

LARGEST_CROP = 32
MOST_PAIRS = 64  # held-out cases that validation compares


def train_features(
    cohort: Path,
    out: Path,
    widths: tuple[int, ...] = (32, 64, 128),
    blocks: int = 1,
    training: Training = Training(steps=300, batch=32, learning_rate=5e-3, other_learning_rate=5e-3, validate_every=100),
    crop: tuple[int, int, int] | None = None,
    temperature: float = 0.1,
    seed: int = 0,
) -> Path:
    """Train a 3-D encoder on the split "train" so that two views of a place find each other; the split "val" shows how often they do.

    Its features serve perceptual losses and distances between cohorts where nothing can be downloaded. A stopped training
    continues from its last checkpoint when the same command is given again.

    Args:
        cohort: a folder made by `prepare`.
        out: the run folder.
        widths: channels at 1/2, 1/4, 1/8 ... of the resolution, multiples of 8.
        blocks: residual blocks per resolution.
        training: length, batch, learning rates, precision; each sample of a batch is told from all others.
        crop: voxels of a view; by default what fits every case, at most 32.
        temperature: of the comparison; lower ones look more at the likest others.
        seed: decides initial weights, order and views.

    Returns:
        The run folder.
    """
    arguments = dict(locals())
    training.check_trains()
    if training.batch < 2:
        raise UserError(f"training.batch={training.batch}: views are told from those of others, so at least 2 are needed.")
    if not 0 < temperature < math.inf:
        raise UserError(f"temperature={temperature} must be a positive number.")
    source = Cohort.load(cohort)
    train, val = images_of(source, cohort)
    with seeded(seed, "weights"):
        encoder = FeatureEncoder(contrasts(train), widths, blocks)
    size = crop_size(source.where(lambda case: case.status == "ok" and case.split in ("train", "val")), encoder.factor, crop, LARGEST_CROP)
    reads = {"cohort": source.fingerprint()}

    from medldm.training.features import FeatureTraining, Pairs, Views

    with seeded(seed, "head"):
        module = FeatureTraining(encoder, training, seed, size, temperature)
    run = Run.claim(out, "train-features", arguments, reads)  # nothing can be refused after this
    if run.finished:
        print(f"{out} is finished already.")
        return out
    parameters = sum(p.numel() for p in encoder.parameters())
    print(f"{parameters / 1e6:.2f} M parameters, {len(train)} cases, views of {'x'.join(map(str, size))}, {training.steps} steps of {training.batch}")
    pairs = Pairs(val, size, seed, MOST_PAIRS) if len(val) else None
    train_run(run, reads, module, Views(train, size, training.batch, seed), pairs, lambda: encoder, validation_batch=MOST_PAIRS)
    return out
