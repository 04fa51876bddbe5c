"""Faces that a model draws in the place of those of patients, so that tools that expect a face still find one.

The face region (see `deface`) counts as missing, and a diffusion model of whole heads fills it given all other voxels: latent inpainting. What it
draws fits the head and is nobody's, as far as the model does not repeat faces that it was trained on.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medldm.diffusion.latent_solver import LatentSolver
from medldm.diffusion.model import LatentDiffusion
from medldm.diffusion.posteriors.latent_prox import LatentProx
from medldm.diffusion.samplers.dpmpp import DpmPlusPlus
from medldm.errors import UserError
from medldm.operators.spectra import BINS
from medldm.operators.voxelwise import Inpainting
from medldm.volume import Volume

AIR = -1.0  # where the walk begins; measured in the volume, it would tell something of the face


@dataclass(frozen=True)
class Drawing:
    """How a face is drawn.

    Args:
        steps: of the sampler, from noise to data.
        noise: how far the decoded image may be from known voxels, as a standard deviation; images lie in [-1, 1].
        products: conjugate gradient products per step.
        seam: millimetres over which what is drawn is brought to the brightness of what it adjoins.
    """

    steps: int = 12
    noise: float = 0.15
    products: int = 4
    seam: float = 8.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.products < 1 or self.noise <= 0 or self.seam <= 0:
            raise UserError(f"{self}: steps and products must be at least 1, noise and seam more than 0.")


def refaced(volume: Volume, mask: np.ndarray, model: LatentDiffusion, seed: int, how: Drawing = Drawing()) -> Volume:
    """A head with another face; voxels outside of the mask keep their bits, and nothing inside of it depends on what was there.

    Args:
        volume: of the kind that the model was trained on, in [-1, 1] [C I J K].
        mask: the face region [I J K], see `deface.region`.
        model: in evaluation mode, of whole heads.
        seed: of the noise that the face is made from.

    Raises:
        UserError: the volume is larger than those of the model, or all of it is masked.
    """
    known = torch.from_numpy(~mask)
    first = torch.where(known, volume.data, AIR)[None].to(model.autoencoder.latent_mean.device)
    known = known.to(first.device)
    unsaid = torch.zeros(first.shape[1], BINS**3, device=first.device)
    solver = LatentSolver(model, unsaid, LatentProx(products=how.products), DpmPlusPlus(how.steps, 0.98))
    drawn = solver(Inpainting(known), first * known, how.noise, first, seed)[0].float().cpu()
    widths = [how.seam / step for step in volume.spacing]
    fitted = torch.stack([_adjoined(one, there, mask, widths) for one, there in zip(drawn, volume.data, strict=True)])
    return volume.with_data(torch.where(torch.from_numpy(mask), fitted.clamp(-1, 1), volume.data))


def _adjoined(drawn: Tensor, there: Tensor, mask: np.ndarray, widths: list[float]) -> Tensor:
    """What was drawn [I J K] plus how much brighter the known voxels around are than what was drawn for them, fading with the distance to them."""
    known = (~mask).astype(np.float64)
    share = ndimage.gaussian_filter(known, widths)
    brighter = ndimage.gaussian_filter(known * (there - drawn).double().numpy(), widths)
    return drawn + torch.from_numpy(brighter * np.minimum(1, 2 * share) / np.maximum(share, 1e-6)).to(drawn)
