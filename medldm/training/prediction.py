"""Training of a network that reads a covariate off whole images: the downstream task beside segmentation."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from medldm.models.encoder import FeatureEncoder
from medldm.training.base import StepTraining
from medldm.training.data import Crops, case_of
from medldm.training.options import Training
from medldm.types import Shape3


@dataclass(frozen=True)
class Target:
    """What is predicted: a number, or one of some categories.

    Args:
        name: of the covariate.
        categories: in the order of the network's outputs; none for a number.
        mean, std: of a number in training.
    """

    name: str
    categories: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0

    @property
    def outputs(self) -> int:
        """Numbers that the network gives."""
        return len(self.categories) or 1

    def encode(self, value: float | str) -> float:
        """A covariate as the network learns it: standardised, or the position of its category."""
        return float(self.categories.index(str(value))) if self.categories else (float(value) - self.mean) / self.std

    def loss(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        """Mean squared error or cross-entropy of outputs [B outputs] for encoded values [B]."""
        return F.cross_entropy(outputs, wanted.long()) if self.categories else F.mse_loss(outputs[:, 0], wanted)

    def error(self, outputs: Tensor, value: float | str) -> float:
        """|predicted - true| in units of the covariate, or 1 for a wrong category; of one image's outputs [outputs]."""
        if self.categories:
            return float(self.categories[int(outputs.argmax())] != str(value))
        return abs(float(outputs[0]) * self.std + self.mean - float(value))


class Predictor(nn.Module):
    """A residual encoder, means over places, and one linear layer.

    Args:
        image_channels: contrasts of the image.
        outputs: numbers to give.
        widths: see `FeatureEncoder`.
    """

    def __init__(self, image_channels: int, outputs: int, widths: tuple[int, ...] = (16, 32, 64)):
        super().__init__()
        self.encoder = FeatureEncoder(image_channels, widths)
        self.head = nn.Linear(self.encoder.features, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B C I J K] of any size to [B outputs], float32."""
        return self.head(self.encoder.pooled(self.encoder.maps(x)))


class Valued(Dataset):
    """Random crops with the encoded covariate of their case.

    Args:
        crops: images.
        values: encoded covariate of each case of the crops.
    """

    def __init__(self, crops: Crops, values: list[float]):
        self.crops, self.values = crops, torch.tensor(values, dtype=torch.float32)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Image [C I J K] and value of one slot of one step."""
        case = case_of(*key, self.crops.batch, len(self.values), self.crops.seed)
        return self.crops[key][0], self.values[case]


class PredictionTraining(StepTraining):
    """Minimises the error of a covariate.

    Args:
        model: what is trained.
        target: the covariate.
        options, seed: see `StepTraining`.
        crop: voxels of a crop along I, J, K.
    """

    def __init__(self, model: Predictor, target: Target, options: Training, seed: int, crop: Shape3):
        encoder = model.encoder
        super().__init__(model, encoder.matrix_parameters(), options, seed, min(crop) // encoder.factor, encoder.residual_blocks())
        self.target = target

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One batch: images [B C I J K], encoded values [B]."""
        image, wanted = batch
        loss = self.target.loss(self.model(image), wanted)
        self.note({"loss": loss}, "train/")
        return loss
