"""Training of a segmentation network on crops, validated on whole volumes of held-out patients."""

import torch
import torch.nn.functional as F
from torch import Tensor

from medldm.models.segmenter import Segmenter
from medldm.training.base import StepTraining
from medldm.training.options import Training
from medldm.types import Shape3

EPSILON = 1e-5


class SegmentationTraining(StepTraining):
    """Minimises cross-entropy + 1 - soft Dice, the recipe of nnU-Net (Isensee et al. 2021).

    Args:
        model: what is trained.
        options, seed: see `StepTraining`.
        crop: voxels of a crop along I, J, K.
    """

    def __init__(self, model: Segmenter, options: Training, seed: int, crop: Shape3):
        super().__init__(model, model.matrix_parameters(), options, seed, min(crop) // model.factor)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One batch of crops: image [B C I J K], label map [B 1 I J K]."""
        image, label = batch
        logits = self.model(image).float()
        entropy, overlap = F.cross_entropy(logits, label[:, 0].long()), soft_dice(logits, label)
        self.note({"cross_entropy": entropy, "dice": overlap}, "train/")
        return entropy + 1 - overlap

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Mean Dice of the structures that a whole volume has."""
        image, label = batch
        found = self.model.probabilities(image).argmax(1, keepdim=True)
        there = [value for value in range(1, self.model.label_count + 1) if (label == value).any()]
        overlaps = [2 * ((found == v) & (label == v)).sum() / ((found == v).sum() + (label == v).sum()) for v in there]
        if overlaps:
            self.note_mean("val/dice", torch.stack(overlaps).mean(), batch_idx)


def soft_dice(logits: Tensor, label: Tensor) -> Tensor:
    """Mean over structures of 2 sum p y / (sum p + sum y) over a batch (Drozdzal et al. 2016); background left out.

    Args:
        logits: [B 1 + labels I J K], background first.
        label: label map [B 1 I J K].
    """
    p = logits.softmax(1)[:, 1:]
    y = F.one_hot(label[:, 0].long(), logits.shape[1]).movedim(-1, 1)[:, 1:].to(p)
    places = (0, 2, 3, 4)
    return ((2 * (p * y).sum(places) + EPSILON) / (p.sum(places) + y.sum(places) + EPSILON)).mean()
