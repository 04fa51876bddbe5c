"""First estimates of training images, which a restorer is shown: the mean image, decoded latents."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from medldm.models.autoencoder import Autoencoder, pad_to_multiple
from medldm.operators.anatomy import Anatomy, stretched
from medldm.randomness import keyed

DISTURBANCES = (0.0, 0.25, 0.5)  # of whitened latents: those that measurements lead to are not exact


def guided(anatomy: Anatomy, autoencoder: Autoencoder | None, volumes: Sequence[tuple[Tensor, Tensor]], seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Each image [C I J K] of volumes, see `load`, with its guides [G C I J K]: the mean, decoded latents."""
    for index, (image, label) in enumerate(volumes):
        mean = stretched(anatomy.mean, image.shape[1:])
        yield image, torch.stack([mean, *(decoded(autoencoder, image, label, seed, index) if autoencoder else [])])


@torch.inference_mode()
def decoded(autoencoder: Autoencoder, image: Tensor, label: Tensor | None, *key: int | str) -> list[Tensor]:
    """What exact and disturbed latents of an image decode to, each [C I J K]."""
    x = autoencoder.join(image[None], label[None] if autoencoder.label_count else None).to(autoencoder.latent_mean.device)
    padded, crop = pad_to_multiple(x, autoencoder.factor)
    z = autoencoder.whiten(autoencoder.encode(padded)[0])
    e = torch.randn(z.shape, generator=keyed(*key, "disturbance")).to(z)
    return [autoencoder.split(autoencoder.decode(z + share * e)[(..., *crop)])[0][0].float().cpu() for share in DISTURBANCES]


def residual_of(cases: list[tuple[Tensor, Tensor]]) -> float:
    """Root mean square of images minus their guides."""
    return math.sqrt(sum(float((image - guides).square().mean()) for image, guides in cases) / len(cases))
