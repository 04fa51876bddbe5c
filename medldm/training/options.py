"""Settings that every training shares. No Lightning here: command signatures import it."""

import math
from dataclasses import dataclass

import torch

from medldm.errors import UserError
from medldm.machine import cpu_has_bf16

PRECISIONS = ("auto", "bf16-mixed", "32-true")


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Args:
        steps: optimiser steps in all; 0 where weights are only imported.
        batch: samples per step.
        learning_rate: peak, of Muon's matrices.
        other_learning_rate: peak, of all other parameters (AdamW).
        warm_up: steps of linear warm-up.
        final: learning rate at the end of the cosine, relative to the peak.
        weight_decay: decoupled.
        clip: largest norm of the gradient.
        ema: decay of the weight average; it warms up as (n + 1) / (n + 20).
        checkpointing: compute the inside of residual blocks again in the backward pass rather than keep it: about half the memory of
            activations at about 4/3 of the time, and the same gradients (Chen et al. 2016).
        precision: "bf16-mixed", "32-true", or "auto": bf16 where the processor or GPU computes in it.
        validate_every: steps between validations on the patients of the split "val".
        save_every: steps between checkpoints.
    """

    steps: int = 1500
    batch: int = 4
    learning_rate: float = 3e-3
    other_learning_rate: float = 3e-3
    warm_up: int = 40
    final: float = 0.02
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.995
    checkpointing: bool = False
    precision: str = "auto"
    validate_every: int = 500
    save_every: int = 100

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("batch", 1), ("validate_every", 1), ("save_every", 1)):
            if getattr(self, name) < least:
                raise UserError(f"training.{name}={getattr(self, name)}: at least {least} is needed.")
        if not all(0 < value < math.inf for value in (self.learning_rate, self.other_learning_rate, self.clip)):
            raise UserError("training.learning_rate, training.other_learning_rate and training.clip must be positive numbers.")
        if not 0 <= self.ema < 1:
            raise UserError(f"training.ema={self.ema} must lie in [0, 1).")
        if self.precision not in PRECISIONS:
            raise UserError(f"training.precision={self.precision!r} is none of {', '.join(PRECISIONS)}.")

    def check_trains(self) -> None:
        """Refuse 0 steps, where there is nothing but training to do.

        Raises:
            UserError: there are none.
        """
        if not self.steps:
            raise UserError("training.steps=0 trains nothing.", "Give at least 1 step.")


def resolve_precision(precision: str, smallest: int) -> str:
    """The precision that "auto" means here: bf16 with a GPU or CPU that has bf16 arithmetic, else float32.

    Args:
        precision: see `Training`.
        smallest: cells along the shortest axis that a 3x3x3 convolution meets. oneDNN's bf16 weight gradients of such
            convolutions are wrong (up to 1e37, torch 2.13) on axes of fewer than 3 cells.

    Raises:
        UserError: bf16 is asked for where it would be wrong.
    """
    on_gpu = torch.cuda.is_available()
    if precision == "bf16-mixed" and smallest < 3 and not on_gpu:
        raise UserError(f"training.precision=bf16-mixed computes wrong gradients on a CPU for grids of {smallest} cells.", "Set it to auto.")
    if precision != "auto":
        return precision
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else cpu_has_bf16() and smallest >= 3
    return "bf16-mixed" if fast else "32-true"
