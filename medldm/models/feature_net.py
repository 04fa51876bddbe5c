"""What a network that turns volumes into features looks like, whatever it was trained on."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from medldm.errors import UserError

AXES = (2, 3, 4)  # I, J, K of [B C I J K]
SLICES_AT_ONCE = 64


class FeatureNet(nn.Module, ABC):
    """Volumes to feature maps of several depths and to one vector.

    Contrasts that the network does not read together go through it one after the other: maps then come one per contrast,
    vectors are the mean over contrasts.

    Args:
        name: of network and training data, such as "medicalnet_resnet10".
        dimensions: 3, or 2 where slices are read.
        channels: contrasts that are read together; 1 is any number of them, each for itself.
    """

    def __init__(self, name: str, dimensions: int, channels: int):
        super().__init__()
        self.name, self.dimensions, self.channels = name, dimensions, channels
        self.sha256 = ""  # of the file that the weights came from

    @abstractmethod
    def levels(self, x: Tensor) -> list[Tensor]:
        """Feature maps [B F i j k] or [B F i j], finest first, of prepared volumes or slices [B C I J K] or [B C I J]."""

    def prepare(self, x: Tensor, like: Tensor) -> Tensor:
        """Intensities as in the network's own training; those of `like` decide shift and scale where there are any to choose."""
        return x

    def maps(self, x: Tensor, like: Tensor | None = None) -> list[Tensor]:
        """Feature maps of several depths, finest first, one row per volume and group of contrasts [B' F i j k] (or [B' F i j]).

        Args:
            x: volumes [B C I J K], or slices [B C I J] for a network of two dimensions; values in about [-1, 1].
            like: volumes of the same shape whose intensities decide shift and scale; x itself by default.

        Raises:
            UserError: the network reads another number of contrasts together.
        """
        if x.shape[1] % self.channels:
            raise UserError(f"{self.name} reads {self.channels} contrasts together; the images have {x.shape[1]}.", "Train features on this cohort.")
        groups, references = (t.reshape(-1, self.channels, *t.shape[2:]).float() for t in (x, x if like is None else like))
        return self.levels(self.prepare(groups, references))

    @torch.no_grad()
    def vector(self, volume: Tensor) -> Tensor:
        """Features of whole volumes [B C I J K] as [B D]: means over places; of two dimensions, over all slices of the three orientations."""
        if self.dimensions == 2:
            return torch.stack([self.of_slices(volume, axis).mean(1) for axis in AXES]).mean(0)
        rows = self.pooled(self.maps(volume))
        return rows.reshape(len(volume), -1, rows.shape[-1]).mean(1)

    def pooled(self, levels: list[Tensor]) -> Tensor:
        """One row [B D] from feature maps: the mean over places of the deepest."""
        return levels[-1].flatten(2).mean(2)

    @torch.no_grad()
    def of_slices(self, volume: Tensor, axis: int) -> Tensor:
        """Features of the slices across one axis of [B C I J K], means over contrasts [B S D]; the volume decides the intensities of each.

        Args:
            volume: values in about [-1, 1].
            axis: 2, 3 or 4.
        """
        b, c = volume.shape[:2]
        slices = slices_of(self.prepare(volume.float(), volume.float()), axis).flatten(0, 1)[:, None]
        rows = torch.cat([self.pooled(self.levels(part)) for part in slices.split(SLICES_AT_ONCE)])
        return rows.reshape(b, -1, c, rows.shape[-1]).mean(2)


def slices_of(volume: Tensor, axis: int) -> Tensor:
    """The slices across one axis (2, 3 or 4) of [B C I J K] as [B*S C .. ..]."""
    return volume.movedim(axis, 1).flatten(0, 1)
