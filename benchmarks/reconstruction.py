"""What the learned prior is worth for measurements of held-out patients, against tuned classical methods and the same fusion without a network.

    python benchmarks/reconstruction.py --cohort C --restorer R [--run DIFFUSION] --out out/reconstruction [--tasks r4 r8 ...] [--full]
        [--supervised STEPS] [--kspace FILE]

Everything is tuned and calibrated on the patients of the split "val" and judged on those of the split "test", with several masks or noise
draws each. `--supervised` trains a network for each task alone, too, `--kspace` takes coil maps from measured k-space [coils I J (K)] in place of
simulated ones. Estimates are kept in --out, so that a run that was stopped goes on. The quick mode has the tasks r4 and r8 and 8 patients,
`--full` all tasks.
"""

import argparse
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from supervised import Supervised

from medldm.cohort import Cohort
from medldm.commands.measured_kspace import calibration
from medldm.diffusion.latent_solver import LatentSolver, round_trip, unsaid_by
from medldm.diffusion.posteriors.uncertainty import trust
from medldm.diffusion.reconstruction import Calibration, Estimates, Measurement, Reconstructor
from medldm.diffusion.restoration import FACTORS, Restoration, Restored
from medldm.files import atomic, read_json, sha256, write_json
from medldm.machine import peak_memory, tune_allocator
from medldm.metrics.base import Images
from medldm.metrics.bootstrap import summarise
from medldm.metrics.paired import nmse, psnr, ssim
from medldm.operators.acquisitions import AcceleratedMRI, Acquisition, MissingBlock, Noisy, SparseCT, ThickSlices
from medldm.operators.anatomy import stretched
from medldm.operators.classical import Classical
from medldm.operators.masks import VariableDensity
from medldm.operators.mri import coil_maps
from medldm.operators.tuning import TUNING, candidates, tune
from medldm.run import build, describe, load_model


def mri(acceleration: float, coils: int = 1) -> AcceleratedMRI:
    """Variable density, with opposite frequencies in pairs: the known phase of a real image does not lower the acceleration."""
    return AcceleratedMRI(0.03, VariableDensity(acceleration, hermitian=True), coils)


TASKS: dict[str, Acquisition] = {
    "r4": mri(4),
    "r8": mri(8),
    "r4_8coils": mri(4, 8),
    "r8_8coils": mri(8, 8),
    "ct60": SparseCT(views=60),
    "ct30": SparseCT(views=30),
    "ct_arc": SparseCT(views=40, degrees=120.0),
    "thick": ThickSlices(),
    "block": MissingBlock(),
    "noise": Noisy(0.2),
}
QUICK = ("r4", "r8")
CUBE = (64, 64, 64)


@dataclass
class Case:
    """One measurement of one patient."""

    image: torch.Tensor  # [1 1 I J K]
    patient: str
    of: Measurement
    key: str


def cases(images: Images, acquisition: Acquisition, draws: int, count: int) -> list[Case]:
    """Simulated measurements of the first patients, some draws of each."""
    found = []
    for index in range(min(count, len(images))):
        x = image_of(images, index)[None]
        for draw in range(draws):
            key = f"{images.cases[index].case}-{draw}"
            operator, y = acquisition.measure(x, images.spacing(index), key)
            measurement = Measurement(operator, y, acquisition.noise, acquisition.measured(operator))
            found.append(Case(x, images.patients[index], measurement, key))
    return found


def image_of(images: Images, index: int) -> torch.Tensor:
    """[1 I J K]."""
    return torch.from_numpy(images.image(index)).float()


def measured_maps(path: Path, out: Path) -> str:
    """Coil maps of k-space whose middle is measured wholly, as a file for `AcceleratedMRI.maps`."""
    k = torch.from_numpy(np.load(path, allow_pickle=False))
    k = k[..., None] if k.ndim == 3 else k
    out.parent.mkdir(parents=True, exist_ok=True)
    np.save(out, coil_maps(k[None], calibration((k != 0).any(0))).numpy())
    return str(out)


def cube_seconds(solver: Reconstructor, acquisition: Acquisition, image: torch.Tensor) -> float:
    """How long the estimates of an image [C I J K] take that is stretched to 64^3."""
    x = stretched(image, CUBE)[None]
    operator, y = acquisition.measure(x, (1.0, 1.0, 1.0), "cube")
    begun = time.perf_counter()
    solver.estimates(Measurement(operator, y, acquisition.noise, acquisition.measured(operator)))
    return time.perf_counter() - begun


def check_same(path: Path, models: dict[str, str]) -> None:
    """Refuse a folder whose estimates are of other models."""
    if path.is_file() and read_json(path) != models:
        raise SystemExit(f"{path.parent} holds estimates of other models; give another --out.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, models)


def kept(path: Path, make) -> Estimates:
    """Images [C I J K] by name from a file, made first where it is not there."""
    if not path.is_file():
        found = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, **{name: image.numpy() for name, image in found.items()})
    with np.load(path) as held:
        return {name: torch.from_numpy(held[name]) for name in held.files}


def tuned(acquisition: Acquisition, known: list[Case], restoration: Restoration, path: Path) -> tuple[dict[str, Classical], Restored]:
    """Every classical method at its best settings, the best method first; and the restorer at its best. Kept in a file."""
    if not path.is_file():
        cases = [(c.of.operator, c.of.y, c.image) for c in known[:TUNING]]
        found = {name: tune(*begin, cases) for name, begin in candidates(acquisition, (1.0, 1.0, 1.0)).items()}
        best, _ = tune(Restored(restoration, acquisition.noise), FACTORS, cases)
        order = sorted(found, key=lambda name: found[name][1])
        write_json(path, {"classical": {name: describe(found[name][0]) for name in order}, "restored": [best.level, best.penalty]})
    held = read_json(path)
    methods = {name: build(method, str(path)) for name, method in held["classical"].items()}
    return methods, Restored(restoration, acquisition.noise, *held["restored"])


def estimates(case: Case, solver: Reconstructor, methods: dict[str, Classical], model) -> Estimates:
    """Everything that is compared, but fusions."""
    begun = time.perf_counter()
    found = solver.estimates(case.of)
    seconds = time.perf_counter() - begun
    with torch.inference_mode():
        found["zero-filled"] = case.of.operator.adjoint(case.of.y)[0]
        found |= {name: method(case.of.operator, case.of.y)[0] for name, method in methods.items()}
        if model is not None:
            found["round trip"] = round_trip(model.autoencoder, found["classical"][None].clamp(-1, 1))[0]
    return found | {"seconds": torch.tensor(seconds)}


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Run what is missing, print the tables and the RESULT line; the figures of every task, by `task_figure`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--restorer", type=Path, required=True)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS))
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--patients", type=int, default=8)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--supervised", type=int, default=0, metavar="STEPS")
    parser.add_argument("--kspace", type=Path)
    options = parser.parse_args(arguments)
    tune_allocator()
    cohort = Cohort.load(options.cohort)
    val, test = Images(cohort.split("val")), Images(cohort.split("test"))
    restoration: Restoration = load_model(options.restorer).eval()
    model = load_model(options.run).eval() if options.run else None
    latent = LatentSolver(model, unsaid_by(model.autoencoder, map(partial(image_of, val), range(len(val))))) if model else None
    models = {"restorer": options.restorer, "diffusion": options.run}
    check_same(options.out / "inputs.json", {name: sha256(path / "model.safetensors") for name, path in models.items() if path})
    maps = measured_maps(options.kspace, options.out / "maps.npy") if options.kspace else ""
    result: dict[str, float] = {}
    for task in options.tasks or (list(TASKS) if options.full else QUICK):
        acquisition, root = TASKS[task], options.out / task
        if isinstance(acquisition, AcceleratedMRI) and acquisition.coils > 1:
            acquisition = replace(acquisition, maps=maps)
        root.mkdir(parents=True, exist_ok=True)
        known, judged = cases(val, acquisition, 1, len(val)), cases(test, acquisition, options.draws, options.patients)
        methods, restored = tuned(acquisition, known, restoration, root / "tuned.json")
        best = next(iter(methods))
        solver = Reconstructor(methods[best], restored, latent)
        make = partial(estimates, solver=solver, methods=methods, model=model)
        if options.supervised:
            methods["supervised"] = network = Supervised(acquisition, restoration)
            network.fit(Images(cohort.split("train")), options.supervised, root / "supervised.safetensors")
        every = [kept(root / f"{case.key}.npz", partial(make, case)) for case in (*known, *judged)]
        result |= {f"{task}_{name}": value for name, value in table(task, known, judged, every, restoration, best).items()}
        print(f"  64^3: {cube_seconds(solver, acquisition, image_of(test, 0)):.1f} s; at most {peak_memory()} of memory so far")
    names = {
        "r4_gain_over_tv": "r4_over_tv",
        "r8_gain_over_tv": "r8_over_tv",
        "r8_gain_over_networkfree": "r8_over_networkfree",
        "ct30_gain_over_best_classical": "ct30_over_classical",
    }
    figures = {name: result.get(key, float("nan")) for name, key in names.items()}
    for name, pick in (("worst_gain", min), ("coverage90", np.mean), ("error_std_r", np.mean), ("seconds", max)):
        ending = {"worst_gain": "over_classical", "coverage90": "coverage", "error_std_r": "r", "seconds": "seconds"}[name]
        figures[name] = float(pick([value for key, value in result.items() if key.endswith(f"_{ending}")]))
    print("RESULT " + " ".join(f"{name}={value:.3f}" for name, value in figures.items()))
    return result


def gaussian_likeness(std: torch.Tensor) -> float:
    """Correlation of |e| with s where e is normal with exactly these standard deviations: what a perfect map of this spread reaches.

    E|e| = sqrt(2 / pi) s, so that r = sqrt(2 / pi) sd(s) / sqrt(E s^2 - 2 / pi (E s)^2).
    """
    s = std.double()
    return float((2 / np.pi) ** 0.5 * s.std(correction=0) / (s.square().mean() - 2 / np.pi * s.mean() ** 2).sqrt())


def table(task: str, known: list[Case], judged: list[Case], every: list[Estimates], restoration: Restoration, best: str) -> dict[str, float]:
    """Print the rows of one task; its figures for the RESULT line."""
    fitting, found = every[: len(known)], every[len(known) :]
    inputs = [name for name in ("classical", "linear", "restored", "latent") if name in found[0]]
    calibrated = {}
    fusions = {"fusion": inputs, "no network": ["classical", "linear"]} | ({"no latents": inputs[:3]} if "latent" in inputs else {})
    for name, used in fusions.items():
        calibration = Calibration.fit([(c.image[0], c.of, e) for c, e in zip(known, fitting, strict=True)], restoration, used)
        calibrated[name] = [calibration(c.of, e) for c, e in zip(judged, found, strict=True)]
        for estimate, (image, _) in zip(found, calibrated[name], strict=True):
            estimate[name] = image
    patients = [c.patient for c in judged]
    truths = [c.image[0, 0].numpy() for c in judged]
    rows = [name for name in found[0] if name not in ("seconds", "classical")]
    values = {
        name: np.array([[score(e[name][0].clamp(-1, 1).numpy(), x) for score in (psnr, ssim, nmse)] for e, x in zip(found, truths, strict=True)])
        for name in rows
    }
    print(f"\n{task}: {len(set(patients))} patients, {len(judged)} measurements, best classical {best}")
    for name in sorted(rows, key=lambda row: values[row][:, 0].mean()):
        gain = summarise("gain", values["fusion"][:, 0] - values[name][:, 0], patients)
        told = "" if name == "fusion" else f"  fusion {gain.value:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]"
        print(f"  {name:12s} {values[name][:, 0].mean():6.2f} dB  SSIM {values[name][:, 1].mean():.4f}  NMSE {values[name][:, 2].mean():.4f}{told}")
    trusted = [trust(image - c.image[0], std) for (image, std), c in zip(calibrated["fusion"], judged, strict=True)]
    coverage, likeness = (float(np.mean(part)) for part in zip(*trusted, strict=True))
    seconds = float(np.mean([float(e["seconds"]) for e in found]))
    perfect = float(np.mean([gaussian_likeness(std) for _, std in calibrated["fusion"]]))
    told = f"error and standard deviation r {likeness:.2f} (of Gaussian errors {perfect:.2f})"
    print(f"  90 % intervals cover {coverage:.3f}; {told}; {seconds:.1f} s a case")
    over = {
        f"over_{label}": float((values["fusion"] - values[name])[:, 0].mean())
        for label, name in (("tv", "tv"), ("networkfree", "no network"), ("classical", best))
    }
    return over | {"coverage": coverage, "r": likeness, "seconds": seconds}


if __name__ == "__main__":
    main()
