"""Train the network that knows the detail which a mean image, or a latent, leaves out."""

from pathlib import Path

from rich.progress import track

from medldm.cohort import Cohort
from medldm.commands.training_run import train_run
from medldm.commands.within import device
from medldm.diffusion.restoration import Restoration
from medldm.errors import UserError
from medldm.models.autoencoder import Autoencoder
from medldm.models.restorer import Restorer
from medldm.operators.anatomy import Anatomy
from medldm.randomness import seeded
from medldm.run import Run, load_model
from medldm.training.data import contrasts, crop_size, images_of, load
from medldm.training.guides import guided, residual_of
from medldm.training.options import Training
from medldm.types import Shape3

LARGEST_CROP = 32


def train_restorer(
    cohort: Path,
    out: Path,
    latents: Path | None = None,
    width: int = 64,
    blocks: int = 6,
    training: Training = Training(steps=3000, learning_rate=1.5e-3, other_learning_rate=1e-3, warm_up=50, final=0.03),
    crop: tuple[int, int, int] | None = None,
    seed: int = 0,
) -> Path:
    """Train a denoiser of voxels that is shown a first estimate of the image, on the split "train"; the split "val" shows progress.

    First estimates are the cohort's mean image and, with latents, what exact and disturbed ones decode to. `reconstruct` lets the
    denoiser and the measurements take turns, whatever they are of. A stopped training continues from its last checkpoint when the same
    command is given again.

    Args:
        cohort: a folder made by `prepare`.
        out: the run folder.
        latents: the folder that `cache-latents` made of the cohort, whose autoencoder makes guides; by default the mean image alone is one.
        width: channels of the blocks, at half resolution.
        blocks: residual blocks.
        training: length, batch, learning rates, precision.
        crop: voxels of a crop; by default what fits every case, at most 32.
        seed: decides initial weights, order, places and noise.

    Returns:
        The run folder.
    """
    arguments = dict(locals())
    training.check_trains()
    source, autoencoder = Cohort.load(cohort), None
    reads = {"cohort": source.fingerprint()}
    if latents is not None:
        autoencoder, coded = _autoencoder(latents, source, cohort)
        reads["latents"] = coded
    train, val = images_of(source, cohort)
    size = crop_size(source.where(lambda case: case.status == "ok" and case.split in ("train", "val")), 2, crop, LARGEST_CROP)

    from medldm.training.restorer import GuidedCrops, RestorerTraining

    with seeded(seed, "weights"):
        model = Restoration(Restorer(contrasts(train), width=width, blocks=blocks), _grid(train), train.cases[0].spacing)
    run = Run.claim(out, "train-restorer", arguments, reads)
    if run.finished:
        print(f"{out} is finished already.")
        return out
    volumes = load(train), load(val)
    model.learn(Anatomy.of([image for image, _ in volumes[0]], model.grid))
    cases, held_out = (list(track(guided(model.anatomy, autoencoder, part, seed), "guides", len(part))) for part in volumes)
    model.restorer.residual = residual_of(cases)
    _tell(model, len(train), size, training)
    whole = [(image, guides[0]) for image, guides in held_out]
    task = RestorerTraining(model.restorer, training, seed, size)
    train_run(run, reads, task, GuidedCrops(cases, size, training.batch, seed), whole or None, lambda: model)
    return out


def _tell(model: Restoration, cases: int, size: Shape3, training: Training) -> None:
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters / 1e6:.2f} M parameters, {cases} cases, crops of {'x'.join(map(str, size))}, {training.steps} steps of {training.batch}")
    print(f"root mean square of what guides leave out: {model.restorer.residual:.3f}")


def _autoencoder(latents: Path, source: Cohort, cohort: Path) -> tuple[Autoencoder, str]:
    """The autoencoder of latents, ready to decode, and their fingerprint.

    Raises:
        UserError: it is none, or the latents are of another cohort.
    """
    model = load_model(latents)
    if not isinstance(model, Autoencoder):
        raise UserError(f"{latents} holds a {type(model).__name__}, not an autoencoder.", "Give a folder of `medldm cache-latents`.")
    coded = Cohort.load(latents)
    if coded.parents.get("cohort") != source.fingerprint():
        raise UserError(f"{latents} holds latents of another cohort than {cohort}.", "Cache the latents of this one.")
    return model.eval().to(device()), coded.fingerprint()


def _grid(cohort: Cohort) -> Shape3:
    """The median size of a cohort's images."""
    i, j, k = (sorted(sizes)[len(sizes) // 2] for sizes in zip(*(case.shape for case in cohort), strict=True))
    return i, j, k
