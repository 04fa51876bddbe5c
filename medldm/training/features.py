"""Self-supervised training of a feature encoder: two views of a place find each other among those of other places."""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.utils.data import Dataset

from medldm.cohort import Cohort
from medldm.models.encoder import FeatureEncoder
from medldm.randomness import keyed
from medldm.training.base import StepTraining
from medldm.training.data import case_of, load
from medldm.training.options import Training
from medldm.types import Shape3

GAIN, SHIFT, GAMMA, NOISE = 0.2, 0.1, 0.25, 0.01  # of the views
BLURS, NOISES = (0.5, 1.5), (0.02, 0.2)  # voxels; of the range [-1, 1]
EMBEDDING = 64
COLLAPSED = 0.2


class Views(Dataset):
    """Pairs of overlapping crops whose intensities are changed independently, from volumes kept in memory.

    Both views of a pair share one random degradation (none, blur or noise): it is a mark by which they can be told from other pairs,
    so that the features keep what an invariance to it would throw away. The intensity curve, which scanners choose freely, is not shared.
    On hippocampi a blur of half a voxel then lies 19 times as far from real images (Frechet) as they from each other; without sharing, 1.2 times.

    Args:
        cohort: cases to train on.
        size: voxels of a crop along I, J, K.
        batch: slots per step.
        seed: decides order, places and changes.
    """

    def __init__(self, cohort: Cohort, size: Shape3, batch: int, seed: int):
        self.size, self.batch, self.seed = size, batch, seed
        self.volumes = [image for image, _ in load(cohort)]

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Two views [C I J K] of one slot of one step."""
        generator = keyed(self.seed, "views", *key)
        volume = self.volumes[case_of(*key, self.batch, len(self.volumes), self.seed)]
        return view_pair(volume, self.size, generator)


class Pairs(Dataset):
    """One fixed pair of views per case, for validation.

    Args:
        cohort: held-out cases.
        size: voxels of a crop along I, J, K.
        seed: decides places and changes.
        most: cases taken.
    """

    def __init__(self, cohort: Cohort, size: Shape3, seed: int, most: int):
        first = replace(cohort, cases=cohort.cases[:most])
        self.pairs = [view_pair(image, size, keyed(seed, "pairs", n)) for n, (image, _) in enumerate(load(first))]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Two views [C I J K] of one case."""
        return self.pairs[index]


def view_pair(volume: Tensor, size: Shape3, generator: Generator) -> tuple[Tensor, Tensor]:
    """Two views [C I J K] of a volume in about [-1, 1], the second at most half a crop beside the first along each axis."""
    first, second = [], []
    for n, s in zip(volume.shape[1:], size, strict=True):
        first.append(_whole(0, n - s, generator))
        second.append(_whole(max(0, first[-1] - s // 2), min(n - s, first[-1] + s // 2), generator))
    kind, amount = _whole(0, 2, generator), torch.rand((), generator=generator).item()
    views = []
    for start in (first, second):
        crop = volume[(slice(None), *(slice(a, a + s) for a, s in zip(start, size, strict=True)))]
        noise = NOISES[0] + amount * (NOISES[1] - NOISES[0]) if kind == 2 else NOISE
        if kind == 1:
            crop = blurred(crop, BLURS[0] + amount * (BLURS[1] - BLURS[0]))
        crop = recoloured(crop, generator)
        views.append(crop + noise * torch.randn(crop.shape, generator=generator))
    return views[0], views[1]


def recoloured(x: Tensor, generator: Generator) -> Tensor:
    """Another intensity curve: gain (2 ((x + 1) / 2)^gamma - 1) + shift, with gain and gamma about 1 and shift about 0."""
    gain, shift, gamma = (2 * torch.rand(3, generator=generator) - 1).tolist()
    curve = ((x + 1) / 2).clamp(0, 1) ** math.exp(GAMMA * gamma)
    return (1 + GAIN * gain) * (2 * curve - 1) + SHIFT * shift


def blurred(x: Tensor, sigma: float) -> Tensor:
    """[C I J K] smoothed by a Gaussian of `sigma` voxels; edges are continued."""
    reach = math.ceil(2.5 * sigma)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).to(x)
    h = x[:, None]
    for axis in range(3):
        shape, pad = [1, 1, 1, 1, 1], [0] * 6
        shape[2 + axis] = len(weights)
        pad[4 - 2 * axis] = pad[5 - 2 * axis] = reach
        h = F.conv3d(F.pad(h, pad, mode="replicate"), weights.reshape(shape))
    return h[:, 0]


def _whole(low: int, high: int, generator: Generator) -> int:
    """A whole number in [low, high]."""
    return int(torch.randint(low, high + 1, (), generator=generator))


class Contrast(nn.Module):
    """An encoder and the head that is thrown away after training (Chen et al. 2020, section 2.1).

    Args:
        encoder: what is kept.
    """

    def __init__(self, encoder: FeatureEncoder):
        super().__init__()
        self.encoder = encoder
        standardised = nn.BatchNorm1d(encoder.features, affine=False, track_running_stats=False)  # what all views share says nothing
        self.head = nn.Sequential(standardised, nn.Linear(encoder.features, 2 * EMBEDDING), nn.SiLU(), nn.Linear(2 * EMBEDDING, EMBEDDING))

    def forward(self, x: Tensor) -> Tensor:
        """Views [B C I J K] to embeddings of length 1 [B D], float32."""
        return F.normalize(self.head(self.encoder.pooled(self.encoder.maps(x))).float(), dim=1)


class FeatureTraining(StepTraining):
    """Minimises InfoNCE between two views (van den Oord et al. 2018, eq. 4; both directions and all negatives as in Chen et al. 2020, eq. 1).

    Args:
        encoder: what is trained.
        options, seed: see `StepTraining`.
        crop: voxels of a view along I, J, K.
        temperature: of the softmax over candidates.
    """

    def __init__(self, encoder: FeatureEncoder, options: Training, seed: int, crop: Shape3, temperature: float):
        super().__init__(Contrast(encoder), encoder.matrix_parameters(), options, seed, min(crop) // encoder.factor, encoder.residual_blocks())
        self.temperature = temperature
        self.spread: float | None = None

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One batch of pairs of views, [B C I J K] each."""
        a, b = self.model(torch.cat(batch)).chunk(2)
        loss = info_nce(a, b, self.temperature)
        self.spread = spread(a.detach())
        self.note({"loss": loss, "spread": torch.tensor(self.spread)}, "train/")
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss on held-out patients, and the share of views whose partner is the nearest of all."""
        a, b = self.model(torch.cat(batch)).chunk(2)
        self.record["val/loss"] = float(info_nce(a, b, self.temperature))
        self.record["val/retrieval"] = retrieval(a, b)

    def concerns(self) -> list[str]:
        """What is wrong with the features of the last batch, one sentence each."""
        if self.spread is None or self.spread >= COLLAPSED:
            return []
        return [f"the embeddings collapse (spread {self.spread:.2f} of 1): lower training.learning_rate, or raise training.batch."]


def info_nce(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Mean over all 2N views of -log(exp(s_ij / T) / sum_k exp(s_ik / T)), k over the 2N - 1 others, s the inner product (Chen et al. 2020, eq. 1).

    Args:
        a, b: embeddings of length 1 [N D]; row n of one belongs to row n of the other.
        temperature: T > 0.
    """
    rows = torch.cat([a, b]).float()
    with torch.autocast(rows.device.type, enabled=False):  # bf16 would round likenesses to .004, and logits to .04
        products = rows @ rows.T
    logits = (products / temperature).masked_fill(torch.eye(len(rows), dtype=torch.bool, device=rows.device), -math.inf)
    partner = torch.arange(len(rows), device=rows.device).roll(len(a))
    return F.cross_entropy(logits, partner)


def retrieval(a: Tensor, b: Tensor) -> float:
    """Share of rows of a [N D] and b [N D] whose nearest row of the other is their partner; chance is 1 / N."""
    with torch.autocast(a.device.type, enabled=False):
        likeness = F.normalize(a.float(), dim=1) @ F.normalize(b.float(), dim=1).T
    own = torch.arange(len(a), device=a.device)
    return float(torch.stack([likeness.argmax(axis) == own for axis in (0, 1)]).float().mean())


def spread(embeddings: Tensor) -> float:
    """sqrt(D) times the mean over dimensions of the standard deviation of embeddings of length 1 [N D]: 0 when all are equal, about 1 when they
    point everywhere (Chen & He 2021, section 4.1)."""
    return float(embeddings.std(0).mean() * embeddings.shape[1] ** 0.5)
