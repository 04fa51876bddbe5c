"""Feature networks as features of cohorts."""

from collections.abc import Callable, Iterable

import numpy as np
import torch

from medldm.metrics.base import Images
from medldm.metrics.features import Features, View
from medldm.models.feature_net import AXES, FeatureNet


class NetworkFeatures(Features):
    """What a network says of images: one row per volume, or for a network of two dimensions one per slice in three views (2.5-D).

    Args:
        net: the network, on the device that it works on.
        progress: takes the numbers of the cases and a title, and gives the numbers one after the other.
    """

    def __init__(self, net: FeatureNet, progress: Callable[[Iterable[int], str], Iterable[int]] = lambda cases, title: cases):
        self.net, self.name, self.sha256, self.progress = net, net.name, net.sha256, progress
        self.device = next(net.parameters()).device

    def views(self, images: Images) -> list[View]:
        """See `Features.views`; volumes are read one after the other."""
        found: list[list[np.ndarray]] = []
        for i in self.progress(range(len(images)), f"features of {images.cohort.root.name} by {self.name}"):
            volume = torch.from_numpy(images.image(i))[None].to(self.device)
            rows = [self.net.vector(volume)] if self.net.dimensions == 3 else [self.net.of_slices(volume, axis)[0] for axis in AXES]
            found.append([row.double().cpu().numpy() for row in rows])
        views = []
        for side in zip(*found, strict=True):
            views.append(View(np.concatenate(side), np.repeat(np.arange(len(images)), [len(rows) for rows in side])))
        return views
