"""A real case as a diffusion model sees it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from medldm.diffusion.model import LatentDiffusion, place
from medldm.metrics.base import Images
from medldm.models.latents import Window, encode, foreground, window
from medldm.types import Shape3


@dataclass(frozen=True)
class LatentCase:
    """The largest window of a case.

    Args:
        z: whitened posterior mean in the middle of the grid [c i j k].
        valid: its field of view [1 i j k].
        extent: cells of that.
        codes: conditions [N], NaN where missing.
        where: its voxels.
    """

    z: Tensor
    valid: Tensor
    extent: Shape3
    codes: Tensor
    where: Window


@torch.inference_mode()
def latent_of(model: LatentDiffusion, images: Images, index: int) -> LatentCase:
    """Encode a case as the training of the model saw it, on the model's device."""
    autoencoder, label = model.autoencoder, images.label(index)
    image = torch.from_numpy(images.image(index)).float()
    known = None if label is None else torch.from_numpy(label)[None]
    i, j, k = image.shape[1:]
    where = window((i, j, k), foreground(known, (i, j, k)), autoencoder.factor, model.grid, None)
    raw = encode(autoencoder, image, known if autoencoder.label_count else None, [where])["mean_0"].to(autoencoder.latent_mean)
    z, valid = place(autoencoder.whiten(raw[None])[0], model.grid)
    covariates = images.cases[index].covariates
    codes = model.denoiser.encode({name: covariates.get(name) for name in model.denoiser.conditions})
    i, j, k = raw.shape[1:]
    return LatentCase(z, valid, (i, j, k), codes.to(z.device), where)
