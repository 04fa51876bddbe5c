"""Autoencoders: the base that everything else relies on.

A volume x holds the image channels and, in joint mode, one channel per label (one-hot, background left out). `decode`
gives the image channels followed by one logit per class, background first. Latents of an autoencoder are raw; the
whitened latent that a diffusion model sees has mean 0 and variance 1 per channel over the whole training cohort.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medldm.errors import UserError
from medldm.models.tiling.parts import Layer
from medldm.models.tiling.plan import Budget
from medldm.types import Shape3

LOG_VARIANCE_RANGE = (-20.0, 5.0)


class Autoencoder(nn.Module, ABC):
    """Volumes to latents and back.

    Args:
        image_channels: contrasts of the image, in [-1, 1].
        label_count: structures coded together with the image; 0 for images alone.
        latent_channels: numbers per latent cell.
        factor: voxels per latent cell along each axis.
    """

    def __init__(self, image_channels: int, label_count: int, latent_channels: int, factor: int):
        super().__init__()
        if latent_channels < 1:
            raise UserError(f"latent_channels={latent_channels}: at least 1 is needed.")
        self.image_channels, self.label_count = image_channels, label_count
        self.latent_channels, self.factor = latent_channels, factor
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_std", torch.ones(latent_channels))
        self.budget: Budget | None = None  # with one, `encode` and `decode` run by slabs

    @property
    def in_channels(self) -> int:
        """Channels of x: contrasts and foreground structures."""
        return self.image_channels + self.label_count

    @property
    def out_channels(self) -> int:
        """Channels of `decode`: contrasts, and class logits where labels are coded."""
        return self.image_channels + (self.label_count + 1 if self.label_count else 0)

    @abstractmethod
    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [B c i j k] of the raw latents of x [B C I J K]; I, J, K multiples of `factor`."""

    @abstractmethod
    def decode_raw(self, z: Tensor) -> Tensor:
        """Raw latents [B c i j k] to image and class logits [B C' I J K]."""

    def posterior_of(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of what the last of `encoder_layers` gives; channels of means, then of log-variances."""
        mean, log_variance = h.float().chunk(2, dim=1)
        return mean, torch.exp(0.5 * log_variance.clamp(*LOG_VARIANCE_RANGE))

    def encoder_layers(self) -> list[Layer]:
        """`posterior` up to `posterior_of`, in parts that can be run by slabs."""
        raise UserError(f"{type(self).__name__} cannot encode by slabs.", "Leave --memory away.")

    def decoder_layers(self) -> list[Layer]:
        """`decode_raw` in parts that can be run by slabs."""
        raise UserError(f"{type(self).__name__} cannot decode by slabs.", "Leave --memory away.")

    def matrix_parameters(self) -> list[nn.Parameter]:
        """Weights that Muon may take; none unless an autoencoder says otherwise."""
        return []

    def residual_blocks(self) -> list[nn.Module]:
        """Modules that checkpointing computes again in the backward pass instead of keeping what is inside; none unless one says so."""
        return []

    @property
    def last_layer(self) -> nn.Conv3d:
        """The convolution that makes the voxels: terms are balanced at its weight, and volumes of structures evened by its bias."""
        raise UserError(f"{type(self).__name__} names no last layer.", "Name the convolution that makes its voxels, as LeanAutoencoder does.")

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`posterior`, within the budget if there is one.

        Raises:
            UserError: x holds numbers that are not finite, which would spread over all that lies near.
        """
        if wrong := int(x.numel() - x.isfinite().sum()):
            raise UserError(f"A volume to encode holds {wrong} voxels that are not finite (NaN or infinite).", "Mend or leave it out.")
        if self.budget is None:
            return self.posterior(x)
        layers = self.encoder_layers()
        return self.posterior_of(self.budget.plan(layers, x.shape).run(layers, x))

    def decode(self, z: Tensor) -> Tensor:
        """Whitened latents [B c i j k] to image and class logits [B C' I J K], within the budget if there is one."""
        return self._decode(self.unwhiten(z))

    def _decode(self, z: Tensor) -> Tensor:
        if self.budget is None:
            return self.decode_raw(z)
        layers = self.decoder_layers()
        return self.budget.plan(layers, z.shape).run(layers, z).float()

    def whiten(self, z: Tensor) -> Tensor:
        """(z - mean) / std per channel."""
        return (z - _column(self.latent_mean)) / _column(self.latent_std)

    def unwhiten(self, z: Tensor) -> Tensor:
        """z * std + mean per channel."""
        return z * _column(self.latent_std) + _column(self.latent_mean)

    def reconstruct(self, x: Tensor, sizes: Sequence[Shape3] | None = None) -> Tensor:
        """Encode (posterior mean) and decode a batch of any size, padded by reflection to whole cells and cropped back.

        Args:
            x: [B C I J K].
            sizes: of each volume, where a common grid holds volumes of several sizes; what lies behind them, whatever it is, enters
                neither convolutions nor normalisation statistics, and comes back as zeros.

        Raises:
            UserError: an axis is too short to be padded.
        """
        if sizes is None:
            padded, crop = pad_to_multiple(x, self.factor)
            return self._decode(self.encode(padded)[0])[(..., *crop)]
        result = x.new_zeros(len(x), self.out_channels, *x.shape[2:])
        for volume, out, size in zip(x, result, sizes, strict=True):
            inside = (slice(None), *(slice(0, n) for n in size))
            out[inside] = self.reconstruct(volume[inside][None])[0]
        return result

    def join(self, image: Tensor, label: Tensor | None) -> Tensor:
        """Image [B C I J K] and label map [B 1 I J K] (values 0..label_count) as one input x."""
        if not self.label_count:
            return image
        one_hot = F.one_hot(label[:, 0].long(), self.label_count + 1).movedim(-1, 1)[:, 1:]
        return torch.cat([image, one_hot.to(image.dtype)], dim=1)

    def split(self, decoded: Tensor) -> tuple[Tensor, Tensor | None]:
        """Image [B C I J K] clipped to [-1, 1] and label map [B 1 I J K] (None in image-only mode) of a decoded batch."""
        image = decoded[:, : self.image_channels].clamp(-1, 1)
        if not self.label_count:
            return image, None
        return image, decoded[:, self.image_channels :].argmax(1, keepdim=True).to(image.dtype)


def _column(values: Tensor) -> Tensor:
    return values.reshape(1, -1, 1, 1, 1)


def pad_to_multiple(x: Tensor, multiple: int) -> tuple[Tensor, tuple[slice, slice, slice]]:
    """Pad I, J, K at their ends by reflection to a multiple; also the slices that cut the original out again.

    Raises:
        UserError: an axis is shorter than the padding it needs.
    """
    sizes = x.shape[-3:]
    missing = [-size % multiple for size in sizes]
    if any(m >= size for m, size in zip(missing, sizes, strict=True)):
        raise UserError(f"A volume of {tuple(sizes)} voxels is too small for cells of {multiple} voxels.", "Leave it out, or resample it finer.")
    crop = tuple(slice(0, size) for size in sizes)
    if not any(missing):
        return x, crop
    return F.pad(x, [0, missing[2], 0, missing[1], 0, missing[0]], mode="reflect"), crop
