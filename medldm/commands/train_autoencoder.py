"""Train an autoencoder on a cohort."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from medldm.cohort import Cohort
from medldm.commands.training_run import train_run
from medldm.commands.within import device
from medldm.data.steps.torchio_augment import Augment
from medldm.errors import UserError
from medldm.files import sha256
from medldm.models.adversarial import Adversarial
from medldm.models.autoencoder import Autoencoder
from medldm.models.lean import LeanAutoencoder
from medldm.models.losses import AutoencoderLoss
from medldm.models.perceptual import Perceptual
from medldm.models.pretrained import load_weights
from medldm.models.quantized import QuantizedAutoencoder
from medldm.randomness import seeded
from medldm.run import Run
from medldm.training.data import Crops, Whole, contrasts, crop_size, images_of, load
from medldm.training.options import Training
from medldm.training.volumes import even_volumes


def train_autoencoder(
    cohort: Path,
    out: Path,
    model: Callable[[int, int], Autoencoder] = LeanAutoencoder,
    loss: AutoencoderLoss = AutoencoderLoss(),
    training: Training = Training(steps=1800),
    crop: tuple[int, int, int] | None = None,
    with_labels: bool = True,
    augment: Augment | None = None,
    perceptual: Perceptual | None = None,
    adversarial: Adversarial | None = None,
    whole_from: float | None = None,
    weights: Path | None = None,
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
        with_labels: code image and label map together, so that generated volumes come with labels, structures with their true volumes.
        augment: random changes of the crops beside small ones of brightness and contrast; none by default.
        perceptual: a term of the loss from the features of a network in a local file; none by default.
        adversarial: a term of the loss from discriminators that are trained along; none by default.
        whole_from: share of the steps after which whole volumes are taken, one a step, instead of crops; never by default.
        weights: a file of MONAI, MAISI or an earlier run to start from, or with training.steps 0 to import; random by default.
        seed: decides initial weights, order, crops and noise.

    Returns:
        The run folder.
    """
    arguments = dict(locals())
    source = Cohort.load(cohort)
    train, val = images_of(source, cohort)
    network = _network(model, train, _labels(source, cohort) if with_labels else 0, seed)
    _check_codes(network, loss)
    _start(network, weights, training.steps)
    size = crop_size(train, network.factor, crop)
    whole = _whole(whole_from, training.steps, network.factor)
    if adversarial:
        adversarial.check(size, training.steps)

    from medldm.training.autoencoder import AutoencoderTraining

    module = AutoencoderTraining(network, loss, training, seed, size, perceptual, adversarial)
    reads = _reads(source, perceptual, weights)
    run = Run.claim(out, "train-autoencoder", arguments, reads)  # nothing can be refused after this
    if run.finished:
        print(f"{out} is finished already.")
        return out
    print(f"{_told(network)}, {len(train)} cases, crops of {'x'.join(map(str, size))}, {training.steps} steps of {training.batch}")
    crops = Crops(train, size, training.batch, seed, augment, whole)
    train_run(run, reads, module, crops, load(val), partial(_trained, network, crops, training.steps, seed), single_from=whole and whole.first)
    return out


def _reads(source: Cohort, perceptual: Perceptual | None, weights: Path | None) -> dict[str, str]:
    """Role -> fingerprint or sha256 of everything that the training depends on."""
    reads = {"cohort": source.fingerprint()}
    if perceptual:
        reads["perceptual"] = perceptual.fingerprint()
    if weights:
        reads["weights"] = sha256(weights)
    return reads


def _network(model: Callable[[int, int], Autoencoder], train: Cohort, labels: int, seed: int) -> Autoencoder:
    """A new network for the images and labels of a cohort."""
    with seeded(seed, "weights"):
        return model(contrasts(train), labels)


def _start(network: Autoencoder, weights: Path | None, steps: int) -> None:
    """Load the weights to start from, and say what was read.

    Raises:
        UserError: they do not fit, or there is neither anything to load nor to train.
    """
    if weights:
        print(load_weights(network, weights))
        if not steps and isinstance(network, QuantizedAutoencoder) and not network.updates:
            raise UserError(f"{weights} holds no codes.", "Give at least 1 step to learn them, or import it as the model that it was made from.")
    elif not steps:
        raise UserError("training.steps=0 trains nothing.", "Give at least 1 step, or an autoencoder to import as --weights.")


def _whole(whole_from: float | None, steps: int, factor: int) -> Whole | None:
    """When whole volumes follow the crops.

    Raises:
        UserError: it is no share of the steps.
    """
    if whole_from is None:
        return None
    if not 0 < whole_from < 1:
        raise UserError(f"whole_from is {whole_from}; a share of the steps between 0 and 1 was expected.", "Leave it away for crops alone.")
    first = max(1, round(whole_from * steps))
    if first >= steps:
        raise UserError(f"whole_from={whole_from} of {steps} steps leaves no step for whole volumes.", "Set a smaller share, or train longer.")
    return Whole(first, factor)


def _trained(network: Autoencoder, crops: Crops, steps: int, seed: int) -> Autoencoder:
    """The trained network, with its structures at their true volumes; what was only imported stays as it is."""
    if network.label_count and steps:
        print(even_volumes(network.to(device()).eval(), crops.volumes, seed))
    return network


def _told(network: Autoencoder) -> str:
    """Size of a network, and the rate of its codes."""
    size = f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f} M parameters"
    if not isinstance(network, QuantizedAutoencoder):
        return size
    return f"{size}, {network.groups} x {network.codes} codes ({network.bits_per_voxel:.3g} bits a voxel)"


def _check_codes(network: Autoencoder, loss: AutoencoderLoss) -> None:
    """Refuse settings of a term that latents of this kind do not have."""
    usual = AutoencoderLoss()
    if not isinstance(network, QuantizedAutoencoder):
        if loss.commitment != usual.commitment:
            raise UserError("loss.commitment concerns codes, which this model does not have.", "Leave it away, or set loss.kl.")
    elif loss.free_bits or loss.kl_warm_up or loss.kl != usual.kl:
        raise UserError(
            "loss.kl, loss.free_bits and loss.kl_warm_up concern a divergence that quantised latents do not have.",
            "Leave them away, or set loss.commitment.",
        )


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
