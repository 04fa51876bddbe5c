"""Whether a diffusion model tells the patients it was trained on from others: attacks by somebody who has the model and a patient's image.

Three signals, each larger for likelier members: how well the model denoises the latents of the image (loss; Matsumoto et al. 2023), how little
noise it sees in them (SimA, single query), and how well the middle frequencies of the image come back from noise (after FCRE, for medical images).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medldm.diffusion.conditions.base import Context
from medldm.diffusion.denoiser import Denoiser
from medldm.diffusion.model import LatentDiffusion
from medldm.metrics.base import Images, Score
from medldm.metrics.bootstrap import case_weights, interval
from medldm.operators.base import column
from medldm.privacy.audit import FEWEST, State
from medldm.privacy.latent_case import latent_of
from medldm.randomness import keyed
from medldm.types import Shape3

Progress = Callable[[Iterable, str], Iterable]

TIMES = (0.1, 0.3, 0.5, 0.7)  # at which the model denoises
NOISES = 2  # at each time
QUERY = 0.1  # time that SimA asks for
REDRAWN = 0.3  # time from which images come back
BAND = (1.0, 3.0)  # voxels, widths of the Gaussians between which frequencies are compared
FALSE_ALARMS, ENOUGH = 0.01, 100  # strangers below which a rate of 1 % says nothing
TELLING, SURE = 0.6, 0.7  # AUC from which a model tells members, and that has to be ruled out


@dataclass(frozen=True)
class Membership:
    """What attacks said of each patient.

    Args:
        members: attack -> a value for each patient that was trained on, larger for likelier members.
        others: likewise for patients who were not.
    """

    members: Mapping[str, np.ndarray]
    others: Mapping[str, np.ndarray]

    def verdict(self) -> tuple[State, str]:
        """Pass, fail or inconclusive for the model itself, by its strongest attack, and why."""
        least = min(len(next(iter(group.values()))) for group in (self.members, self.others))
        if least < FEWEST:
            return "inconclusive", f"{least} patients are too few to attack; {FEWEST} of each kind are needed"
        found = [score for score in self.scores() if score.name.startswith("membership_auc")]
        worst, widest = max(found, key=lambda score: score.low), max(score.high for score in found)
        told = f"the strongest attack on members has an AUC of {worst.value:.2f} [{worst.low:.2f}, {worst.high:.2f}]"
        if worst.low > TELLING:
            return "fail", told
        return ("pass", told) if widest < SURE else ("inconclusive", f"{told}; more patients are needed to rule out {SURE}")

    def scores(self) -> list[Score]:
        """`membership_auc_<attack>` and `membership_tpr1_<attack>`, the share of members found at 1 % false alarms (needs 100 others)."""
        scores = []
        for name, members in self.members.items():
            others = self.others[name]
            n = min(len(members), len(others))
            scores.append(Score(f"membership_auc_{name}", auc(members, others), *auc_interval(members, others), n))
            scores.append(Score(f"membership_tpr1_{name}", found_at(members, others), math.nan, math.nan, n))
        return scores


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """Probability that a member has the larger value of a pair, a tie counting half (Mann & Whitney 1947): .5 says nothing, 1 everything."""
    return float(_pairs(members, others).mean())


def auc_interval(members: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the AUC over patients of both kinds."""
    one, other = (case_weights([str(i) for i in range(len(group))], seed=seed) for seed, group in enumerate((members, others)))
    drawn = ((one @ _pairs(members, others)) * other).sum(1) / (len(members) * len(others))
    low, high = interval(drawn, min(len(members), len(others)))
    return max(low, 0.0), min(high, 1.0)


def _pairs(members: np.ndarray, others: np.ndarray) -> np.ndarray:
    """1 where a member has the larger value, .5 where both are equal [members, others]."""
    return (members[:, None] > others) + 0.5 * (members[:, None] == others)


def found_at(members: np.ndarray, others: np.ndarray, false_alarms: float = FALSE_ALARMS) -> float:
    """Share of members above the value that at most this share of others exceeds; nan where fewer than 100 others cannot tell."""
    if len(others) < ENOUGH:
        return math.nan
    allowed = int(false_alarms * len(others))
    return float(np.mean(members > np.sort(others)[len(others) - 1 - allowed]))


def attack(model: LatentDiffusion, members: Images, others: Images, progress: Progress = lambda steps, title: steps, seed: int = 0) -> Membership:
    """Run all attacks.

    Args:
        model: in evaluation mode.
        members: cases that it was trained on, with the covariates that are its conditions.
        others: cases of other patients, of the same kind.
        progress: takes steps and a title, and gives the steps one after the other.
        seed: of the noise, which is the same for all cases.
    """
    found = []
    for images, title in ((members, "patients of the training"), (others, "other patients")):
        rows = [signals(model, images, i, seed) for i in progress(range(len(images)), title)]
        owners = np.array(images.patients)
        people = sorted(set(images.patients))
        found.append({name: np.array([np.mean([row[name] for row in np.array(rows)[owners == who]]) for who in people]) for name in rows[0]})
    return Membership(*found)


@torch.inference_mode()
def signals(model: LatentDiffusion, images: Images, index: int, seed: int = 0) -> dict[str, float]:
    """Attack -> value of one case, see `attack`."""
    case = latent_of(model, images, index)
    z, context = case.z[None], model.denoiser.context(case.codes[None], case.valid[None])
    noises = torch.randn(NOISES, *case.z.shape, generator=keyed(seed, "membership")).to(z)
    back, true = _redrawn(model, z, context, noises, case.extent), images.image(index)[(slice(None), *case.where)]
    return {
        "loss": -denoising_error(model.denoiser, z, context, noises),
        "sima": -noise_seen(model.denoiser, z, context),
        "redrawn": -float(np.mean((_band(back) - _band(true)) ** 2)),
    }


def denoising_error(denoiser: Denoiser, z: Tensor, context: Context, noises: Tensor) -> float:
    """Mean error of the prediction (see `Denoiser.error`) of a latent [1 c i j k] over fixed times and noises [n c i j k]."""
    times, e = z.new_tensor(TIMES, dtype=torch.float64).repeat_interleave(len(noises)), noises.repeat(len(TIMES), 1, 1, 1, 1)
    return float(denoiser.error(z.expand_as(e), e, times, _repeated(context, len(e))).mean())


def noise_seen(denoiser: Denoiser, z: Tensor, context: Context) -> float:
    """|e^(s z, t)| per cell: root mean square of the noise that the model sees in a clean latent z [1 c i j k], at t = .1."""
    t = z.new_full((1,), QUERY, dtype=torch.float64)
    signal, noise = (column(part, z) for part in (denoiser.process.signal(t), denoiser.process.noise(t)))
    seen = signal * (z - denoiser(signal * z, t, context)) / noise
    valid = torch.ones_like(z[:, :1]) if context.valid is None else context.valid
    return float(((seen.square() * valid).sum() / (valid.sum() * z.shape[1])).sqrt())


def _redrawn(model: LatentDiffusion, z: Tensor, context: Context, noises: Tensor, extent: Shape3) -> np.ndarray:
    """The image [C I J K] that the model makes of a noisy latent, mean over noises."""
    t = z.new_full((len(noises),), REDRAWN, dtype=torch.float64)
    clean = model.denoiser(model.denoiser.process.mix(z.expand_as(noises), noises, t), t, _repeated(context, len(noises)))
    return model.decode(clean.mean(0), extent)[0].float().cpu().numpy()


def _repeated(context: Context, count: int) -> Context:
    """The context of one sample for a batch of it."""
    valid = None if context.valid is None else context.valid.expand(count, -1, -1, -1, -1)
    return Context(context.vector.expand(count, -1), valid)


def _band(image: np.ndarray) -> np.ndarray:
    """Middle frequencies of an image [C I J K]."""
    fine, coarse = (ndimage.gaussian_filter(image, (0, width, width, width), mode="nearest") for width in BAND)
    return fine - coarse
