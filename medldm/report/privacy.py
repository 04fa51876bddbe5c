"""The privacy of an evaluation: what a generated cohort and its model give away, judged each for itself."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from medldm.diffusion.model import LatentDiffusion
from medldm.metrics.base import Images, Score
from medldm.metrics.features import Haar
from medldm.privacy.audit import Audit, audit
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
    """

    cohort: Audit
    model: Membership | None
    near: list[Score]

    def verdicts(self) -> dict[str, tuple[str, str]]:
        """State and reason for "cohort" and, where it was attacked, "model"."""
        return {"cohort": self.cohort.verdict()} | ({"model": self.model.verdict()} if self.model else {})

    def scores(self) -> list[Score]:
        """All figures."""
        return [*self.cohort.scores(), *self.near, *(self.model.scores() if self.model else [])]

    def items(self) -> list[Item]:
        """Verdicts, a plot and what they do not say."""
        told = [f"Sharing the {what}: {state}. {reason[0].upper()}{reason[1:]}." for what, (state, reason) in self.verdicts().items()]
        groups = {"held-out patients": self.cohort.held_out, "generated": self.cohort.generated, "planted copies": self.cohort.planted}
        caption = "One point per case: correlation of its details with the most similar training case, after alignment. Right of the line is a copy."
        items: list[Item] = [Text(told), Figure("Copies of training cases", plot_groups(groups, self.cohort.limit, "similarity"), caption)]
        if self.model:
            for name in self.model.members:
                values = {"members": self.model.members[name], "others": self.model.others[name]}
                caption = "One point per patient, larger for likelier members; where both lie alike the model does not tell them apart."
                items.append(Figure(f"Attack on members: {name}", plot_groups(values, None, name), caption))
        return [*items, Text(CAUTION)]


@dataclass(frozen=True)
class Privacy:
    """What is audited.

    Args:
        generated: the synthetic cases.
        training: real cases that the generator was trained on.
        held_out: real cases of other patients.
        model: the diffusion model that made the cases, or None to judge them alone.
        seed: of planted copies, noise and choices.
    """

    generated: Images
    training: Images
    held_out: Images
    model: LatentDiffusion | None
    seed: int = 0

    def find(self, progress: Progress) -> Findings:
        """Search for copies, measure distances and attack the model.

        Args:
            progress: takes steps and a title, and gives the steps one after the other.
        """
        found = audit(self.training, self.held_out, self.generated, progress, self.seed)
        near = closeness(self.generated, self.training, self.held_out, Haar(), self.seed)
        return Findings(found, self._attack(progress) if self.model else None, near)

    def _attack(self, progress: Progress) -> Membership:
        """Members whose label map is predicted stay away: its smoothness alone would tell them from others."""
        assert self.model is not None
        predicted = set(self.training.cohort.facts.get("predicted_labels", ())) if self.model.autoencoder.label_count else set()
        members = Images(self.training.cohort.where(lambda case: case.case not in predicted))
        return attack(self.model, members.take(MOST * len(self.held_out), self.seed), self.held_out, progress, self.seed)
