"""Run a training to its last step, from wherever it was stopped."""

import logging
import signal
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from medldm.training.base import History, StepTraining, Watcher, weight_average
from medldm.training.options import resolve_precision
from medldm.training.resume import Checkpoints, latest


def fit(
    module: StepTraining,
    dataset: Dataset,
    validation: DataLoader | None,
    root: Path,
    watchers: Sequence[Watcher],
    say: Callable[[str], None],
    single_from: int | None = None,
) -> None:
    """Train until `options.steps`, with the averaged weights in `module.model` at the end.

    After a kill at any moment the same call continues from the newest whole checkpoint and, on one CPU device, ends with
    the same bits as a training that was never stopped, unless it is private.

    Args:
        module: what to train, for at least 1 step.
        dataset: items keyed by (step, slot).
        validation: batches of held-out patients, or None.
        root: the run folder; checkpoints and history go there.
        watchers: called with step and values every few steps.
        say: takes lines for the user.
        single_from: step from which a batch is one sample, or None.
    """
    options = module.options
    options.check_trains()
    start, checkpoint, damaged = latest(root / "checkpoints")
    for path in damaged:
        say(f"checkpoint {path.name} is damaged and was passed over")
    if checkpoint:
        say(f"continuing from step {start} of {options.steps}")
    if checkpoint and start == options.steps:  # nothing is left to train, and Lightning would leave the weights as they were before averaging
        module.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
        return
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    torch.use_deterministic_algorithms(not torch.cuda.is_available())
    trainer = _trainer(module, root, start, validation is not None, watchers)
    batches = module.batches(dataset, start, single_from)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        trainer.fit(module, batches, validation, ckpt_path=checkpoint, weights_only=True)
    finally:
        signal.signal(signal.SIGTERM, handler)


def _trainer(module: StepTraining, root: Path, start: int, validates: bool, watchers: Sequence[Watcher]) -> pl.Trainer:
    """Lightning's loop for one device, which counts steps and leaves files and lines to us."""
    options = module.options
    return pl.Trainer(
        max_steps=options.steps,
        max_epochs=1,
        precision=resolve_precision(options.precision, module.smallest),
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        check_val_every_n_epoch=None if validates else 1,
        val_check_interval=min(options.validate_every, options.steps) if validates else None,
        limit_val_batches=None if validates else 0,
        callbacks=[
            weight_average(options.ema),
            History(root / "history.csv", start, watchers),
            Checkpoints(root / "checkpoints", options.save_every),
        ],
    )
