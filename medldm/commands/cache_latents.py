"""Encode a cohort once, for the training of a diffusion model."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.progress import track
from safetensors.torch import save_file

from medldm.cohort import Case, Cohort
from medldm.commands.within import device, hold_to
from medldm.diffusion.denoiser import loss_floor
from medldm.diffusion.process import Flow
from medldm.errors import UserError
from medldm.files import atomic, read_json, sha256
from medldm.models.autoencoder import Autoencoder
from medldm.models.grain import Grain
from medldm.models.latents import Statistics, Window, encode, foreground, grid_for, statistics, weights_digest, window
from medldm.randomness import keyed
from medldm.run import Run, load_model, save_model
from medldm.tracking import Tracker, tracked
from medldm.training.latents import load_latents
from medldm.types import Shape3
from medldm.volume import read_volume

GRAIN_CASES = 16  # whose noise is measured


def cache_latents(
    cohort: Path, autoencoder: Path, out: Path, windows: int = 6, multiple: int = 2, memory: str | None = None, offload: bool = False, seed: int = 0
) -> Cohort:
    """Encode every case of a cohort as posterior mean and standard deviation, in windows of its own size.

    The folder carries the autoencoder with the latents' statistics, so that nothing else is needed to train on it.

    Args:
        cohort: a folder made by `prepare`.
        autoencoder: a run of `train-autoencoder` on that cohort.
        out: the cohort of latents.
        windows: per training case; the first is the largest, the others differ by up to a cell and serve as augmentation.
        multiple: the latent grid is a multiple of this; a denoiser with n levels needs 2^(n-1).
        memory: what encoding may take beside the weights, such as 8GB; volumes are then computed by slabs, with the same result.
        offload: keep activations in the memory of the host, for volumes that are too large for a GPU.
        seed: decides the windows.

    Returns:
        The cohort of latents.
    """
    cohort, autoencoder, out = Path(cohort), Path(autoencoder), Path(out)
    source, model = Cohort.load(cohort), load_model(autoencoder)
    _refuse_strangers(source, model, cohort, autoencoder)
    if windows < 1 or multiple < 1:
        raise UserError(f"windows={windows}, multiple={multiple}: both must be at least 1.")
    reads = {"cohort": source.fingerprint(), "autoencoder": sha256(autoencoder / "model.safetensors")}
    arguments = dict(cohort=cohort, autoencoder=autoencoder, windows=windows, multiple=multiple, seed=seed)
    usable = source.where(lambda case: case.status == "ok" and case.split != "")
    train = source.split("train")
    boxes = [_box(source, case) for case in train]
    most = max(n // model.factor for case in train for n in case.shape)
    if multiple > max(1, most):
        raise UserError(f"multiple={multiple} is more than the {most} cells of the largest case.", "Set 2^(levels - 1) of the denoiser.")
    grid = grid_for([case.shape for case in train], boxes, model.factor, multiple)
    hold_to(model, memory, offload, decodes=[grid], encodes=[tuple(cells * model.factor for cells in grid)])
    run = Run.claim(out, "cache-latents", arguments, reads)
    if run.finished:
        print(f"{out} is finished already.")
        return Cohort.load(out)
    model.to(device())
    with tracked(run, reads) as tracker:
        cases = [
            _encode_case(usable, case, model, run.root, grid, windows if case.split == "train" else 1, seed)
            for case in track(list(usable), "encoding")
        ]
        found = statistics(pair for case in cases if case.split == "train" for pair in load_latents(run.root / case.image))
        model.latent_mean.copy_(found.mean)
        model.latent_std.copy_(found.std(drawn=False))
        save_model(run.root, model)
        facts = {"grid": list(grid), "factor": model.factor, "voxel_spacing": _spacing(train)}
        facts |= {"noise_variance": found.noise.tolist(), "weights": weights_digest(model)}
        facts["grain"] = _grain(train, model, run.root, grid).facts()
        latents = Cohort(run.root, tuple(cases), "latent", source.labels, source.covariates, reads, facts=facts)
        latents.save()
        _tell(found, grid, model.factor, tracker)
        run.finish(reads, ["model.safetensors", "model.yaml", "cohort.csv", "cohort.json"])
    return latents


def _grain(train: Cohort, model: Autoencoder, root: Path, grid: Shape3) -> Grain:
    """The noise that decoding leaves out, from the largest windows of some training cases."""

    @torch.inference_mode()
    def pairs() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for case in track(train.cases[:: -(-len(train) // GRAIN_CASES)], "grain"):
            image, label = _load(train, case)
            where = window(case.shape, foreground(label, case.shape), model.factor, grid, None)
            mean, _ = load_latents(root / f"latents/{case.case}.safetensors")[0]
            decoded, _ = model.split(model.decode(model.whiten(mean[None].to(device()))))
            yield image[(slice(None), *where)], decoded[0].float().cpu()

    return Grain(model.image_channels).fit(pairs())


def _refuse_strangers(source: Cohort, model: object, cohort: Path, autoencoder: Path) -> None:
    if not isinstance(model, Autoencoder):
        raise UserError(f"{autoencoder} holds a {type(model).__name__}, not an autoencoder.", "Give a run of train-autoencoder.")
    trained_on = read_json(autoencoder / "provenance.json")["reads"]["cohort"]
    if trained_on != source.fingerprint():
        raise UserError(
            f"{autoencoder} was trained on another cohort ({trained_on[:12]}) than {cohort} ({source.fingerprint()[:12]}).",
            "Train an autoencoder on this cohort.",
        )


def _load(cohort: Cohort, case: Case) -> tuple[torch.Tensor, torch.Tensor | None]:
    return read_volume(cohort.path(case.image)).data, _label(cohort, case)


def _label(cohort: Cohort, case: Case) -> torch.Tensor | None:
    return read_volume(cohort.path(case.label), "label").data if case.label else None


def _box(cohort: Cohort, case: Case) -> list[tuple[int, int]]:
    return foreground(_label(cohort, case), case.shape)


def _encode_case(source: Cohort, case: Case, model: Autoencoder, root: Path, grid: Shape3, count: int, seed: int) -> Case:
    relative = f"latents/{case.case}.safetensors"
    path = root / relative
    image, label = _load(source, case)
    if min(image.shape[1:]) < model.factor:
        raise UserError(f"Case {case.case!r} has {tuple(image.shape[1:])} voxels, less than one latent cell of {model.factor}.", "Leave it out.")
    box = foreground(label, case.shape)
    generators = [None, *(keyed(seed, "window", case.case, number) for number in range(1, count))]
    chosen = [window(case.shape, box, model.factor, grid, generator) for generator in generators]
    if not path.is_file():
        latents = encode(model, image, label if model.label_count else None, _distinct(chosen))
        with atomic(path) as temporary:
            save_file(latents, temporary)
    cells = tuple((s.stop - s.start) // model.factor for s in chosen[0])
    spacing = tuple(s * model.factor for s in case.spacing)
    return replace(case, image=relative, label="", sha256=sha256(path), shape=cells, spacing=spacing)


def _distinct(windows: list[Window]) -> list[Window]:
    """Each window once: a volume without room to move gives the same one again."""
    return list({tuple((s.start, s.stop) for s in window): window for window in windows}.values())


def _spacing(train: Cohort) -> list[float]:
    """Median millimetres per voxel, which generated volumes get."""
    return [float(torch.tensor([case.spacing[axis] for case in train]).median()) for axis in range(3)]


def _tell(found: Statistics, grid: Shape3, factor: int, tracker: Tracker) -> None:
    """Print what the latents are like, and what draws would cost."""
    shares = found.noise_share.tolist()
    floor = loss_floor(found.noise_share, Flow())
    tracker.metrics({**{f"posterior_noise_share/{channel}": share for channel, share in enumerate(shares)}, "loss_floor": floor})
    print(f"grid {'x'.join(map(str, grid))} cells of {factor} voxels; posterior noise, of each channel's variance: {_percent(shares)}")
    print(f"trained on draws, a flow could not get its loss below {floor:.3g}; on posterior means there is no such floor")


def _percent(shares: Sequence[float]) -> str:
    return " ".join(f"{100 * share:.3g} %" for share in shares)
