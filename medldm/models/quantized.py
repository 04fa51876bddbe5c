"""A vector-quantised autoencoder around any other: latents are continuous for diffusion, and what is decoded is the nearest code.

The posterior has no width: its mean is what the body's encoder gives, before it is quantised, and decoding quantises (Rombach et al.
2022, VQ-reg.). So a diffusion model works on continuous latents, and small errors in them vanish in the nearest code.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from medldm.errors import UserError
from medldm.models.autoencoder import Autoencoder
from medldm.models.lean import LeanAutoencoder
from medldm.models.tiling.parts import Layer, PerCell

EPSILON = 1e-5  # of the Laplace smoothing
AT_ONCE = 1 << 20  # distances
MOST_CODES = 1 << 16


class QuantizedAutoencoder(Autoencoder):
    """Product quantisation of the latents of another autoencoder (van den Oord et al. 2017; Jegou, Douze & Schmid 2011).

    The channels of a cell are cut into groups, and each group takes the nearest vector of a codebook of its own. The body's
    log-variances are not used; their weights stay, so that training can start from a Gaussian autoencoder, see `load_weights`.

    Args:
        image_channels: contrasts of the image.
        label_count: structures coded together with the image.
        body: a class of autoencoders, or an autoencoder; what encodes and decodes.
        codes: vectors per codebook.
        groups: codebooks; the latent channels of the body are a multiple.
        decay: of the moving averages that codes are made of.
        revive: a code used less than this share of even use starts anew from a latent of the batch.

    Raises:
        UserError: a number is out of its range, the channels cannot be cut so, or the body is for other images.
    """

    def __init__(
        self,
        image_channels: int,
        label_count: int,
        body: Callable[[int, int], Autoencoder] = LeanAutoencoder,
        codes: int = 512,
        groups: int = 1,
        decay: float = 0.99,
        revive: float = 0.05,
    ):
        network = body if isinstance(body, Autoencoder) else body(image_channels, label_count)
        if isinstance(network, QuantizedAutoencoder):
            raise UserError("The body of a quantised autoencoder cannot be another one.", "Give the class that this one is around.")
        super().__init__(image_channels, label_count, network.latent_channels, network.factor)
        if (network.image_channels, network.label_count) != (image_channels, label_count):
            raise UserError(
                f"The body codes {network.image_channels} contrasts and {network.label_count} labels, not {image_channels}, {label_count}."
            )
        if not 2 <= codes <= MOST_CODES or groups < 1 or network.latent_channels % groups:
            found = f"codes={codes}, groups={groups} and {network.latent_channels} latent channels"
            raise UserError(f"{found}: 2 to {MOST_CODES} codes are needed, and groups that divide the channels.", "Set model.codes or model.groups.")
        if not (0 <= decay < 1 and 0 <= revive < 0.5):
            raise UserError(f"decay={decay} must lie in [0, 1), revive={revive} in [0, 0.5).", "Set model.decay or model.revive.")
        self.body, self.codes, self.groups, self.decay, self.revive = network, codes, groups, decay, revive
        self.register_buffer("codebook", torch.randn(groups, codes, network.latent_channels // groups))
        self.register_buffer("count", torch.ones(groups, codes))  # moving averages: cells per batch that take a code,
        self.register_buffer("total", self.codebook.clone())  # and the sum of their latents
        self.register_buffer("updates", torch.zeros(()))
        for name in ("latent_mean", "latent_std"):  # what whitens stands here; a second copy in the file would only mislead
            network.register_buffer(name, getattr(network, name), persistent=False)

    @property
    def bits_per_voxel(self) -> float:
        """groups log2(codes) / factor^3: what storing the codes of a volume takes without entropy coding."""
        return self.groups * math.log2(self.codes) / self.factor**3

    @property
    def perplexity(self) -> Tensor:
        """exp(-sum p log p) per codebook [groups], with the share p of cells that take a code: how many codes are used, as it were."""
        share = self.count / self.count.sum(1, keepdim=True)
        return torch.special.entr(share).sum(1).exp()

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latents before quantisation, and zeros; see `Autoencoder.posterior`."""
        return _sharp(self.body.posterior(x))

    def posterior_of(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """See `Autoencoder.posterior_of`."""
        return _sharp(self.body.posterior_of(h))

    def decode_raw(self, z: Tensor) -> Tensor:
        """Latents, quantised on the way, to voxels; see `Autoencoder.decode_raw`."""
        return self.body.decode_raw(self.quantise(z))

    def encoder_layers(self) -> list[Layer]:
        """See `Autoencoder.encoder_layers`."""
        return self.body.encoder_layers()

    def decoder_layers(self) -> list[Layer]:
        """See `Autoencoder.decoder_layers`."""
        return [PerCell(self.quantise, AT_ONCE), *self.body.decoder_layers()]

    def matrix_parameters(self) -> list[nn.Parameter]:
        """See `Autoencoder.matrix_parameters`."""
        return self.body.matrix_parameters()

    @property
    def last_layer(self) -> nn.Conv3d:
        """See `Autoencoder.last_layer`."""
        return self.body.last_layer

    def residual_blocks(self) -> list[nn.Module]:
        """See `Autoencoder.residual_blocks`."""
        return self.body.residual_blocks()

    def quantise(self, z: Tensor) -> Tensor:
        """The nearest codes of latents [B c i j k], in their place.

        The gradient passes as if nothing had happened: d quantise(z) / dz = 1 (straight-through, Bengio et al. 2013).
        """
        with torch.no_grad():
            found = _rows(self.codebook, self._nearest(self._vectors(z)))
            cells = found.reshape(self.groups, len(z), *z.shape[2:], -1)
            nearest = cells.permute(1, 0, 5, 2, 3, 4).reshape(z.shape).to(z.dtype)
        return nearest + (z - z.detach())

    @torch.no_grad()
    def learn_codes(self, z: Tensor, generator: torch.Generator) -> None:
        """One step of the moving averages that codes are the quotients of (van den Oord et al. 2017, appendix A.1).

        N = d N + (1 - d) n;  m = d m + (1 - d) sum z;  e = m / N', with N' = (N + eps) / (sum N + K eps) sum N (Laplace smoothing).
        The decay d warms up as (s + 1) / (s + 10) over steps s, because the encoder moves fast at first. The first call starts from
        latents of its batch; later on, codes that are hardly used do so again (Dhariwal et al. 2020, Jukebox, appendix B.1). They get
        twice the use under which codes are revived, and so some time. A batch that is not finite changes nothing.

        Args:
            z: latents before quantisation [B c i j k].
            generator: decides the latents that codes start from; on the CPU.
        """
        vectors = self._vectors(z)
        if not bool(vectors.isfinite().all()):
            return
        cells = vectors.shape[1]
        chosen = torch.ones(self.groups, cells).multinomial(self.codes, replacement=self.codes > cells, generator=generator)
        fresh, step = _rows(vectors, chosen.to(z.device)), int(self.updates)
        if not step:
            self._restart(torch.ones_like(self.count, dtype=torch.bool), fresh, torch.full_like(self.count, cells / self.codes))
        decay = min(self.decay, (step + 1) / (step + 10))
        nearest = self._nearest(vectors)
        used = torch.zeros_like(self.count).scatter_add_(1, nearest, torch.ones_like(nearest, dtype=self.count.dtype))
        summed = torch.zeros_like(self.total).scatter_add_(1, nearest[..., None].expand_as(vectors), vectors.to(self.total.dtype))
        self.count.lerp_(used, 1 - decay)
        self.total.lerp_(summed, 1 - decay)
        least = (self.revive * self.count.mean(1, keepdim=True)).expand_as(self.count)
        self._restart(self.count < least, fresh, 2 * least)
        sums = self.count.sum(1, keepdim=True)
        smoothed = (self.count + EPSILON) / (sums + self.codes * EPSILON) * sums
        self.codebook.copy_(self.total / smoothed[..., None])
        self.updates += 1

    def _restart(self, which: Tensor, fresh: Tensor, count: Tensor) -> None:
        """Let the codes of a mask [groups codes] be those of `fresh`, as if `count` cells took each of them."""
        self.codebook.copy_(torch.where(which[..., None], fresh, self.codebook))
        self.total.copy_(torch.where(which[..., None], fresh * count[..., None], self.total))
        self.count.copy_(torch.where(which, count, self.count))

    def _vectors(self, z: Tensor) -> Tensor:
        """Latents [B c i j k] as vectors of the groups [groups cells c/groups]; in float32 at least, whatever autocast says."""
        wide = z.to(torch.promote_types(z.dtype, torch.float32))
        return wide.unflatten(1, (self.groups, -1)).permute(1, 0, 3, 4, 5, 2).flatten(1, 4)

    def _nearest(self, vectors: Tensor) -> Tensor:
        """Which code is nearest [groups cells], by differences rather than by products, which cancel far from the origin."""
        parts = vectors.split(max(1, AT_ONCE // (self.groups * self.codes)), dim=1)
        book = self.codebook.to(vectors.dtype)
        with torch.autocast(vectors.device.type, enabled=False):
            mode = "donot_use_mm_for_euclid_dist"
            return torch.cat([torch.cdist(part, book, compute_mode=mode).argmin(2) for part in parts], dim=1)


def _sharp(posterior: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return posterior[0], torch.zeros_like(posterior[0])


def _rows(vectors: Tensor, which: Tensor) -> Tensor:
    """Vectors [groups N d] by their numbers [groups M], as [groups M d]."""
    return vectors.gather(1, which[..., None].expand(-1, -1, vectors.shape[2]))
