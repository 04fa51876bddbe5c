"""The privacy of an evaluation: what a generated cohort and its model give away, judged each for itself."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medldm.diffusion.canaries import Canary
from medldm.diffusion.model import LatentDiffusion
from medldm.metrics.base import Images, Score
from medldm.metrics.features import Haar
from medldm.privacy.audit import Audit, audit
from medldm.privacy.exposure import Exposure, expose
from medldm.privacy.membership import Membership, attack
from medldm.privacy.neighbours import closeness
from medldm.report.html import Figure, Item, Text
from medldm.report.plots import plot_groups

Progress = Callable[[Iterable, str], Iterable]

MOST = 2  # members for each other patient; more would take time and hardly narrow an interval
CAUTION = (
    "A pass says that these attacks found nothing in these cases. It is no proof: other attacks may be stronger, and small cohorts hide small leaks.",
    "Somebody who has the model can try more than somebody who has the generated cases: a cohort may pass while its model fails.",
)


@dataclass(frozen=True)
class Findings:
    """What was found.

    Args:
        cohort: similarities of generated cases to training cases.
        model: attacks on members, or None where there was no model.
        near: distances between images.
        planted: attacks on planted cases, or None where there were none.
    """

    cohort: Audit
    model: Membership | None
    near: list[Score]
    planted: Exposure | None = None

    def verdicts(self) -> dict[str, tuple[str, str]]:
        """State and reason for "cohort" and, where it was attacked, "model"."""
        return {"cohort": self.cohort.verdict()} | ({"model": self._of(self.model)} if self.model else {})

    def _of(self, model: Membership) -> tuple[str, str]:
        """The verdict on a model that fails where it gives away its patients or the planted cases."""
        state, reason = model.verdict()
        failure = self.planted.failure() if self.planted else ""
        return ("fail", f"{reason}; {failure}" if state == "fail" else failure) if failure else (state, reason)

    def scores(self) -> list[Score]:
        """All figures."""
        return [*self.cohort.scores(), *self.near, *(part for found in (self.model, self.planted) if found for part in found.scores())]

    def items(self) -> list[Item]:
        """Verdicts, a plot and what they do not say."""
        told = [f"Sharing the {what}: {state}. {reason[0].upper()}{reason[1:]}." for what, (state, reason) in self.verdicts().items()]
        groups = {"held-out patients": self.cohort.held_out, "generated": self.cohort.generated, "planted copies": self.cohort.planted}
        caption = "One point per case: correlation of its details with the most similar training case, after alignment. Right of the line is a copy."
        items: list[Item] = [Text(told), Figure("Copies of training cases", plot_groups(groups, self.cohort.limit, "similarity"), caption)]
        if self.model:
            caption = "One point per patient, larger for likelier members; where both lie alike the model does not tell them apart."
            items += _attacks("members", {"members": self.model.members, "others": self.model.others}, caption)
        if self.planted:
            caption = "One point per mixture of patients, of which a coin decided whether it was planted in the training."
            items += _attacks("planted cases", {"planted": self.planted.planted, "withheld": self.planted.withheld}, caption)
        return [*items, Text(CAUTION)]


def _attacks(on: str, groups: Mapping[str, Mapping[str, np.ndarray]], caption: str) -> list[Figure]:
    """A plot for each attack, of what it said of each group."""
    attacks = next(iter(groups.values()))
    values = {name: {group: found[name] for group, found in groups.items()} for name in attacks}
    return [Figure(f"Attack on {on}: {name}", plot_groups(values[name], None, name), caption) for name in attacks]


@dataclass(frozen=True)
class Privacy:
    """What is audited.

    Args:
        generated: the synthetic cases.
        training: real cases that the generator was trained on.
        held_out: real cases of other patients.
        model: the diffusion model that made the cases, or None to judge them alone.
        candidates: cases that may have been planted in its training, see `Canaries.draw`.
        claimed: epsilon and delta that its training claims, or None.
        seed: of planted copies, noise and choices.
    """

    generated: Images
    training: Images
    held_out: Images
    model: LatentDiffusion | None
    candidates: Sequence[Canary] = ()
    claimed: tuple[float, float] | None = None
    seed: int = 0

    def find(self, progress: Progress) -> Findings:
        """Search for copies, measure distances and attack the model.

        Args:
            progress: takes steps and a title, and gives the steps one after the other.
        """
        found = audit(self.training, self.held_out, self.generated, progress, self.seed)
        near = closeness(self.generated, self.training, self.held_out, Haar(), self.seed)
        if not self.model:
            return Findings(found, None, near)
        return Findings(found, self._attack(progress), near, self._expose(progress) if self.candidates else None)

    def _expose(self, progress: Progress) -> Exposure:
        assert self.model is not None
        epsilon, delta = self.claimed or (None, 0.0)
        return Exposure(*expose(self.model, self.training, self.candidates, progress, self.seed), delta, epsilon)

    def _attack(self, progress: Progress) -> Membership:
        """Members whose label map is predicted stay away: its smoothness alone would tell them from others."""
        assert self.model is not None
        predicted = set(self.training.cohort.facts.get("predicted_labels", ())) if self.model.autoencoder.label_count else set()
        members = Images(self.training.cohort.where(lambda case: case.case not in predicted))
        return attack(self.model, members.take(MOST * len(self.held_out), self.seed), self.held_out, progress, self.seed)
