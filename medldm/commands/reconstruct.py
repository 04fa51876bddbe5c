"""Reconstruct images from measurements, with a cohort's anatomy as the prior."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from medldm.cohort import Case, Cohort
from medldm.commands.measured_files import files, read
from medldm.commands.within import device, hold_to
from medldm.diffusion.calibrated import FILES, Reconstruction, Solved, without_paths
from medldm.diffusion.model import LatentDiffusion, load_diffusion
from medldm.diffusion.reconstruction import Measurement
from medldm.diffusion.restoration import Restoration, diverged
from medldm.errors import UserError
from medldm.files import read_json, sha256, write_csv
from medldm.machine import peak_memory
from medldm.metrics.base import Images, Score, write_scores
from medldm.operators.acquisitions import Acquisition
from medldm.operators.anatomy import Anatomy
from medldm.randomness import keyed
from medldm.report.inverse import Result, case_scores, write_page
from medldm.run import Run, load_model
from medldm.tracking import tracked
from medldm.volume import Volume, read_volume, write_volume

NEAR = 0.7  # residual over the noise below which the noise is doubted
UNLIKE = 1.5  # ratio of noise beyond which a calibration is another


@dataclass(frozen=True)
class Asked:
    """One reconstruction to make: truth [1 I J K] where it is known, the unit of the result being c (x + 1) for scale c, or x for None."""

    name: str
    patient: str
    of: Measurement
    affine: np.ndarray
    truth: Tensor | None = None
    scale: float | None = None


def reconstruct(
    cohort: Path,
    restorer: Path,
    out: Path,
    acquisition: Acquisition,
    measurements: Path | None = None,
    noise: float | None = None,
    run: Path | None = None,
    calibration: Path | None = None,
    count: int | None = None,
    samples: int = 0,
    seed: int = 0,
    memory: str | None = None,
) -> Cohort:
    """Reconstruct measured images, or held-out images of a cohort from simulated measurements.

    A classical method, the best linear estimate, restorer and measurements in turns and, with --run, a latent diffusion model each give an
    estimate; they are tuned and fused as was best on the patients of the split "val", whose measurements are simulated. The result
    agrees with the measurements as far as their noise allows, and comes with the standard deviation of its error at each voxel.

    Args:
        cohort: a folder made by `prepare`; its split "val" calibrates, its split "test" is measured where no files are given.
        restorer: a run of `train-restorer` on it.
        out: the new cohort: images, `std/`, `samples/`, `reconstruction.csv`, `trace.csv`, `report.html`; with known truth also `metrics.csv`.
        acquisition: the kind of measurement.
        measurements: a folder of files, see `measured_files.read`; results are called m001, m002 ... in their order. By default simulated.
        noise: standard deviation of measured numbers, in the unit of the files; estimated from k-space by default.
        run: a run of `train-diffusion` on the cohort, whose latents then take part.
        calibration: the output of an earlier `reconstruct` with the same cohort, models and acquisition, which spares tuning and calibrating.
        count: cases of the split "test" to simulate; all by default.
        samples: images drawn around each result, with errors of the size and smoothness that were measured.
        seed: decides what is simulated and drawn.
        memory: what the decoder of --run may take beside the weights, such as 8GB; volumes are then computed by slabs, with the same result.

    Returns:
        The cohort of results.
    """
    arguments = {name: value for name, value in locals().items() if name not in ("out", "memory")}
    source, restoration = Cohort.load(cohort), load_model(restorer)
    _check(source, restoration, samples, calibration is not None, measurements, noise, count)
    model, restoration = _diffusion(run, memory), restoration.eval().to(device())
    trained = _trained_on(source, {"restorer": restorer} | ({} if run is None else {"diffusion": run}))
    earlier = None if calibration is None else _calibration(calibration, trained, acquisition, restoration, model)
    found = files(measurements) if measurements is not None else []
    read_too = {"measurements": found, "calibration": [Path(calibration) / name for name in FILES] if calibration is not None else []}
    reads = trained | {name: sha256(*paths) for name, paths in read_too.items() if paths}
    asked = list(_read(found, acquisition, noise, restoration) if found else _simulated(source.split("test"), acquisition, count, seed))
    if (claimed := Run.claim(out, "reconstruct", arguments, reads)).finished:
        print(f"{out} is finished already.")
        return Cohort.load(out)
    with tracked(claimed, reads) as tracker:
        solve = earlier or _calibrated(source, acquisition, restoration, model, seed)
        solve.save(claimed.root, acquisition)
        results = [_solve(one, solve, samples, seed, claimed.root) for one in track(asked, "reconstructing")]
        scores = _written(claimed.root, results, acquisition, solve.calibration.names)
        tracker.metrics({score.name: score.value for score in scores})
        made = _cohort(claimed.root, results, source, reads)
        claimed.finish(reads, ["cohort.csv", "cohort.json", "reconstruction.csv"])
    _tell(results, scores, claimed.root)
    return made


def _check(
    source: Cohort, restoration: object, samples: int, calibrated: bool, measurements: Path | None, noise: float | None, count: int | None
) -> None:
    """Refuse what cannot be worked with.

    Raises:
        UserError: no restorer, no patients to calibrate on, a number out of range, or one that would be ignored.
    """
    if not isinstance(restoration, Restoration):
        raise UserError(f"--restorer holds a {type(restoration).__name__}.", "Give a run of train-restorer.")
    if not calibrated and not len(source.split("val")):
        raise UserError(f"{source.root} has no usable case in the split 'val', which calibrates.", "Prepare it with one.")
    if samples < 0 or (count is not None and count < 1):
        raise UserError(f"samples={samples} must be at least 0, count={count} at least 1.")
    if noise is not None and (measurements is None or not 0 < noise < math.inf):
        raise UserError(f"--noise {noise} is that of --measurements, above 0.", "Give --acquisition.noise for what is simulated and calibrated.")
    if count is not None and measurements is not None:
        raise UserError("--count is of simulated measurements; --measurements are all reconstructed.", "Leave --count away.")


def _trained_on(source: Cohort, runs: dict[str, Path]) -> dict[str, str]:
    """Fingerprints of a cohort and of models that were trained on it.

    Raises:
        UserError: a run names another cohort, whose training may have seen the patients who calibrate here.
    """
    found = {"cohort": source.fingerprint()}
    for name, run in runs.items():
        if read_json(Path(run) / "provenance.json")["reads"].get("cohort", found["cohort"]) != found["cohort"]:
            raise UserError(f"{run} was trained on another cohort than {source.root}.", "Give the cohort that it was trained on.")
        found[name] = sha256(Path(run) / "model.safetensors")
    return found


def _diffusion(run: Path | None, memory: str | None) -> LatentDiffusion | None:
    if run is None:
        if memory is not None:
            raise UserError("--memory is what the decoder of --run may take; there is no --run.", "Leave it away.")
        return None
    model = load_diffusion(run).eval().to(device())
    hold_to(model.autoencoder, memory, False, decodes=[model.grid])
    return model


def _simulated(cohort: Cohort, acquisition: Acquisition, count: int | None, seed: int) -> Iterator[Asked]:
    """Measurements of the first cases of a part of a cohort.

    Raises:
        UserError: there is none.
    """
    images = Images(cohort)
    if not len(images):
        raise UserError(f"{cohort.root} has no usable case to measure in the split 'test'.", "Give --measurements, or prepare it with one.")
    for index in range(len(images) if count is None else min(count, len(images))):
        case = images.cases[index]
        x = torch.from_numpy(images.image(index)).float().to(device())
        operator, y = acquisition.measure(x[None], case.spacing, seed, case.case)
        of = Measurement(operator, y, acquisition.noise, acquisition.measured(operator))
        affine = read_volume(cohort.path(case.image)).affine
        yield Asked(case.case, images.patients[index], of, affine, x)


def _read(paths: list[Path], acquisition: Acquisition, noise: float | None, restoration: Restoration) -> Iterator[Asked]:
    """Measurements of files, numbered: a file's name may be a patient's."""
    anatomy = Anatomy(restoration.mean.cpu(), restoration.spectrum.cpu())
    for number, path in enumerate(paths, 1):
        found, name = read(path, acquisition, noise, anatomy, restoration.spacing), f"m{number:03d}"
        print(f"{name}: scale {found.scale:.4g}, noise {found.of.noise:.3g} of images in [-1, 1]")
        if not acquisition.noise / UNLIKE <= found.of.noise <= acquisition.noise * UNLIKE:
            print(f"note: the acquisition that calibrates has noise {acquisition.noise:.3g}; set acquisition.noise to what was measured")
        of = replace(found.of, operator=found.of.operator.to(device()), y=found.of.y.to(device()))
        yield Asked(name, name, of, found.affine, None, found.scale)


def _calibration(
    root: Path, reads: dict[str, str], acquisition: Acquisition, restoration: Restoration, model: LatentDiffusion | None
) -> Reconstruction:
    """The calibration of an earlier output.

    Raises:
        UserError: it is of another cohort, other models or other measurements.
    """
    found = Reconstruction.load(Path(root), acquisition, restoration, model)
    before = read_json(Path(root) / "provenance.json")["reads"]
    if others := [name for name, value in reads.items() if before.get(name) != value]:
        raise UserError(f"{root} was calibrated with another {' and '.join(others)}.", "Leave --calibration away.")
    return found


def _calibrated(source: Cohort, acquisition: Acquisition, restoration: Restoration, model: LatentDiffusion | None, seed: int) -> Reconstruction:
    """Tuned and calibrated on simulated measurements of the split val; what came of it is told."""
    cases = [(one.truth, one.of) for one in _simulated(source.split("val"), acquisition, None, seed)]
    found = Reconstruction.calibrate(cases, acquisition, restoration, model, seed, track)
    if math.isinf(max(found.usual)):
        print("note: the split val has one case, which does not say what is usual: no result will be called out of distribution")
    print(f"on the split val, dB: {', '.join(f'{name} {10 * np.log10(4 / error):.2f}' for name, error in found.errors.items())}")
    return found


def _solve(one: Asked, solve: Reconstruction, samples: int, seed: int, root: Path) -> Result:
    begun = time.perf_counter()
    found = solve(one.of, seed)
    seconds = time.perf_counter() - begun
    image, std = found.image, found.std
    drawn = [solve.calibration.draw(image, std, keyed(seed, one.name, "sample", number)) for number in range(samples)]
    row = {
        "case": one.name,
        "residual_over_noise": round(found.residual, 4),
        "converged": found.converged,
        "out_of_distribution": found.out_of_distribution,
        "seconds": round(seconds, 2),
    }
    scale, air = (1.0, 0.0) if one.scale is None else (one.scale, 1.0)
    for path, voxels in (
        (f"std/{one.name}", scale * std),
        *((f"samples/{one.name}-{number}", scale * (sample + air)) for number, sample in enumerate(drawn)),
        (f"images/{one.name}", scale * (image + air)),
    ):
        write_volume(root / f"{path}.nii.gz", Volume(voxels.float(), one.affine))
    truth = None if one.truth is None else one.truth.cpu()
    return Result(one.name, one.patient, image, std, found.estimates["classical"], truth, one.affine, row, found.trace, doubts(found, one.of.noise))


def doubts(found: Solved, noise: float) -> tuple[str, ...]:
    """What speaks against a result whose measurements had noise of a standard deviation."""
    away = diverged(found.trace)
    reasons = {
        "is of the turn before its turns led away from the measurements": away,
        "does not explain the measurements": not found.converged and not away,
        "is nearer to the measurements than their noise: is that less than what was given or estimated?": noise > 0 and found.residual < NEAR,
        "does not look like the cohort": found.out_of_distribution,
    }
    return tuple(reason for reason, there in reasons.items() if there)


def _written(root: Path, results: list[Result], acquisition: Acquisition, names: Sequence[str]) -> list[Score]:
    """Tables and page; the scores, of which there are none where the truth is not known."""
    scores = case_scores(results)
    if scores:
        write_scores(root / "metrics.csv", scores)
    write_csv(root / "reconstruction.csv", [results[0].row, *(result.row.values() for result in results)])
    turns = [(result.name, turn, round(ratio, 5)) for result in results for turn, ratio in enumerate(result.trace, 1)]
    write_csv(root / "trace.csv", [("case", "turn", "residual_over_noise"), *turns])
    write_page(root / "report.html", results, scores, without_paths(acquisition), names)
    return scores


def _cohort(root: Path, results: list[Result], source: Cohort, reads: dict[str, str]) -> Cohort:
    cases = []
    for result in results:
        relative = f"images/{result.name}.nii.gz"
        i, j, k = result.image.shape[1:]
        cases.append(Case(result.name, result.patient, "", relative, "", sha256(root / relative), (i, j, k), result.spacing))
    made = Cohort(root, tuple(cases), "a.u.", {}, {}, reads, facts={"reconstructed": True})
    made.save()
    return made


def _tell(results: list[Result], scores: list[Score], root: Path) -> None:
    for score in scores:
        print(f"{score.name:24s} {score.value:9.4f}  [{score.low:.4f}, {score.high:.4f}]  n={score.n} {score.unit}")
    for result in results:
        for doubt in result.doubts:
            print(f"note: {result.name} {doubt} (residual {result.row['residual_over_noise']} times the noise)")
    print(f"At most {peak_memory()} of memory. Report: {root / 'report.html'}")
