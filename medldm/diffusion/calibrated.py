"""A reconstruction ready for use: tuned and calibrated on patients whose truth is known, and able to say when it is not to be believed."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import torch
from safetensors.torch import load_file, save_file
from scipy.stats import t as student
from torch import Tensor

from medldm.diffusion.latent_solver import LatentSolver, unsaid_by
from medldm.diffusion.model import LatentDiffusion
from medldm.diffusion.posteriors.fusion import Fusion
from medldm.diffusion.posteriors.refine import residual_ratio
from medldm.diffusion.posteriors.uncertainty import ErrorModel, error_network
from medldm.diffusion.reconstruction import Calibration, Estimates, Measurement, Reconstructor
from medldm.diffusion.restoration import FACTORS, Restoration, Restored, diverged
from medldm.errors import UserError
from medldm.files import atomic, read_json, sha256, write_json
from medldm.operators.acquisitions import AcceleratedMRI, Acquisition
from medldm.operators.scanners import RadialMRI
from medldm.operators.tuning import TUNING, candidates, tune
from medldm.run import build, describe, differences

STRANGE = 1e-3  # share of usual images that may be called strange
LEVEL = 0.1  # at which a result is looked at for strangeness
EXPLAINED = 1.5  # times the noise, up to which measurements count as explained
MET = 2e-4  # of the measurements, where they have no noise; `refine` comes to half of it in single precision
FILES = ("calibration.json", "calibration.safetensors")

#: True image [1 I J K] and what was measured of it.
Known = tuple[Tensor, Measurement]
#: Wraps a loop to show its progress, given what it does.
Watch = Callable[[Iterable, str], Iterable]


@dataclass(frozen=True)
class Solved:
    """One image and what is known of it.

    Args:
        image: [1 I J K] in units of [-1, 1], in the memory of the host.
        std: standard deviation of its error, likewise.
        estimates: that it was fused from.
        residual: over the noise, see `residual_ratio`.
        trace: residual over the noise after each turn of restorer and measurements.
        converged: the measurements are explained, and the turns did not lead away.
        out_of_distribution: it does not look like the cohort, see `strangeness`.
    """

    image: Tensor
    std: Tensor
    estimates: Estimates
    residual: float
    trace: list[float]
    converged: bool
    out_of_distribution: bool


@dataclass(frozen=True)
class Reconstruction:
    """From measurements of one kind to images.

    Args:
        solver: gives the estimates.
        calibration: fuses them.
        usual: the largest `strangeness` of a result that looks like the cohort.
        errors: mean squared error of each tuned method and of the restorer on the cases they were tuned on, best method first.
    """

    solver: Reconstructor
    calibration: Calibration
    usual: tuple[float, ...]
    errors: Mapping[str, float]

    def save(self, root: Path, acquisition: Acquisition) -> None:
        """Write `calibration.json` and `calibration.safetensors` into a folder, for `load`."""
        restored, calibration = self.solver.restored, self.calibration
        errors, latent = calibration.errors, self.solver.latent
        content = {
            "acquisition": describe(without_paths(acquisition)),
            "classical": describe(self.solver.classical),
            "restored": {"noise": restored.noise, "level": restored.level, "penalty": restored.penalty, "turns": restored.turns},
            "names": list(calibration.names),
            "usual": list(self.usual),
            "errors": dict(self.errors),
            "scale": errors.scale,
        }
        tensors = {"weights": calibration.fusion.weights, "spectrum": calibration.spectrum, "mean": errors.mean, "std": errors.std}
        tensors |= {f"network.{name}": value for name, value in errors.network.state_dict().items()}
        tensors |= {} if latent is None else {"unsaid": latent.unsaid}
        with atomic(root / FILES[1]) as temporary:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
        write_json(root / FILES[0], content)

    @classmethod
    def load(cls, root: Path, acquisition: Acquisition, restoration: Restoration, model: LatentDiffusion | None = None) -> "Reconstruction":
        """What `save` wrote, for the same kind of measurement and the same models.

        Args:
            root: folder.
            acquisition, restoration, model: as in `calibrate`.

        Raises:
            UserError: there is none, or it is of other measurements, or with or without latents unlike now.
        """
        if not all((root / name).is_file() for name in FILES):
            raise UserError(f"{root} holds no calibration.", "Give the output of `reconstruct`.")
        content, tensors = read_json(root / FILES[0]), load_file(root / FILES[1])
        asked = describe(without_paths(acquisition))
        if content["acquisition"] != asked:
            told = ", ".join(differences(content["acquisition"]["init_args"], asked["init_args"])) or "another kind"
            raise UserError(f"{root} was calibrated for other measurements ({told}).", "Leave --calibration away.")
        if ("unsaid" in tensors) != (model is not None):
            raise UserError(f"{root} was calibrated {'with' if model is None else 'without'} latents.", "Give the same --run, or none, as there.")
        latent = None if model is None else LatentSolver(model, tensors["unsaid"])
        solver = Reconstructor(build(content["classical"], str(root)), Restored(restoration, **content["restored"]), latent)
        network = error_network(len(tensors["mean"]))
        network.load_state_dict({name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")})
        errors = ErrorModel(network.eval(), tensors["mean"], tensors["std"], content["scale"])
        calibration = Calibration(tuple(content["names"]), restoration, Fusion(tensors["weights"]), tensors["spectrum"], errors)
        return cls(solver, calibration, tuple(content["usual"]), content["errors"])

    @classmethod
    def calibrate(
        cls,
        known: Sequence[Known],
        acquisition: Acquisition,
        restoration: Restoration,
        model: LatentDiffusion | None = None,
        seed: int = 0,
        watch: Watch = lambda steps, doing: steps,
    ) -> "Reconstruction":
        """Tune classical methods and the restorer on the first cases, fit weights and errors on all.

        Args:
            known: cases that no model was trained on and that will not be judged.
            acquisition: what kind of measurement they are.
            restoration: of `train-restorer`.
            model: of `train-diffusion`, whose latents then take part.
            seed: of the walk of latents.
            watch: shows progress.

        Raises:
            UserError: there is no case.
        """
        cases = [(of.operator, of.y, truth[None]) for truth, of in known[:TUNING]]
        begun = candidates(acquisition, restoration.spacing)
        tuned = {name: tune(method, factors, cases) for name, (method, factors) in watch(begun.items(), "tuning")}
        errors = {name: error for name, (_, error) in sorted(tuned.items(), key=lambda item: item[1][1])}
        restored, errors["restored"] = tune(Restored(restoration, acquisition.noise), FACTORS, cases)
        latent = None if model is None else LatentSolver(model, unsaid_by(model.autoencoder, [truth for truth, _ in known]))
        solver = Reconstructor(tuned[next(iter(errors))][0], restored, latent)
        solved = [(truth.cpu(), of, solver.estimates(of, seed)) for truth, of in watch(known, "calibrating")]
        calibration = Calibration.fit(solved, restoration, list(solved[0][2]))
        strange = torch.stack([strangeness(restoration, calibration(of, estimates)[0]) for _, of, estimates in solved])
        return cls(solver, calibration, tuple(map(highest, strange.T.tolist())), errors)

    def __call__(self, of: Measurement, seed: int = 0) -> Solved:
        """The image of a measurement.

        Args:
            of: what was measured.
            seed: of the walk of latents.
        """
        trace: list[float] = []
        estimates = self.solver.estimates(of, seed, trace)
        image, std = self.calibration(of, estimates)
        ratio = float(residual_ratio(of.operator, of.y, image[None].to(of.y.device), of.noise))
        converged = ratio < (EXPLAINED if of.noise > 0 else MET) and not diverged(trace)
        strange = strangeness(self.solver.restored.restoration, image) > torch.tensor(self.usual)
        return Solved(image, std, estimates, ratio, trace, converged, bool(strange.any()))


def without_paths(acquisition: Acquisition) -> Acquisition:
    """With the sha256 of a file of coil maps in place of its path, which may be a patient's name."""
    if not isinstance(acquisition, AcceleratedMRI | RadialMRI) or not acquisition.maps:
        return acquisition
    return replace(acquisition, maps=sha256(Path(acquisition.maps)))


def strangeness(restoration: Restoration, image: Tensor) -> Tensor:
    """Two numbers that are large where a result [1 I J K] does not look like the cohort.

    How much the restorer would change it, root mean square: texture and detail; and how far it is from the mean image (see
    `Anatomy.distance`): shape, contrast and place.
    """
    there = image[None].to(restoration.mean.device)
    return torch.tensor([float((restoration.clean(there, LEVEL) - there).square().mean().sqrt()), restoration.anatomy.distance(image)])


def highest(values: Sequence[float]) -> float:
    """What one more of these values exceeds with the probability STRANGE, if they are normal: m + t s (1 + 1 / n)^(1/2); infinite for one value."""
    if len(values) < 2:
        return math.inf
    spread = stdev(values) * math.sqrt(1 + 1 / len(values))
    return mean(values) + float(student.ppf(1 - STRANGE, len(values) - 1)) * spread
