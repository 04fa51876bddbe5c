"""What all trainings share: optimiser, schedule, guard against non-finite steps, weight average, history."""

import csv
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

from medldm.errors import UserError
from medldm.training.data import loader
from medldm.training.optimizers import Muon, parameter_groups
from medldm.training.options import Training

PATIENCE = 5
EVERY = 10

#: (step, name -> value), such as a progress bar or a tracking server.
Watcher = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Companion:
    """A network that is trained beside the model by a loss of its own; it is no part of the weight average nor of the result.

    It is one more group of the one optimizer: gradients that meet in one backward pass but never mix are those of two optimizers,
    and steps are still counted once.

    Args:
        name: in messages and checkpoints.
        network: in the checkpoints, as its parameters and buffers are.
        start: step from which it is trained; warm-up and cosine begin there.
        learning_rate: peak.
        betas: of AdamW.
    """

    name: str
    network: nn.Module
    start: int
    learning_rate: float
    betas: tuple[float, float]


class StepTraining(pl.LightningModule):
    """A training that counts steps and whose every draw is keyed by (seed, purpose, step).

    Args:
        model: what is trained.
        matrices: its parameters that Muon takes.
        options: learning rate, length, clipping.
        seed: the first part of every key.
        smallest: cells along the shortest axis of the coarsest level.
        blocks: parts of the model that `options.checkpointing` computes again.

    Raises:
        UserError: checkpointing is asked for where no part is known.
    """

    def __init__(self, model: nn.Module, matrices: list[nn.Parameter], options: Training, seed: int, smallest: int, blocks: Sequence[nn.Module] = ()):
        super().__init__()
        if options.checkpointing:
            compute_again(blocks)
        self.model, self.matrices, self.options, self.seed, self.smallest = model, matrices, options, seed, smallest
        self.record: dict[str, float] = {}
        self.skipped: Counter[str] = Counter()
        self.in_step = False

    def companions(self) -> list[Companion]:
        """Networks that are trained beside the model; none unless a training says otherwise."""
        return []

    def batches(self, dataset: Dataset, start: int, single_from: int | None) -> DataLoader:
        """The batches of the steps from `start` on; from step `single_from` on, if there is one, they are one sample."""
        return loader(dataset, start, self.options.steps, self.options.batch, single_from)

    def concerns(self) -> list[str]:
        """What is wrong with the training, one sentence each; see `medldm.commands.progress.warner`."""
        return []

    def configure_optimizers(self) -> dict:
        """Muon and AdamW with linear warm-up and a cosine to `final`."""
        o = self.options
        groups, starts = parameter_groups(self.model, self.matrices, o.other_learning_rate), [0, 0]
        for c in self.companions():
            c.network.to(self.device)
            groups.append({"params": list(c.network.parameters()), "lr": c.learning_rate, "betas": c.betas})
            starts.append(c.start)
        optimizer = Muon(groups, lr=o.learning_rate, weight_decay=o.weight_decay)

        def factor(start: int, step: int) -> float:
            since, length = max(0, step - start), max(1, o.steps - start)
            cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, since / length)))
            return min(1.0, (since + 1) / max(1, o.warm_up)) * (o.final + (1 - o.final) * cosine)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, [partial(factor, start) for start in starts])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        """Clip the norm; a step whose gradient is not finite is skipped, and the fifth in a row ends the training.

        Without gradients the optimiser leaves parameters and its own state as they are, so the step is counted but does nothing.
        Model and companions are clipped and skipped each on its own: a bad step of one is not the other's.
        """
        self._guard("", self.model)
        for companion in self.companions():
            self._guard(companion.name, companion.network)

    def _guard(self, name: str, network: nn.Module) -> None:
        norm = nn.utils.clip_grad_norm_(network.parameters(), self.options.clip)
        if torch.isfinite(norm):
            self.skipped[name] = 0
            return
        for parameter in network.parameters():
            parameter.grad = None
        self.skipped[name] += 1
        if self.skipped[name] >= PATIENCE:
            rate = f"{name}'s learning rate" if name else "training.learning_rate"
            raise UserError(
                f"Step {self.global_step}: the gradient {f'of the {name} ' if name else ''}was not finite {PATIENCE} times in a row.",
                f"Lower {rate}, or set training.precision to 32-true; the last checkpoint is sound.",
            )

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Companions are no sub-modules, which the weight average would take in; their weights are saved here."""
        checkpoint["companions"] = {c.name: c.network.state_dict() for c in self.companions()}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Put back what `on_save_checkpoint` saved."""
        for c in self.companions():
            c.network.load_state_dict(checkpoint["companions"][c.name])

    def on_fit_end(self) -> None:
        """Lightning takes the model back to host memory; companions go with it."""
        for c in self.companions():
            c.network.cpu()

    def on_train_batch_start(self, batch, batch_idx) -> None:
        """Mark that weights and counters may disagree until the step ends."""
        self.in_step = True

    def on_train_batch_end(self, outputs, batch, batch_idx) -> None:
        """The step is whole."""
        self.in_step = False

    def on_validation_start(self) -> None:
        """Mark that the averaged weights stand in the place of the trained ones."""
        self.in_step = True

    def on_validation_end(self) -> None:
        """They have been exchanged back."""
        self.in_step = False

    def note(self, terms: dict[str, Tensor], prefix: str) -> None:
        """Remember scalars for the history; only read where they are written down."""
        for name, value in terms.items():
            self.record[f"{prefix}{name}"] = value.detach() if isinstance(value, Tensor) else value

    def note_mean(self, name: str, value: Tensor, index: int) -> None:
        """Remember the mean of a scalar over the validation batches 0 to `index`, of which this is the last."""
        self.record[name] = (self.record.get(name, 0.0) * index + float(value)) / (index + 1)


def compute_again(blocks: Sequence[nn.Module]) -> None:
    """Let modules keep their arguments alone, and compute what is inside once more in the backward pass.

    Raises:
        UserError: there are none.
    """
    if not blocks:
        raise UserError("This network names no blocks that could be computed again.", "Leave training.checkpointing at false.")
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


def weight_average(decay: float) -> WeightAveraging:
    """Exponential moving average of the weights, decay min(decay, (n + 1) / (n + 20)) after n updates; Lightning swaps it in for validation."""

    @torch.no_grad()
    def average(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        weight = 1 - min(decay, (float(count) + 1) / (float(count) + 20))
        torch._foreach_lerp_(averaged, current, weight)

    # Lightning makes the copy before it moves the model, and would leave it on the host
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else None
    return WeightAveraging(device=device, use_buffers=False, multi_avg_fn=average)


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
