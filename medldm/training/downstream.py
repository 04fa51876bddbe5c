"""The trainings of a downstream study, and what each network says of real patients that were held out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from medldm.cohort import Cohort
from medldm.errors import UserError
from medldm.files import read_json, write_json
from medldm.metrics.base import Images
from medldm.metrics.segmentation import label_values
from medldm.models.segmenter import Segmenter
from medldm.randomness import seeded
from medldm.training.base import StepTraining
from medldm.training.data import Crops, contrasts, crop_size
from medldm.training.fit import fit
from medldm.training.prediction import PredictionTraining, Predictor, Target, Valued
from medldm.training.segmentation import SegmentationTraining
from medldm.training.study import Arm, Downstream, chosen
from medldm.types import Shape3

Values = dict[str, float]


class Task(ABC):
    """What is learnt, and how it is judged.

    Args:
        settings: of the study.
        train: real cases that may be trained on.
        synthetic: generated cases.
    """

    def __init__(self, settings: Downstream, train: Cohort, synthetic: Cohort):
        self.settings, self.train, self.synthetic = settings, train, synthetic
        both = Cohort(train.root, (*train.cases, *synthetic.cases), train.unit, train.labels)
        self.crop: Shape3 = crop_size(both, self.factor, settings.crop)

    @property
    @abstractmethod
    def factor(self) -> int:
        """Voxels per cell of the network's coarsest level."""

    @abstractmethod
    def module(self, seed: int) -> StepTraining:
        """A new network in its training."""

    @abstractmethod
    def samples(self, cohort: Cohort, batch: int, seed: int) -> Dataset:
        """Training samples of a cohort, keyed by (step, slot)."""

    @abstractmethod
    def judge(self, model: nn.Module, images: Images, index: int) -> Values:
        """Values of one held-out case, by name."""

    def dataset(self, arm: Arm) -> Dataset:
        """Training samples of an arm."""
        batch, slots = self.settings.training.batch, self.settings.synthetic_slots
        real = chosen(self.train, arm.size, arm.seed) if arm.size else None
        if real is None or arm.name != "both":
            return self.samples(real or self.synthetic, batch, arm.seed)
        real_part, made_part = self.samples(real, batch - slots, arm.seed), self.samples(self.synthetic, slots, arm.seed)
        if self.settings.until == 1:
            return Mixed(real_part, made_part, batch - slots, real_part, self.settings.training.steps)
        until = round(self.settings.until * self.settings.training.steps)
        return Mixed(real_part, made_part, batch - slots, self.samples(real, batch, arm.seed), until)


class Segmentation(Task):
    """Finds the labels."""

    @property
    def factor(self) -> int:
        """See `Task`."""
        return 2 ** (len(self.settings.widths) - 1)

    def module(self, seed: int) -> StepTraining:
        """See `Task`."""
        with seeded(seed, "downstream"):
            model = Segmenter(contrasts(self.train), len(self.train.labels), self.settings.widths)
        return SegmentationTraining(model, self.settings.training, seed, self.crop)

    def samples(self, cohort: Cohort, batch: int, seed: int) -> Dataset:
        """See `Task`."""
        return Crops(cohort, self.crop, batch, seed, self.settings.augment)

    def judge(self, model: nn.Module, images: Images, index: int) -> Values:
        """See `Task`."""
        found = model.probabilities(torch.from_numpy(images.image(index))[None].to(device_of(model))).argmax(1)[0]
        label, names = images.label(index), images.cohort.labels
        values = label_values(found.cpu().numpy(), label, names, images.spacing(index))
        # the mean is of the structures that are there, so that it is one of the same structures for every arm
        dices = [values[f"dice_{name}"] for value, name in names.items() if (label == value).any()]
        return values | ({"dice": sum(dices) / len(dices)} if dices else {})


class Covariate(Task):
    """Predicts a covariate."""

    def __init__(self, settings: Downstream, train: Cohort, synthetic: Cohort):
        super().__init__(settings, train, synthetic)
        self.target = target_of(settings.covariate or "", train)

    @property
    def factor(self) -> int:
        """See `Task`."""
        return 2 ** len(self.settings.widths)

    def module(self, seed: int) -> StepTraining:
        """See `Task`."""
        with seeded(seed, "downstream"):
            model = Predictor(contrasts(self.train), self.target.outputs, self.settings.widths)
        return PredictionTraining(model, self.target, self.settings.training, seed, self.crop)

    def samples(self, cohort: Cohort, batch: int, seed: int) -> Dataset:
        """See `Task`."""
        known = cohort.where(lambda case: case.covariates.get(self.target.name) is not None)
        if not len(known):
            raise UserError(f"{cohort.root}: no case has the covariate {self.target.name!r}.", "Give another as downstream.covariate.")
        values = [self.target.encode(case.covariates[self.target.name]) for case in known]
        return Valued(Crops(known, self.crop, batch, seed, self.settings.augment), values)

    def judge(self, model: nn.Module, images: Images, index: int) -> Values:
        """See `Task`."""
        value = images.cases[index].covariates.get(self.target.name)
        if value is None:
            return {}
        with torch.no_grad():
            outputs = model(torch.from_numpy(images.image(index))[None].to(device_of(model)))[0]
        return {"error": self.target.error(outputs, value)}


class Mixed(Dataset):
    """Batches of which the first slots come from one dataset and the others from another, up to a step; then whole ones of a third.

    Args:
        first, second, third: keyed by (step, slot).
        slots: of the first.
        until: the first step of the third.
    """

    def __init__(self, first: Dataset, second: Dataset, slots: int, third: Dataset, until: int):
        self.first, self.second, self.slots, self.third, self.until = first, second, slots, third, until

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """The sample of one slot of one step."""
        step, slot = key
        if step >= self.until:
            return self.third[key]
        return self.first[key] if slot < self.slots else self.second[step, slot - self.slots]


def run_arm(task: Task, arm: Arm, judged: Mapping[str, Images], root: Path) -> dict[str, list[Values]]:
    """Train one arm and judge it on every case of some groups; one that is finished is read from its folder, one that was stopped goes on.

    Args:
        task: what is learnt.
        arm: on what.
        judged: cases that it was not trained on, by name.
        root: folder of the arm.

    Returns:
        Values of each case, by the same names.
    """
    path = root / "values.json"
    if not path.is_file():
        module = task.module(arm.seed)
        fit(module, task.dataset(arm), None, root, [], lambda line: None)
        model = module.model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        write_json(path, {name: [task.judge(model, images, index) for index in range(len(images))] for name, images in judged.items()})
        for checkpoint in (root / "checkpoints").glob("*.ckpt"):
            checkpoint.unlink()
    return read_json(path)


def target_of(name: str, train: Cohort) -> Target:
    """How a covariate is predicted.

    Raises:
        UserError: it is none of the cohort's, or does not vary.
    """
    values = [case.covariates[name] for case in train if case.covariates.get(name) is not None]
    if len(set(values)) < 2:
        varying = [key for key in train.covariates if len({case.covariates.get(key) for case in train} - {None}) > 1]
        raise UserError(f"downstream.covariate: {name!r} is no covariate that varies; there are {', '.join(varying) or 'none'}.")
    if any(isinstance(value, str) for value in values):
        return Target(name, tuple(sorted({str(value) for value in values})))
    numbers = torch.tensor(values, dtype=torch.float64)
    return Target(name, (), float(numbers.mean()), float(numbers.std()))


def device_of(model: nn.Module) -> torch.device:
    """Where a network is."""
    return next(model.parameters()).device
