"""The image that a latent diffusion model finds for measurements."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from medldm.diffusion.model import LatentDiffusion, middle, place
from medldm.diffusion.posteriors.base import Posterior
from medldm.diffusion.posteriors.latent_prox import LatentProx
from medldm.diffusion.posteriors.measured import Measured
from medldm.diffusion.samplers.base import Sampler
from medldm.diffusion.samplers.dpmpp import DpmPlusPlus
from medldm.models.autoencoder import Autoencoder, pad_to_multiple
from medldm.operators.base import LinearOperator, white_noise
from medldm.operators.classical import coloured
from medldm.operators.spectra import bins, power
from medldm.randomness import keyed

DRAWS = 8
POSTERIOR, SAMPLER = LatentProx(), DpmPlusPlus(8, 0.5)


@dataclass(frozen=True)
class LatentSolver:
    """x = D(z), z from a walk whose denoiser knows the measurements (see `Posterior`), begun near the latents of a first estimate.

    Args:
        model: diffusion model.
        unsaid: power of what decoding leaves out, x - D(E(x)), of held-out images in each bin of frequencies [C BINS^3].
        posterior: how measurements enter.
        sampler: solver, steps, and the time at which the walk begins.
    """

    model: LatentDiffusion
    unsaid: Tensor
    posterior: Posterior = POSTERIOR
    sampler: Sampler = SAMPLER

    def __call__(self, operator: LinearOperator, y: Tensor, noise: float, first: Tensor, seed: int = 0) -> Tensor:
        """One image [1 C I J K].

        Args:
            operator: what measured.
            y: measurements [1 ...].
            noise: standard deviation of y's noise.
            first: a first estimate [1 C I J K].
            seed: of the walk's noise.

        Raises:
            UserError: the image is much larger than those that the model was trained on.
        """
        autoencoder = self.model.autoencoder
        padded, crop = pad_to_multiple(first, autoencoder.factor)
        z = latents(autoencoder, padded)
        i, j, k = z.shape[2:]
        grid = self.model.room((i, j, k))
        inside = (..., *middle((i, j, k), grid))
        start, _ = place(z[0], grid)

        def decode(z: Tensor) -> Tensor:
            return autoencoder.split(autoencoder.decode(z[inside]))[0][(..., *crop)]

        measured = Measured(operator, decode, y, 1 / (noise**2 + self.error_variance(operator, y, first)))
        denoise = self.model.bound(start[None], [{}], [(i, j, k)])
        process, t = self.model.denoiser.process, torch.tensor(self.sampler.first, dtype=torch.float64)
        e = torch.randn(start.shape, generator=keyed(seed, "latent walk")).to(start)
        x = float(process.signal(t)) * start[None] + float(process.noise(t)) * e[None]
        informed = self.posterior.inform(denoise, process, measured, start[None])
        with torch.no_grad():
            return decode(self.sampler.sample(informed, process, x))

    def error_variance(self, operator: LinearOperator, y: Tensor, like: Tensor) -> Tensor:
        """Variance of A r, of real and imaginary part each, at every measured number: the mean over draws of r, with the spectrum of `unsaid`."""
        colour = coloured(self.unsaid[:, bins(like.shape[2:])].sqrt().to(like))
        total = torch.zeros_like(y.real)
        for draw in range(DRAWS):
            total += operator(colour(white_noise(like, keyed("decoder error", draw)))).abs().square() / DRAWS / (2 if y.is_complex() else 1)
        return (total + total.mean()) / 2  # few draws say little of one number, and all of them a good deal of their mean


def latents(autoencoder: Autoencoder, image: Tensor) -> Tensor:
    """Whitened latents of images [B C I J K] without label maps."""
    return autoencoder.whiten(autoencoder.encode(_unlabelled(autoencoder, image))[0])


def _unlabelled(autoencoder: Autoencoder, image: Tensor) -> Tensor:
    """Images as the autoencoder takes them, all background where it codes labels."""
    return autoencoder.join(image, torch.zeros_like(image[:, :1]) if autoencoder.label_count else None)


@torch.inference_mode()
def round_trip(autoencoder: Autoencoder, image: Tensor) -> Tensor:
    """D(E(x)) of images [B C I J K] of any size, without label maps."""
    return autoencoder.split(autoencoder.reconstruct(_unlabelled(autoencoder, image)))[0]


def unsaid_by(autoencoder: Autoencoder, images: Iterable[Tensor]) -> Tensor:
    """Mean power of what decoding leaves out of images [C I J K], in each bin of frequencies [C BINS^3]; of held-out ones it is the larger."""
    spectra = [power((image[None] - round_trip(autoencoder, image[None]))[0]) for image in images]
    return torch.stack(spectra).nanmean(0).nan_to_num(0.0)
