"""What a model remembers of planted cases: how often an attack guesses which of the candidates were trained on, and what that says of epsilon."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import optimize, stats

from medldm.diffusion.canaries import Canary, mixed
from medldm.diffusion.model import LatentDiffusion
from medldm.metrics.base import Images, Score
from medldm.privacy.latent_case import LatentCase, latent_of
from medldm.privacy.membership import NOISES, TELLING, auc, auc_interval, denoising_error, noise_seen
from medldm.randomness import keyed

Progress = Callable[[Iterable, str], Iterable]

SURE = 0.95
LARGEST = 64.0  # epsilon at which everything may be told


@dataclass(frozen=True)
class Exposure:
    """What attacks said of candidates that were planted with probability 1/2.

    Args:
        planted: attack -> a value for each candidate that was trained on, larger for likelier ones.
        withheld: likewise for those that were not.
        delta: of the guarantee that the training claims; 0 for none.
        claimed: epsilon that the training claims, or None.
    """

    planted: Mapping[str, np.ndarray]
    withheld: Mapping[str, np.ndarray]
    delta: float = 0.0
    claimed: float | None = None

    @property
    def epsilon(self) -> float:
        """What the guesses rule out with 95 % confidence: the largest `epsilon_bound` of the attacks, corrected for their number."""
        confidence = 1 - (1 - SURE) / len(self.planted)
        return max(self._bound(name, confidence) for name in self.planted)

    def _bound(self, name: str, confidence: float) -> float:
        """The likeliest quarter of the candidates is guessed to be planted, the unlikeliest not; of the rest nothing is said."""
        values = np.concatenate([self.planted[name], self.withheld[name]])
        truth = np.arange(len(values)) < len(self.planted[name])
        order, quarter = np.argsort(values, kind="stable"), len(values) // 4
        right = int(truth[order[len(values) - quarter :]].sum() + (~truth[order[:quarter]]).sum())
        return epsilon_bound(2 * quarter, right, len(values), self.delta, confidence)

    def failure(self) -> str:
        """Why the model fails, or ""."""
        if self.claimed is not None and self.epsilon > self.claimed:
            return f"planted cases are told so well that epsilon is at least {self.epsilon:.2f}, and {self.claimed:.2f} is claimed"
        worst = max((score for score in self.scores() if "auc" in score.name), key=lambda score: score.low)
        if worst.low > TELLING:
            return f"planted cases are told from others with an AUC of {worst.value:.2f} [{worst.low:.2f}, {worst.high:.2f}]"
        return ""

    def scores(self) -> list[Score]:
        """`canary_auc_<attack>` and `canary_epsilon`."""
        found = []
        for name, planted in self.planted.items():
            others = self.withheld[name]
            count = min(len(planted), len(others))
            interval = auc_interval(planted, others) if count else (math.nan, math.nan)
            found.append(Score(f"canary_auc_{name}", auc(planted, others) if count else math.nan, *interval, count))
        total = sum(len(next(iter(group.values()))) for group in (self.planted, self.withheld))
        return [*found, Score("canary_epsilon", self.epsilon, math.nan, math.nan, total)]


def epsilon_bound(guesses: int, right: int, candidates: int, delta: float = 0.0, confidence: float = SURE) -> float:
    """Largest epsilon that is ruled out by so many right guesses of independent coins in one training; 0 where none is.

    With f(v) = P(Binomial(guesses, e^eps / (1 + e^eps)) >= v), an (eps, delta) private training lets
    P(right >= v) <= f(v) + 2 candidates delta max over i of (f(v - i) - f(v)) / i  (Steinke, Nasr & Jagielski 2023).

    Args:
        guesses: that were made, of all candidates.
        right: of them.
        candidates: coins that were tossed.
        delta: of the guarantee.
        confidence: in (0, 1).
    """

    def probability(epsilon: float) -> float:
        told = stats.binom(guesses, 1 / (1 + math.exp(-epsilon)))
        most = float(told.sf(right - 1))
        fewer = np.arange(1, right + 1)
        return most + 2 * candidates * delta * float(((told.sf(right - fewer - 1) - most) / fewer).max(initial=0.0))

    if probability(0.0) > 1 - confidence:
        return 0.0
    return float(optimize.brentq(lambda epsilon: probability(epsilon) - (1 - confidence), 0.0, LARGEST))


@torch.inference_mode()
def expose(
    model: LatentDiffusion, training: Images, candidates: Sequence[Canary], progress: Progress = lambda steps, title: steps, seed: int = 0
) -> tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]:
    """Attack -> values of the candidates that were planted, and of the others.

    Args:
        model: in evaluation mode.
        training: the cases that it was trained on, in the order in which the candidates number them.
        candidates: of that training.
        progress: takes steps and a title, and gives the steps one after the other.
        seed: of the noise, which is the same for all.
    """
    cases: dict[int, LatentCase] = {}
    rows: list[dict[str, float]] = []
    for canary in progress(candidates, "planted cases"):
        cases |= {i: latent_of(model, training, i) for i in canary.parts if i not in cases}
        parts = [cases[i] for i in canary.parts]
        z, valid = mixed([case.z for case in parts], [case.valid for case in parts])
        context = model.denoiser.context(parts[0].codes[None], valid[None])
        noises = torch.randn(NOISES, *z.shape, generator=keyed(seed, "exposure")).to(z)
        rows.append({"loss": -denoising_error(model.denoiser, z[None], context, noises), "sima": -noise_seen(model.denoiser, z[None], context)})
    planted, withheld = ([row for row, c in zip(rows, candidates, strict=True) if c.planted is there] for there in (True, False))
    return tuple({name: np.array([row[name] for row in group]) for name in ("loss", "sima")} for group in (planted, withheld))
