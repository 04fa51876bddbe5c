"""Generate a labelled cohort."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.progress import track

from medldm.cohort import Case, Cohort
from medldm.commands.within import device, hold_to
from medldm.diffusion.conditions.base import Value
from medldm.diffusion.model import LatentDiffusion, load_diffusion
from medldm.diffusion.samplers.base import Sampler
from medldm.diffusion.samplers.dpmpp import DpmPlusPlus
from medldm.diffusion.steering import Steering
from medldm.errors import UserError
from medldm.files import atomic, read_json, sha256
from medldm.metrics.base import Images
from medldm.provenance.code import identity, key_of
from medldm.provenance.keys import MARKS, fingerprint, secret, signing_key
from medldm.provenance.latent_mark import marked
from medldm.randomness import keyed
from medldm.report.mosaic import mosaic
from medldm.report.reconstruction import stored_picture
from medldm.run import Run
from medldm.tracking import tracked
from medldm.volume import Volume, read_volume, write_volume

MOST_GRAIN = 10


def generate(
    run: Path,
    count: int,
    out: Path,
    conditions: dict[str, float | str] | None = None,
    guidance: float = 1.5,
    sampler: Sampler = DpmPlusPlus(20),
    steering: Steering | None = Steering(),
    grain: float = 0.0,
    key: Path | None = None,
    batch: int = 8,
    memory: str | None = None,
    offload: bool = False,
    seed: int = 0,
) -> Cohort:
    """Generate volumes, with label maps where the model knows labels.

    Each case's noise and conditions depend on the seed and its number alone: case 7 is the same in any count and batch, up to
    rounding in float32. An interrupted generation continues with the cases that are missing.

    Args:
        run: a run of `train-diffusion`.
        count: cases.
        out: the cohort, marked synthetic; its covariates hold what was asked for.
        conditions: covariate -> value for all cases; the others are drawn to go with them, as in the training cohort.
        guidance: 1 follows the conditions as learned, more overstates them.
        sampler: solver and number of steps.
        steering: holds the labels to the volumes asked for (conditions `volume_<label>`); null leaves it to the conditions.
        grain: share of what decoding leaves out that is added as noise; .75 came nearest to real hippocampi. Where edges are left out too, it harms.
        key: private key of whoever signs, see `release`: the signs of the starting noise then are a watermark, which `verify --run` reads.
        batch: cases computed at once.
        memory: what decoding may take beside the weights, such as 8GB; volumes are then computed by slabs, with the same result.
        offload: keep activations in the memory of the host, for volumes that are too large for a GPU.
        seed: decides noise and drawn conditions.

    Returns:
        The cohort.
    """
    arguments = {name: value for name, value in locals().items() if name not in ("out", "key", "memory", "offload")}
    if count < 1 or batch < 1 or not 0 <= grain <= MOST_GRAIN:
        raise UserError(f"count={count}, batch={batch}: both must be at least 1; grain={grain} must lie in [0, {MOST_GRAIN}].")
    run, out = Path(run), Path(out)
    fixed: dict[str, Value] = dict(conditions or {})
    model = _open(run, fixed)
    noise, reads = _starts(model, run, seed, key)
    hold_to(model.autoencoder, memory, offload, decodes=[model.grid])
    claimed = Run.claim(out, "generate", arguments, reads)
    if claimed.finished:
        print(f"{out} is finished already.")
        return Cohort.load(out)
    with tracked(claimed, reads) as tracker:
        missing = {index for index in range(count) if not _whole(claimed.root, index, model)}
        for start in track(range(0, count, batch), "generating"):  # the same batches after an interruption, so that the same bits come out
            indices = list(range(start, min(start + batch, count)))
            if missing & set(indices):
                _write_batch(model, indices, claimed.root, fixed, sampler, guidance, steering, grain, seed, noise)
        cohort = _cohort(claimed.root, model, count, seed, fixed, reads, read_json(run / "provenance.json").get("facts", {}))
        tracker.artifact(claimed.root / "samples.png")
        claimed.finish(reads, ["cohort.csv", "cohort.json"])
    return cohort


def _open(run: Path, fixed: dict[str, Value]) -> LatentDiffusion:
    """The model of a run, if it is a diffusion model that knows these conditions."""
    model = load_diffusion(run)
    model.denoiser.encode(fixed)
    for name in model.population.beyond(fixed):
        print(f"note: {name}={fixed[name]} lies beyond the middle 95 % of the training cohort")
    return model.to(device())


def _files(index: int, labels: bool) -> tuple[str, str]:
    name = f"synthetic-{index:06d}.nii.gz"
    return f"images/{name}", f"labels/{name}" if labels else ""


def _whole(root: Path, index: int, model: LatentDiffusion) -> bool:
    """Writing is atomic and the label map comes first, so an image means that both are there."""
    return (root / _files(index, bool(model.labels))[0]).is_file()


def _starts(model: LatentDiffusion, run: Path, seed: int, key: Path | None) -> tuple[Callable[[int], torch.Tensor], dict[str, str]]:
    """What gives the starting noise of each case, and what is read, with the key if there is one."""
    reads = {"diffusion": sha256(run / "model.safetensors"), **read_json(run / "provenance.json")["reads"]}
    if key is None:
        return partial(_noise, model, reads["diffusion"], seed, b""), reads
    signer = signing_key(key)
    reads = {**reads, "key": fingerprint(signer.public_key().public_bytes_raw())}
    return partial(_noise, model, reads["diffusion"], seed, secret(signer, MARKS)), reads


def _noise(model: LatentDiffusion, weights: str, seed: int, hidden: bytes, index: int) -> torch.Tensor:
    """Starting noise of a case, with its watermark where there is a secret."""
    noise, name = model.noise(seed, index), identity(hidden, weights, seed, index)
    return marked(noise, key_of(hidden, name), name) if hidden else noise


def _write_batch(
    model: LatentDiffusion,
    indices: list[int],
    root: Path,
    fixed: dict[str, Value],
    sampler: Sampler,
    guidance: float,
    steering: Steering | None,
    grain: float,
    seed: int,
    noise: Callable[[int], torch.Tensor],
) -> None:
    asked, extents = zip(*(model.ask(seed, index, fixed) for index in indices), strict=True)
    device = model.autoencoder.latent_mean.device
    latents = model.sample(torch.stack([noise(index) for index in indices]).to(device), asked, extents, sampler, guidance, steering)
    for index, latent, extent in zip(indices, latents, extents, strict=True):
        if _whole(root, index, model):
            continue
        image, label = model.decode(latent, extent)
        if model.grain is not None:
            image = model.grain(image.float(), keyed(seed, "grain", index), grain)
        affine = model.affine(image.shape[1:])
        image_file, label_file = _files(index, label is not None)
        if label is not None:
            write_volume(root / label_file, Volume(label.cpu(), affine, "label"))
        write_volume(root / image_file, Volume(image.float().cpu(), affine))


def _cohort(root: Path, model: LatentDiffusion, count: int, seed: int, fixed: dict[str, Value], reads: dict[str, str], known: dict) -> Cohort:
    """What was generated, with what was asked for as covariates, the seed of each case and what is known of the model; also as `samples.png`."""
    cases = tuple(_case(root, index, model, seed, fixed) for index in range(count))
    facts = {**known, "seeds": {case.case: [seed, index] for index, case in enumerate(cases)}, "release": "unreleased"}
    cohort = Cohort(root, cases, "a.u.", model.labels, dict(model.units), reads, synthetic=True, facts=facts)
    cohort.save()
    _show(cohort, root / "samples.png")
    return cohort


def _case(root: Path, index: int, model: LatentDiffusion, seed: int, fixed: dict[str, Value]) -> Case:
    image, label = _files(index, bool(model.labels))
    volume = read_volume(root / image)
    digest = sha256(root / image, *([root / label] if label else []))
    name = f"synthetic-{index:06d}"
    return Case(name, name, "", image, label, digest, volume.shape, volume.spacing, covariates=model.ask(seed, index, fixed)[0])


def _show(cohort: Cohort, path: Path) -> None:
    """Slices of the first cases, four a row."""
    images = Images(cohort)
    pictures = [stored_picture(images, index) for index in range(min(12, len(images)))]
    with atomic(path) as temporary:
        temporary.write_bytes(mosaic([pictures[start : start + 4] for start in range(0, len(pictures), 4)]))
