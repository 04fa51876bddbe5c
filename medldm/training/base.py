"""What all trainings share: optimiser, schedule, guard against non-finite steps, weight average, history."""

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn

from medldm.errors import UserError
from medldm.training.optimizers import Muon, parameter_groups
from medldm.training.options import Training

PATIENCE = 5
EVERY = 10

#: (step, name -> value), such as a progress bar or a tracking server.
Watcher = Callable[[int, dict[str, float]], None]


class StepTraining(pl.LightningModule):
    """A training that counts steps and whose every draw is keyed by (seed, purpose, step).

    Args:
        model: what is trained.
        matrices: its parameters that Muon takes.
        options: learning rate, length, clipping.
        seed: the first part of every key.
        smallest: cells along the shortest axis of the coarsest level.
    """

    def __init__(self, model: nn.Module, matrices: list[nn.Parameter], options: Training, seed: int, smallest: int):
        super().__init__()
        self.model, self.matrices, self.options, self.seed, self.smallest = model, matrices, options, seed, smallest
        self.record: dict[str, float] = {}
        self.skipped = 0
        self.in_step = False

    def configure_optimizers(self) -> dict:
        """Muon and AdamW with linear warm-up and a cosine to `final`."""
        o = self.options
        optimizer = Muon(parameter_groups(self.model, self.matrices, o.other_learning_rate), lr=o.learning_rate, weight_decay=o.weight_decay)

        def factor(step: int) -> float:
            cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / o.steps)))
            return min(1.0, (step + 1) / max(1, o.warm_up)) * (o.final + (1 - o.final) * cosine)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """Clip the norm; a step whose gradient is not finite is skipped, and the fifth in a row ends the training.

        Without gradients the optimiser leaves parameters and its own state as they are, so the step is counted but does nothing.
        """
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip)
        if torch.isfinite(norm):
            self.skipped = 0
            return
        for parameter in self.model.parameters():
            parameter.grad = None
        self.skipped += 1
        if self.skipped >= PATIENCE:
            raise UserError(
                f"Step {self.global_step}: the gradient was not finite {PATIENCE} times in a row.",
                "Lower training.learning_rate, or set training.precision to 32-true; the last checkpoint is sound.",
            )

    def on_train_batch_start(self, batch, batch_idx) -> None:
        """Mark that weights and counters may disagree until the step ends."""
        self.in_step = True

    def on_train_batch_end(self, outputs, batch, batch_idx) -> None:
        """The step is whole."""
        self.in_step = False

    def note(self, terms: dict[str, Tensor], prefix: str) -> None:
        """Remember scalars for the history; only read where they are written down."""
        for name, value in terms.items():
            self.record[f"{prefix}{name}"] = value.detach() if isinstance(value, Tensor) else value


def weight_average(decay: float) -> WeightAveraging:
    """Exponential moving average of the weights, decay min(decay, (n + 1) / (n + 20)) after n updates; Lightning swaps it in for validation."""

    @torch.no_grad()
    def average(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        weight = 1 - min(decay, (float(count) + 1) / (float(count) + 20))
        torch._foreach_lerp_(averaged, current, weight)

    return WeightAveraging(use_buffers=False, multi_avg_fn=average)


class History(pl.Callback):
    """Writes `history.csv` (step, name, value): the local record of a training, whatever the tracking server does.

    Args:
        path: the file; rows after the step that a resumed training starts from are dropped.
        start: that step.
        watchers: called with step and values after each write.
    """

    def __init__(self, path: Path, start: int, watchers: Sequence[Watcher] = ()):
        self.path, self.watchers = Path(path), watchers
        rows = []
        if self.path.is_file():
            with open(self.path, newline="", encoding="utf-8") as stream:
                rows = [row for row in list(csv.reader(stream))[1:] if len(row) == 3 and int(row[0]) <= start]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([["step", "name", "value"], *rows])

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        """Write the training terms every ten steps."""
        if trainer.global_step % EVERY == 0:
            self._write(trainer, module)

    def on_validation_epoch_end(self, trainer, module) -> None:
        """Write what validation noted."""
        self._write(trainer, module)

    def _write(self, trainer, module) -> None:
        values = {name: float(value) for name, value in module.record.items()}
        module.record = {}
        with open(self.path, "a", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([trainer.global_step, name, repr(value)] for name, value in values.items())
        for watcher in self.watchers:
            watcher(trainer.global_step, values)
