"""Faces that a model draws in the place of those of patients, so that tools that expect a face still find one.

A diffusion model of whole heads fills the face region (see `deface`) given the rest of the head: latent inpainting. Latent cells that the region
does not reach are those of the head at every step, and the denoiser decides on the others (replacement; Song et al. 2021, section 5). What it
draws fits the head and is nobody's, as far as the model does not repeat faces that it was trained on.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from medldm.diffusion.model import LatentDiffusion, middle, place
from medldm.diffusion.samplers.dpmpp import DpmPlusPlus
from medldm.errors import UserError
from medldm.models.autoencoder import pad_to_multiple
from medldm.randomness import keyed
from medldm.volume import Volume

AIR = -1.0  # what the encoder sees in place of the face; measured in the volume, it would tell something of it


@dataclass(frozen=True)
class Drawing:
    """How a face is drawn.

    Args:
        steps: of the sampler, from noise to data.
        reach: latent cells around the region that are drawn too, since their latents may tell of the face.
        seam: millimetres over which what is drawn is brought to the brightness of what it adjoins.
    """

    steps: int = 20
    reach: int = 1
    seam: float = 8.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.reach < 0 or self.seam <= 0:
            raise UserError(f"{self}: steps must be at least 1, reach at least 0, seam more than 0.")


@torch.no_grad()
def refaced(volume: Volume, mask: np.ndarray, model: LatentDiffusion, seed: int, label: Volume | None = None, how: Drawing = Drawing()) -> Volume:
    """A head with another face; voxels outside of the mask keep their bits, and nothing inside of it depends on what was there.

    Args:
        volume: of the kind that the model was trained on, in [-1, 1] [C I J K].
        mask: the face region [I J K], see `deface.region`.
        model: in evaluation mode, of whole heads.
        seed: of the noise that the face is made from.
        label: its label map [1 I J K], which a model that codes labels was trained with; none counts as background.
        how: settings.

    Raises:
        UserError: the volume is much larger than those of the model, or all of it is masked.
    """
    if mask.all() or mask.shape != volume.shape:
        raise UserError(f"A mask of {mask.shape} voxels, {mask.mean():.0%} of them True, leaves nothing to draw a face for in {volume.shape} voxels.")
    autoencoder = model.autoencoder
    image = torch.where(torch.from_numpy(mask), AIR, volume.data)[None].to(autoencoder.latent_mean.device)
    known = (torch.zeros_like(image[:, :1]) if label is None else label.data[None].to(image)) if autoencoder.label_count else None
    padded, crop = pad_to_multiple(autoencoder.join(image, known), autoencoder.factor)
    z = autoencoder.whiten(autoencoder.encode(padded)[0])
    i, j, k = z.shape[2:]
    grid = model.room((i, j, k))
    inside = (..., *middle((i, j, k), grid))
    head, valid = place(z[0], grid)
    kept = torch.ones_like(valid)
    kept[inside] = 1 - _reached(mask, autoencoder.factor, how.reach, z)
    denoise = model.bound(head[None], [{}], [(i, j, k)])
    noise = torch.randn(head.shape, generator=keyed(seed, "face")).to(z)
    drawn = DpmPlusPlus(how.steps).sample(lambda x, t: torch.lerp(denoise(x, t), head[None], kept[None]), model.denoiser.process, noise[None])
    found = autoencoder.split(autoencoder.decode(drawn[inside]))[0][(..., *crop)][0].float().cpu()
    widths = [how.seam / step for step in volume.spacing]
    fitted = torch.stack([_adjoined(one, there, mask, widths) for one, there in zip(found, volume.data, strict=True)])
    return volume.with_data(torch.where(torch.from_numpy(mask), fitted.clamp(-1, 1), volume.data))


def _reached(mask: np.ndarray, factor: int, reach: int, like: Tensor) -> Tensor:
    """1 at latent cells that hold a masked voxel, or lie within so many cells of such a one, else 0 [1 i j k]."""
    voxels, _ = pad_to_multiple(torch.from_numpy(mask)[None, None].to(like), factor)
    return F.max_pool3d(F.max_pool3d(voxels, factor), 2 * reach + 1, 1, reach)[0]


def _adjoined(drawn: Tensor, there: Tensor, mask: np.ndarray, widths: list[float]) -> Tensor:
    """What was drawn [I J K] plus how much brighter the known voxels around are than what was drawn for them, fading with the distance to them."""
    known = (~mask).astype(np.float64)
    share = ndimage.gaussian_filter(known, widths)
    brighter = ndimage.gaussian_filter(known * (there - drawn).double().numpy(), widths)
    return drawn + torch.from_numpy(brighter * np.minimum(1, 2 * share) / np.maximum(share, 1e-6)).to(drawn)
