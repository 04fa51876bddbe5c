"""Surrogates: synthetic cases in the place of real ones, of which nobody can say whose place they take.

Patients are put into groups of k. A surrogate begins at the mean latent of a group, which is the same for all its members (k-same, Newell et al.
2005), under so much noise that the model decides on the details (SDEdit, Meng et al. 2022), and is given the volumes, the age and the size of
another member. It is made anew until it is no more like its source than two different patients are, and given up where that never happens.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from medldm.diffusion.conditions.base import Value
from medldm.diffusion.model import LatentDiffusion
from medldm.diffusion.samplers.dpmpp import DpmPlusPlus
from medldm.diffusion.steering import Steering
from medldm.errors import UserError
from medldm.metrics.base import Images
from medldm.privacy.copies import CopySearch, limit
from medldm.privacy.latent_case import latent_of
from medldm.randomness import keyed
from medldm.types import Shape3

Progress = Callable[[Iterable, str], Iterable]

LAST = 0.98  # time from which hardly anything of the start is left


@dataclass(frozen=True)
class Disguise:
    """How surrogates are made.

    Args:
        group: k, patients in a group, at least 2.
        first: time in (0, 1) of the noise that the mean of a group is put under; later times keep less of it.
        later: what is added to it for each new attempt.
        attempts: per case.
        likeness: share of pairs of different patients that are more alike than a surrogate and its source may be, in (0, 1).
        steps: of the sampler.
        guidance: strength of the conditions.
        steering: holds labels to their volumes, or None.
    """

    group: int = 10
    first: float = 0.92
    later: float = 0.05
    attempts: int = 4
    likeness: float = 0.05
    steps: int = 20
    guidance: float = 1.5
    steering: Steering | None = field(default_factory=Steering)

    def __post_init__(self) -> None:
        if self.group < 2 or not 0 < self.first < 1 or self.later < 0 or self.attempts < 1 or not 0 < self.likeness < 1 or self.steps < 1:
            raise UserError(f"{self}: group >= 2, first and likeness in (0, 1), later >= 0, attempts and steps >= 1 were expected.")


@dataclass(frozen=True)
class Surrogate:
    """A synthetic case in the place of a real one.

    Args:
        image: [C I J K] in [-1, 1].
        label: [1 I J K], or None.
        covariates: what it was made with.
        similarity: of its details to those of its source, see `CopySearch`.
        attempts: that were needed.
    """

    image: Tensor
    label: Tensor | None
    covariates: dict[str, Value]
    similarity: float
    attempts: int


class Surrogates:
    """Makes surrogates of the cases of a cohort.

    Args:
        model: in evaluation mode.
        real: the cases; those of one patient are in one group.
        disguise: how.
        seed: of noise, pairs and who gets whose volumes.
        progress: takes steps and a title, and gives the steps one after the other.

    Raises:
        UserError: fewer patients than a group needs.
    """

    def __init__(self, model: LatentDiffusion, real: Images, disguise: Disguise, seed: int = 0, progress: Progress = lambda steps, title: steps):
        self.model, self.real, self.disguise, self.seed = model, real, disguise, seed
        found = [latent_of(model, real, index) for index in progress(range(len(real)), "encoding")]
        self.latents, self.valid = torch.stack([case.z for case in found]), torch.stack([case.valid for case in found])
        self.extents = [case.extent for case in found]
        self.groups = grouped(
            self.latents.flatten(1).cpu().numpy(), real.patients, [kind(model, case.covariates) for case in real.cases], disguise.group
        )
        self.search = CopySearch(real)
        self.limit = limit(list(self._pairs(progress)), disguise.likeness)

    def _pairs(self, progress: Progress) -> Iterator[float]:
        """Similarity of one case of each patient to a case of another one."""
        rng = np.random.default_rng(self.seed)
        patients = np.array(self.real.patients)
        for who in progress(sorted(set(patients)), "pairs of patients"):
            index = int(np.flatnonzero(patients == who)[0])
            other = int(rng.choice(np.flatnonzero(patients != who)))
            yield self.search.nearest(self.real.image(index)[0], self.real.spacing(index), [other]).similarity

    def refused(self) -> list[int]:
        """Cases whose kind too few patients share to hide among them."""
        return sorted(set(range(len(self.real))) - {index for group in self.groups for index in group})

    def of(self, index: int) -> Surrogate | None:
        """The surrogate of a case; None where it always was too much like its source, or nobody shares its kind."""
        group = next((group for group in self.groups if index in group), None)
        if group is None:
            return None
        mean, covariates, extent = self._start(index, group)
        own = [i for i, patient in enumerate(self.real.patients) if patient == self.real.patients[index]]
        for attempt in range(self.disguise.attempts):
            image, label = self._made(mean, covariates, extent, index, attempt)
            similarity = self.search.nearest(image[0].numpy(), self.model.spacing, own).similarity
            if similarity <= self.limit:
                return Surrogate(image, label, covariates, similarity, attempt + 1)
        return None

    def _start(self, index: int, group: list[int]) -> tuple[Tensor, dict[str, Value], Shape3]:
        """Mean latent of the group, and conditions and field of view of another member, another one for each."""
        weights = self.valid[group].sum(0)
        mean = (self.latents[group] * self.valid[group]).sum(0) / weights.clamp(min=1)
        patients = self.real.patients
        order = torch.randperm(len(group), generator=keyed(self.seed, "others", min(group))).tolist()
        turned = [group[i] for i in order]
        place = turned.index(index)
        other = next((i for i in turned[place + 1 :] + turned[:place] if patients[i] != patients[index]), index)
        known = self.real.cases[other].covariates
        return mean, {name: known.get(name) for name in self.model.denoiser.conditions}, self.extents[other]

    @torch.no_grad()
    def _made(self, mean: Tensor, covariates: dict[str, Value], extent: Shape3, index: int, attempt: int) -> tuple[Tensor, Tensor | None]:
        model, how = self.model, self.disguise
        first = min(how.first + how.later * attempt, LAST)
        noise = torch.randn(mean.shape, generator=keyed(self.seed, "surrogate", index, attempt)).to(mean)
        x = model.denoiser.process.mix(mean[None], noise[None], torch.tensor([first], dtype=torch.float64, device=mean.device))
        z = model.sample(x, [covariates], [extent], DpmPlusPlus(how.steps, first), how.guidance, how.steering)[0]
        image, label = model.decode(z, extent)
        return image.float().cpu(), None if label is None else label.cpu()


def kind(model: LatentDiffusion, covariates: dict[str, Value]) -> tuple[str, ...]:
    """The categories of a case, among the conditions of a model; numbers are no kind."""
    return tuple(f"{name}={covariates[name]}" for name in model.denoiser.conditions if isinstance(covariates.get(name), str))


def grouped(latents: np.ndarray, patients: Sequence[str], kinds: Sequence[tuple[str, ...]], k: int) -> list[list[int]]:
    """Groups of cases of at least k patients of one kind, who are alike (MDAV; Domingo-Ferrer & Torra 2005).

    The patient farthest from the mean of all who are left and the k - 1 nearest ones are a group, until fewer than 2 k are left. Kinds that
    fewer than k patients share are in no group.

    Args:
        latents: one row per case [n d].
        patients: of each case.
        kinds: of each case; a patient has the kind of the first case.
        k: patients.

    Raises:
        UserError: no kind has k patients.
    """
    cases = {who: [i for i, patient in enumerate(patients) if patient == who] for who in dict.fromkeys(patients)}
    rows = {who: latents[indices].mean(0) for who, indices in cases.items()}
    groups: list[list[str]] = []
    for one in dict.fromkeys(kinds):
        left = [who for who, indices in cases.items() if kinds[indices[0]] == one]
        while len(left) >= 2 * k:
            average = np.mean([rows[who] for who in left], axis=0)
            farthest = max(left, key=lambda who: float(((rows[who] - average) ** 2).sum()))
            near = sorted(left, key=lambda who: float(((rows[who] - rows[farthest]) ** 2).sum()))[:k]
            groups.append(near)
            left = [who for who in left if who not in near]
        if len(left) >= k:
            groups.append(left)
    if not groups:
        raise UserError(f"No kind of patient has the {k} patients that a group needs; there are {len(cases)}.", "Set a smaller disguise.group.")
    return [[index for who in group for index in cases[who]] for group in groups]
