"""Train the network that knows the detail which latents cannot carry."""

import math
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from medldm.cohort import Cohort
from medldm.commands.training_run import train_run
from medldm.commands.within import device
from medldm.errors import UserError
from medldm.models.autoencoder import Autoencoder, pad_to_multiple
from medldm.models.restorer import Restorer
from medldm.randomness import keyed, seeded
from medldm.run import Run, load_model
from medldm.training.data import contrasts, crop_size, images_of, load
from medldm.training.options import Training

LARGEST_CROP = 32
DISTURBANCES = (0.0, 0.25, 0.5)  # of whitened latents: those that measurements lead to are not exact


def train_restorer(
    cohort: Path,
    latents: Path,
    out: Path,
    width: int = 64,
    blocks: int = 6,
    training: Training = Training(steps=3000, learning_rate=5e-3, other_learning_rate=2e-3, warm_up=50, final=0.03),
    crop: tuple[int, int, int] | None = None,
    seed: int = 0,
) -> Path:
    """Train a denoiser of voxels that is shown decoded latents, on the split "train"; the split "val" shows progress.

    With it `reconstruct` finds the detail between what the autoencoder can say and the image. A stopped training continues from its
    last checkpoint when the same command is given again.

    Args:
        cohort: a folder made by `prepare`.
        latents: the folder that `cache-latents` made of it; its autoencoder makes the guides, of exact and of disturbed latents.
        out: the run folder.
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
    source, autoencoder = Cohort.load(cohort), load_model(latents)
    if not isinstance(autoencoder, Autoencoder):
        raise UserError(f"{latents} holds a {type(autoencoder).__name__}, not an autoencoder.", "Give a folder of `medldm cache-latents`.")
    coded = Cohort.load(latents)
    if coded.parents.get("cohort") != source.fingerprint():
        raise UserError(f"{latents} holds latents of another cohort than {cohort}.", "Cache the latents of this one.")
    train, val = images_of(source, cohort)
    size = crop_size(source.where(lambda case: case.status == "ok" and case.split in ("train", "val")), 2, crop, LARGEST_CROP)
    reads = {"cohort": source.fingerprint(), "latents": coded.fingerprint()}

    from medldm.training.restorer import GuidedCrops, RestorerTraining

    with seeded(seed, "weights"):
        model = Restorer(contrasts(train), width=width, blocks=blocks)
    run = Run.claim(out, "train-restorer", arguments, reads)
    if run.finished:
        print(f"{out} is finished already.")
        return out
    autoencoder.eval().to(device())
    cases, held_out = (guided(autoencoder, part, seed) for part in (train, val))
    model.residual = residual_of(cases)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters / 1e6:.2f} M parameters, {len(train)} cases, crops of {'x'.join(map(str, size))}, {training.steps} steps of {training.batch}")
    print(f"root mean square of what decoding leaves out: {model.residual:.3f}")
    whole = [(image, guides[0]) for image, guides in held_out]
    train_run(run, reads, RestorerTraining(model, training, seed, size), GuidedCrops(cases, size, training.batch, seed), whole or None, lambda: model)
    return out


@torch.inference_mode()
def guided(autoencoder: Autoencoder, cohort: Cohort, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Each image [C I J K] with the decoded images of its exact and its disturbed latents [G C I J K]."""
    found = []
    for index, (image, label) in enumerate(track(load(cohort), "decoding")):
        x = autoencoder.join(image[None], label[None] if autoencoder.label_count else None).to(autoencoder.latent_mean.device)
        padded, crop = pad_to_multiple(x, autoencoder.factor)
        z = autoencoder.whiten(autoencoder.encode(padded)[0])
        e = torch.randn(z.shape, generator=keyed(seed, "disturbance", index)).to(z)
        guides = [autoencoder.split(autoencoder.decode(z + share * e)[(..., *crop)])[0][0].float().cpu() for share in DISTURBANCES]
        found.append((image, torch.stack(guides)))
    return found


def residual_of(cases: list[tuple[Tensor, Tensor]]) -> float:
    """Root mean square of images minus what their exact latents decode to."""
    return math.sqrt(sum(float((image - guides[0]).square().mean()) for image, guides in cases) / len(cases))
