"""Perceptual distance: volumes compared by the features of a frozen network."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from medldm.errors import UserError
from medldm.models.feature_net import AXES, FeatureNet, slices_of
from medldm.models.features import features_digest, load_features

EPSILON = 1e-8


@dataclass(frozen=True)
class Perceptual:
    """A term of the autoencoder's loss: the distance between the features of reconstruction and image.

    Args:
        network: a run folder of `train-features`, or a local file of MedicalNet or RadImageNet (see `load_features`).
        weight: of the term.
        slices: random slices per orientation and step, for networks of two dimensions.
    """

    network: Path
    weight: float = 0.1
    slices: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise UserError(f"perceptual.weight is {self.weight}; a positive number was expected.", "Leave --perceptual away to train without.")
        if self.slices < 1:
            raise UserError(f"perceptual.slices is {self.slices}; at least 1 is needed.")

    def fingerprint(self) -> str:
        """SHA-256 of the network's weights, for the record of what a training read."""
        return features_digest(self.network)

    def load(self) -> "PerceptualDistance":
        """The distance, with its network read from disk."""
        return PerceptualDistance(load_features(self.network), self.slices)


class PerceptualDistance:
    """d(r, x) = mean over levels l and places p of |f_l(r)_p / |f_l(r)_p| - f_l(x)_p / |f_l(x)_p||^2 (Zhang et al. 2018, eq. 1, all weights 1).

    The intensities of x decide how both are standardised, so that a change of contrast is seen. It is no module: the network
    belongs neither to checkpoints nor to models.

    Args:
        net: the frozen network.
        slices: see `Perceptual`.
    """

    def __init__(self, net: FeatureNet, slices: int = 4):
        self.net, self.slices = net, slices

    def __call__(self, reconstruction: Tensor, image: Tensor, generator: Generator) -> Tensor:
        """A number in [0, 4], float32, with gradients to the reconstruction alone.

        Args:
            reconstruction, image: [B C I J K] in about [-1, 1].
            generator: draws the slices; networks of three dimensions draw nothing.
        """
        device = reconstruction.device
        self.net.to(device)
        with torch.autocast(device.type, enabled=False):
            a, b = reconstruction.float(), image.detach().float()
            if self.net.dimensions == 3:
                return self._compare(a, b)
            picked = [(axis, torch.randint(a.shape[axis], (self.slices,), generator=generator).to(device)) for axis in AXES]
            pairs = [[slices_of(volume.index_select(axis, places), axis) for volume in (a, b)] for axis, places in picked]
            return torch.stack([self._compare(x, y) for x, y in pairs]).mean()

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.net.maps(b)
        found = self.net.maps(a, like=b)
        return torch.stack([(_directions(x) - _directions(y)).square().sum(1).mean() for x, y in zip(found, wanted, strict=True)]).mean()


def _directions(features: Tensor) -> Tensor:
    """Features of each place over their length; the small number keeps the gradient of a place without features finite."""
    return features * torch.rsqrt(features.square().sum(1, keepdim=True) + EPSILON)
