"""Differentially private training of a denoiser: patients drawn at random, their gradients clipped one by one, noise on the sum.

With a set B of patients that holds each with probability q, and gradients g_i of one random case of each,

    g = (sum over B of g_i min(1, clip / |g_i|) + N(0, (multiplier clip)^2)) / (q patients)          (Abadi et al. 2016)

takes the gradient's place, whatever the optimizer and the weight average then make of it. Who is drawn and the noise come from the
operating system and from no seed, since a seed stands in `config.yaml`: who knew them could take the noise away and see who was drawn.
Nothing of it is kept, so a training that continues draws anew. Times, windows and what else is keyed by the seed concerns one patient each.
"""

import math
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medldm.cohort import Cohort
from medldm.errors import UserError
from medldm.randomness import keyed
from medldm.training.latents import Latents

#: Latent [c i j k], conditions [N], field of view [1 i j k], number of the patient.
PatientItem = tuple[Tensor, Tensor, Tensor, int]


def uniform(count: int, device: torch.device | str = "cpu") -> Tensor:
    """Numbers in (0, 1], float64 [count], that nobody can repeat."""
    bits = torch.frombuffer(bytearray(os.urandom(8 * count)), dtype=torch.int64).to(device)
    return ((bits >> 11).double() + (2**52 + 0.5)) / 2**53


def normal(shape: torch.Size, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal numbers, float64, that nobody can repeat (Box & Muller 1958)."""
    u, v = uniform(shape.numel() + shape.numel() % 2, device).chunk(2)
    radius, angle = (-2 * u.log()).sqrt(), 2 * math.pi * v
    return torch.cat([radius * angle.cos(), radius * angle.sin()])[: shape.numel()].view(shape)


def clipped_sum(losses: Iterable[Tensor], parameters: list[nn.Parameter], clip: float) -> list[Tensor]:
    """Sum over losses of their gradients g min(1, clip / |g|), so that none moves it by more than `clip`.

    Losses are taken one by one, so that whatever the layers, no gradient holds anything of another patient, and memory is that of one. A gradient
    that is not finite counts as 0: in the sum it would give its patient away.
    """
    total = [torch.zeros_like(p) for p in parameters]
    for loss in losses:
        gradient = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        norm = float(torch.stack(torch._foreach_norm(gradient, dtype=torch.float64)).norm())
        if math.isfinite(norm):
            torch._foreach_add_(total, gradient, alpha=min(1.0, clip / norm) if norm else 1.0)
    return total


def refuse_statistics(model: nn.Module) -> None:
    """Refuse layers that carry something of one patient to another, past clipping and noise.

    Raises:
        UserError: there is one.
    """
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) or getattr(module, "running_mean", None) is not None:
            raise UserError(
                f"privacy: {name} ({type(module).__name__}) keeps statistics of the patients.", "Take a network with group normalisation."
            )


class PoissonBatches:
    """A batch sampler of (step, patient) pairs: each step has each patient with probability `rate`, so that it can be empty.

    Args:
        start, stop: first step of this session, and number of steps of the whole training.
        patients: in all.
        rate: in (0, 1].
    """

    def __init__(self, start: int, stop: int, patients: int, rate: float):
        self.start, self.stop, self.patients, self.rate = start, stop, patients, rate

    def __len__(self) -> int:
        return self.stop  # as StepBatches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in range(self.start, self.stop):
            yield [(step, patient) for patient in (uniform(self.patients) <= self.rate).nonzero()[:, 0].tolist()]


class PatientLatents(Latents):
    """Latents by (step, patient) instead of (step, slot): one case of the patient, chosen at random."""

    def __init__(self, cohort: Cohort, *arguments: Any):
        super().__init__(cohort, *arguments)
        cases = [[number for number, case in enumerate(cohort) if case.person == person] for person in cohort.people]
        self.patients = cases + [[len(cohort) + number] for number in range(len(self.planted))]  # each is a patient of its own

    def __getitem__(self, key: tuple[int, int]) -> PatientItem:
        """Latent, conditions and field of view, as `Latents`, and the patient."""
        return (*super().__getitem__(key), key[1])

    def case(self, step: int, slot: int) -> int:
        """See `Latents.case`; the slot is a patient."""
        cases = self.patients[slot]
        return cases[int(torch.randint(len(cases), (), generator=keyed(self.seed, "case", step, slot)))]
