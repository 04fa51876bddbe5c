"""Checkpoints that are whole or absent, and that name their own digest."""

import re
from pathlib import Path

import pytorch_lightning as pl

from medldm.files import atomic, sha256

NAME = re.compile(r"step-(\d{8})-([0-9a-f]{16})\.ckpt")
KEEP = 2


class Checkpoints(pl.Callback):
    """Saves the whole state every few steps; a kill at any moment loses at most those.

    The last two are kept. The file name holds step and digest, so that no index can disagree with the files.

    Args:
        folder: where they go.
        every: steps between two.
    """

    def __init__(self, folder: Path, every: int):
        self.folder, self.every = Path(folder), every

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        """Save after every `every` steps; this callback must come after those that change weights."""
        if trainer.global_step % self.every == 0:
            self.save(trainer)

    def on_exception(self, trainer, module, exception) -> None:
        """Save when a signal stops the training between two steps."""
        if isinstance(exception, KeyboardInterrupt | SystemExit) and not module.in_step:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Write a checkpoint of the present step and drop the oldest."""
        step = trainer.global_step
        if any(found == step for found, _ in stored(self.folder)):
            return
        with atomic(self.folder / "saving.ckpt") as temporary:
            trainer.save_checkpoint(temporary)
            digest = sha256(temporary)[:16]
        (self.folder / "saving.ckpt").replace(self.folder / f"step-{step:08d}-{digest}.ckpt")
        for _, path in stored(self.folder)[:-KEEP]:
            path.unlink()


def stored(folder: Path) -> list[tuple[int, Path]]:
    """Steps and paths of the checkpoints in a folder, oldest first."""
    found = [(match, path) for path in Path(folder).glob("step-*.ckpt") if (match := NAME.fullmatch(path.name))]
    return sorted((int(match[1]), path) for match, path in found)


def latest(folder: Path) -> tuple[int, Path | None, list[Path]]:
    """Step and path of the newest whole checkpoint, (0, None) if there is none, and the damaged ones passed over."""
    damaged: list[Path] = []
    for step, path in reversed(stored(folder)):
        if sha256(path)[:16] == NAME.fullmatch(path.name)[2]:
            return step, path, damaged
        damaged.append(path)
    return 0, None, damaged
