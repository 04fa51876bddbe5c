"""Batches decided by the step: what step 700 sees is the same whether or not the training was stopped before it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medldm.cohort import Cohort
from medldm.data.steps.torchio_augment import Augment
from medldm.errors import UserError
from medldm.randomness import keyed, permutation
from medldm.types import Shape3
from medldm.volume import read_volume

JITTER = 0.05


class StepBatches:
    """A batch sampler of (step, slot) pairs for the steps start, start + 1, ..., stop - 1.

    Args:
        start: first step of this session.
        stop: number of steps of the whole training.
        batch: slots per step.
        single_from: step from which a batch is one slot, or None.
    """

    def __init__(self, start: int, stop: int, batch: int, single_from: int | None = None):
        self.start, self.stop, self.batch = start, stop, batch
        self.single_from = stop if single_from is None else single_from

    def __len__(self) -> int:
        # The whole training, not the rest: Lightning counts the batches of the sessions before as fetched.
        return self.stop

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.stop):
            yield [(step, slot) for slot in range(self.batch if step < self.single_from else 1)]


def loader(dataset: Dataset, start: int, stop: int, batch: int, single_from: int | None = None) -> DataLoader:
    """A loader whose batches depend on the step alone; see `StepBatches`."""
    return DataLoader(dataset, batch_sampler=StepBatches(start, stop, batch, single_from), num_workers=0)


@lru_cache(maxsize=2)
def _order(cases: int, seed: int, epoch: int) -> list[int]:
    return permutation(cases, seed, "order", epoch)


def case_of(step: int, slot: int, batch: int, cases: int, seed: int) -> int:
    """The case for a slot of a step: every case once before any comes again, in an order of its own per round."""
    epoch, position = divmod(step * batch + slot, cases)
    return _order(cases, seed, epoch)[position]


@dataclass(frozen=True)
class Whole:
    """From a step on, whole volumes instead of crops, each alone and at its own size.

    Args:
        first: that step, counted from 0.
        factor: voxels per latent cell; volumes are cut to whole cells, at a random place.
    """

    first: int
    factor: int


class Crops(Dataset):
    """Random crops of a cohort's volumes with a small change of brightness and contrast, kept in memory.

    Args:
        cohort: cases to train on.
        size: voxels of a crop along I, J, K.
        batch: slots per step.
        seed: decides order, places and changes.
        augment: further random changes, or None.
        whole: when whole volumes follow, or None.
    """

    def __init__(self, cohort: Cohort, size: Shape3, batch: int, seed: int, augment: Augment | None = None, whole: Whole | None = None):
        self.size, self.batch, self.seed, self.augment, self.whole = size, batch, seed, augment, whole
        self.volumes = load(cohort)
        self.spacings = [case.spacing for case in cohort]

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Image [C I J K] in about [-1, 1] and label map [1 I J K] of one slot of one step."""
        generator = keyed(self.seed, "crop", *key)
        index, size = self._asked(*key)
        image, label = self.volumes[index]
        start = [int(torch.randint(n - length + 1, (), generator=generator)) for n, length in zip(image.shape[1:], size, strict=True)]
        contrast, brightness = ((2 * torch.rand(2, generator=generator) - 1) * JITTER).tolist()
        if self.augment:
            reach = self.augment.reach(size, self.spacings[index])
            if math.prod(n + 2 * r for n, r in zip(size, reach, strict=True)) < image[0].numel():
                image, label = _around(image, start, size, reach, float(image.min())), _around(label, start, size, reach, 0.0)
                start = list(reach)
            image, label = self.augment(image, label, generator, self.spacings[index])  # the whole volume where that is less
        place = tuple(slice(first, first + length) for first, length in zip(start, size, strict=True))
        return image[(slice(None), *place)] * (1 + contrast) + brightness, label[(slice(None), *place)]

    def _asked(self, step: int, slot: int) -> tuple[int, Shape3]:
        """Which case, and how many voxels of it."""
        if self.whole is None or step < self.whole.first:
            return case_of(step, slot, self.batch, len(self.volumes), self.seed), self.size
        index = case_of(step - self.whole.first, 0, 1, len(self.volumes), self.seed)
        return index, tuple(n // self.whole.factor * self.whole.factor for n in self.volumes[index][0].shape[1:])


def _around(volume: Tensor, start: list[int], size: Shape3, reach: Shape3, fill: float) -> Tensor:
    """A crop [C I J K] with `reach` more voxels on each side; what lies outside the volume is filled."""
    bounds = [(s - r, s + n + r, have) for s, n, r, have in zip(start, size, reach, volume.shape[1:], strict=True)]
    inside = volume[(slice(None), *(slice(max(0, low), min(high, have)) for low, high, have in bounds))]
    missing = [(max(0, -low), max(0, high - have)) for low, high, have in bounds]
    return F.pad(inside, [count for pair in reversed(missing) for count in pair], value=fill)


def images_of(source: Cohort, folder: Path) -> tuple[Cohort, Cohort]:
    """The cases to train and to validate on, of a cohort in a folder.

    Raises:
        UserError: these are no images, or none to train on.
    """
    if source.unit == "latent":
        raise UserError(f"{folder} holds latents, not images.", "Give the cohort of images that they were made from.")
    train = source.split("train")
    if not len(train):
        raise UserError(f"{folder} has no usable case in the split 'train'.", "Prepare it with more cases.")
    return train, source.split("val")


def contrasts(cohort: Cohort) -> int:
    """Channels of its images, as the first one has them."""
    return len(read_volume(cohort.path(cohort.cases[0].image), cohort.unit).data)


def load(cohort: Cohort) -> list[tuple[Tensor, Tensor]]:
    """Image [C I J K] and label map [1 I J K] (zeros where there is none) of every case."""
    volumes = []
    for case in cohort:
        image = read_volume(cohort.path(case.image)).data
        label = read_volume(cohort.path(case.label), "label").data if case.label else torch.zeros_like(image[:1])
        volumes.append((image, label))
    return volumes


def crop_size(cohort: Cohort, factor: int, wanted: Shape3 | None, largest: int = 64) -> Shape3:
    """Voxels of a training crop: as wanted, or what fits every case in multiples of twice the factor, 64 at most.

    Raises:
        UserError: a case is smaller than the crop, or the crop is no multiple of the factor.
    """
    smallest = [min(case.shape[axis] for case in cohort) for axis in range(3)]
    unit = 2 * factor if min(smallest) >= 2 * factor else factor
    size = wanted or tuple(min(largest, n // unit * unit) for n in smallest)
    if min(smallest) < factor:
        shown = "x".join(map(str, smallest))
        raise UserError(
            f"The smallest case has {shown} voxels, less than one latent cell of {factor}.", "Leave such cases out, or give a model of fewer widths."
        )
    if any(s < factor or s % factor for s in size):
        raise UserError(f"A crop of {size} voxels was asked for; multiples of {factor} are possible, up to {tuple(smallest)}.", "Set crop.")
    if any(s > n for s, n in zip(size, smallest, strict=True)):
        raise UserError(f"A crop of {size} voxels does not fit the smallest case {tuple(smallest)}.", "Set a smaller crop.")
    return tuple(size)
