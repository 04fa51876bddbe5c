"""What every training command does once nothing can be refused any more."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn
from torch.utils.data import DataLoader, Dataset

from medldm.commands.progress import TrainingProgress, draw_history, warner
from medldm.run import Run, save_model
from medldm.tracking import tracked

if TYPE_CHECKING:
    from medldm.training.base import StepTraining


def train_run(
    run: Run,
    reads: dict[str, str],
    module: "StepTraining",
    dataset: Dataset,
    validation: Dataset | None,
    result: Callable[[], nn.Module],
    validation_batch: int = 1,
    single_from: int | None = None,
) -> None:
    """Train to the last step, save the model with its history and curves, and finish the run.

    Args:
        run: the claimed folder; a training that was stopped in it continues.
        reads: role -> fingerprint or sha256 of what is read.
        module: what to train; with 0 steps it is saved as it is.
        dataset: items keyed by (step, slot).
        validation: held-out items, or None.
        result: gives the model to save, when training has ended.
        validation_batch: held-out items at once.
        single_from: step from which a batch is one sample, or None.
    """
    from medldm.training.base import History
    from medldm.training.fit import fit

    options = module.options
    with tracked(run, reads) as tracker, TrainingProgress(options.steps) as progress:
        watchers = [
            progress,
            lambda step, values: tracker.metrics(values, step=step),
            warner(module.concerns, progress.say, min(options.validate_every, options.steps or 1), options.warm_up),
        ]
        held_out: DataLoader | None = DataLoader(validation, batch_size=validation_batch) if validation else None
        if options.steps:
            fit(module, dataset, held_out, run.root, watchers, progress.say, single_from)
        else:
            History(run.root / "history.csv", 0)
        save_model(run.root, result())
        tracker.artifact(draw_history(run.root))
        run.finish(reads, ["model.safetensors", "model.yaml", "history.csv"])
