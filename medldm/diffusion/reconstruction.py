"""From measurements to an image: several estimates, fused as was best on patients set aside, and how far the result may be off."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medldm.diffusion.latent_solver import LatentSolver
from medldm.diffusion.posteriors.fusion import Fusion
from medldm.diffusion.posteriors.refine import refine
from medldm.diffusion.posteriors.uncertainty import ErrorModel
from medldm.diffusion.restoration import Restoration, Restored
from medldm.errors import UserError
from medldm.operators.anatomy import stretched
from medldm.operators.base import LinearOperator, white_noise
from medldm.operators.classical import Classical, coloured
from medldm.operators.spectra import bins, power

CLEANED = (0.1, 0.4)

#: Estimates of one image [1 I J K] by name.
Estimates = dict[str, Tensor]


@dataclass(frozen=True)
class Measurement:
    """What was measured of one image.

    Args:
        operator: A.
        y: measurements [1 ...].
        noise: their standard deviation, of real and imaginary part each.
        measured: frequencies that were measured [I J K], centred, or None where that is no question of frequencies.

    Raises:
        UserError: a number is not finite, the noise is negative, measurements do not fit the operator, or their image would be complex.
    """

    operator: LinearOperator
    y: Tensor
    noise: float
    measured: Tensor | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.noise < math.inf:
            raise UserError(f"noise={self.noise} must be at least 0, and finite.")
        if not self.y.isfinite().all():
            raise UserError(f"{int((~self.y.isfinite()).sum())} of {self.y.numel()} measured numbers are not finite.")
        if self.operator.adjoint(self.y).is_complex():
            raise UserError("These measurements are of a complex image, and the models know real ones.", "Put `@ Phase(phase)` behind the operator.")


@dataclass(frozen=True)
class Reconstructor:
    """Everything that can say something of an image from its measurements.

    Args:
        classical: tuned on calibration patients, see `operators.tuning`.
        restored: restorer and measurements in turns, tuned likewise.
        latent: a diffusion model's answer, or None.
    """

    classical: Classical
    restored: Restored
    latent: LatentSolver | None = None

    def estimates(self, case: Measurement, seed: int = 0, trace: list[float] | None = None) -> Estimates:
        """`classical`, `linear`, `restored` and, with a diffusion model, `latent` of one measurement, in the memory of the host.

        Args:
            case: what was measured.
            seed: of the walk of latents.
            trace: gets the residual over the noise after each turn of restorer and measurements.
        """
        with torch.inference_mode():
            found = {"classical": self.classical(case.operator, case.y)}
            linear = self.restored.restoration.anatomy.prior(found["classical"].shape[2:], case.noise)
            restored, residuals = replace(self.restored, noise=case.noise).traced(case.operator, case.y)
            found |= {"linear": linear(case.operator, case.y), "restored": restored}
        if trace is not None:
            trace.extend(residuals)
        if self.latent is not None:
            first = found["restored"].clone().clamp(-1, 1)
            found["latent"] = self.latent(case.operator, case.y, case.noise, first, seed)
        return {name: image[0].cpu().clone() for name, image in found.items()}


@dataclass(frozen=True)
class Calibration:
    """How estimates are put together, and how far the result is off, as measured on patients set aside.

    Args:
        names: of the estimates, in order.
        restoration: whose mean image is what is fused around, and whose restorer tells where a result is strange.
        fusion: weights of the estimates.
        spectrum: power of the fused images' errors in each bin of frequencies [1 BINS^3].
        errors: standard deviations of the result.
    """

    names: tuple[str, ...]
    restoration: Restoration
    fusion: Fusion
    spectrum: Tensor
    errors: ErrorModel

    @classmethod
    def fit(cls, cases: Sequence[tuple[Tensor, Measurement, Estimates]], restoration: Restoration, names: Sequence[str]) -> "Calibration":
        """From calibration cases: truth [1 I J K], measurement, estimates.

        Errors are those of images whose weights were fitted to the other half of the cases, or they would look smaller than they are.
        """
        mean = restoration.mean.cpu()
        halves = cases[::2], cases[1::2] or cases
        crossed = []
        for part, other in (halves, halves[::-1]):
            fusion = _fitted(other, mean, names)
            crossed += [(truth, case, estimates, _fused(fusion, mean, names, case, estimates)) for truth, case, estimates in part]
        spectrum = torch.stack([power(image - truth) for truth, _, _, image in crossed]).nanmean(0)
        spectrum = torch.where(spectrum.isnan(), spectrum.nanmean(), spectrum)
        refined = [(truth, _refined(spectrum, case, image), _stack(estimates, names)) for truth, case, estimates, image in crossed]
        errors = ErrorModel.fit([(truth, image, stack, _cleaned(restoration, image)) for truth, image, stack in refined])
        return cls(tuple(names), restoration, _fitted(cases, mean, names), spectrum, errors)

    def __call__(self, case: Measurement, estimates: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The image [1 I J K], which agrees with the measurements as far as their noise allows, and the standard deviation of its error."""
        found = _refined(self.spectrum, case, _fused(self.fusion, self.restoration.mean.cpu(), self.names, case, estimates))
        return found, self.errors(found, _stack(estimates, self.names), _cleaned(self.restoration, found))

    def draw(self, image: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
        """An image that the truth might be: the result plus a normal error of the local standard deviation and the measured spectrum."""
        colour = coloured(self.spectrum[:, bins(image.shape[1:])].sqrt().to(image))
        error = colour(white_noise(image, generator))
        return image + std * error / self.spectrum[:, bins(image.shape[1:])].mean().sqrt().to(image)


def _stack(estimates: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    return torch.stack([estimates[name] for name in names])


def _fitted(cases: Sequence[tuple[Tensor, Measurement, Estimates]], mean: Tensor, names: Sequence[str]) -> Fusion:
    def centred(truth: Tensor, case: Measurement, estimates: Estimates) -> tuple[Tensor, Tensor, Tensor | None]:
        m = stretched(mean, truth.shape[1:])
        return truth[0] - m[0], _stack(estimates, names)[:, 0] - m[0], _groups(case)

    return Fusion.fit(centred(*case) for case in cases)


def _fused(fusion: Fusion, mean: Tensor, names: Sequence[str], case: Measurement, estimates: Mapping[str, Tensor]) -> Tensor:
    stack = _stack(estimates, names)
    m = stretched(mean, stack.shape[2:])
    return fusion(stack[:, 0] - m[0], _groups(case))[None] + m


def _groups(case: Measurement) -> Tensor | None:
    return None if case.measured is None else case.measured.cpu()


@torch.inference_mode()
def _refined(spectrum: Tensor, case: Measurement, image: Tensor) -> Tensor:
    there = image[None].to(case.y.device)
    return refine(case.operator, case.y, there, case.noise, spectrum[:, bins(image.shape[1:])].to(there))[0].cpu().clone()


def _cleaned(restoration: Restoration, image: Tensor) -> Tensor:
    """An image [1 I J K] after denoising at several levels [levels 1 I J K]."""
    there = image[None].to(restoration.mean.device)
    return torch.stack([restoration.clean(there, level)[0].cpu().clone() for level in CLEANED])
