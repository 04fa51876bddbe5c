"""Settings and arms of a downstream study. No Lightning here: the signature of `evaluate` imports it."""

from dataclasses import dataclass, field, replace

from medldm.cohort import Cohort
from medldm.data.steps.torchio_augment import ORDINARY, Augment
from medldm.errors import UserError
from medldm.randomness import permutation
from medldm.training.options import Training


@dataclass(frozen=True)
class Arm:
    """One training set.

    Args:
        name: "real", "synthetic" or "both".
        size: real training patients; 0 for "synthetic".
        seed: number of the training.
    """

    name: str
    size: int
    seed: int

    def __str__(self) -> str:
        return f"{self.name}-n{self.size}-seed{self.seed}" if self.size else f"{self.name}-seed{self.seed}"


@dataclass(frozen=True)
class Downstream:
    """What synthetic cases are worth for a task: the same network trained on real, on synthetic and on both.

    Every arm has the same network, steps, batch and ordinary augmentation. An arm of both takes a share of each batch from the
    synthetic cases. Smaller sets of real patients are parts of the larger ones, and other ones for each seed.

    Args:
        sizes: real training patients of the arms "real" and "both"; all that there are by default.
        seeds: trainings per arm, which differ in real patients, initial weights and order.
        share: of each batch that is synthetic in arms of both, in (0, 1).
        until: part of the steps of arms of both that have synthetic samples, in (0, 1]; in the others all samples are real, so that the
            network ends on label maps that are.
        covariate: predict it, a number or a category; by default the labels are segmented.
        widths: of the network, see `Segmenter` (segmentation) or `FeatureEncoder` (covariate).
        training: length, batch, learning rates, precision of each arm.
        augment: ordinary augmentation, the same for every arm.
        crop: voxels of a training crop; by default what fits every case, at most 64.
    """

    sizes: tuple[int, ...] = ()
    seeds: int = 3
    share: float = 0.5
    until: float = 1.0
    covariate: str | None = None
    widths: tuple[int, ...] = (32, 64, 128)
    training: Training = field(default_factory=lambda: Training(steps=800))
    augment: Augment = ORDINARY
    crop: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.seeds < 1 or not 0 < self.share < 1 or not 0 < self.until <= 1 or min(self.sizes, default=1) < 1:
            raise UserError("downstream.seeds and downstream.sizes must be at least 1, downstream.share and downstream.until lie between 0 and 1.")
        self.training.check_trains()
        if not 0 < self.synthetic_slots < self.training.batch:
            found = f"downstream.share={self.share} of downstream.training.batch={self.training.batch}"
            raise UserError(f"{found} leaves no real or no synthetic sample in a batch.", "Set a larger batch, or another share.")

    @property
    def synthetic_slots(self) -> int:
        """Synthetic samples in each batch of an arm of both."""
        return round(self.share * self.training.batch)

    def arms(self, patients: int) -> list[Arm]:
        """All arms, where so many real patients can be trained on.

        Raises:
            UserError: a size is larger than that.
        """
        sizes = sorted(set(self.sizes)) or [patients]
        if sizes[-1] > patients:
            raise UserError(f"downstream.sizes: {sizes[-1]} real training patients are more than the {patients} there are.", "Lower it.")
        return [
            arm
            for seed in range(self.seeds)
            for arm in (*(Arm(name, size, seed) for size in sizes for name in ("real", "both")), Arm("synthetic", 0, seed))
        ]


def own_labels(real: Cohort) -> Cohort:
    """The cases whose label maps are not predicted by `annotate`, and not missing."""
    predicted = set(real.facts.get("predicted_labels", ()))
    return real.where(lambda case: bool(case.label) and case.case not in predicted)


def training_set(real: Cohort, patients: int | None, seed: int, synthetic: Cohort | None) -> Cohort:
    """The cases of an arm, for other software: real ones of the splits train (some), val and test, and generated ones as training cases.

    Args:
        real: where it has structures, cases with label maps of their own are taken.
        patients: real training patients, those of the arm with this seed; None for all.
        seed: of the arm.
        synthetic: generated cases, or None.

    Returns:
        A cohort that is not stored; images of generated cases have whole paths.

    Raises:
        UserError: so many patients are not there, the cohorts differ in unit or labels, or a case stands in both.
    """
    usable = real.where(lambda case: case.status == "ok")
    known = own_labels(usable) if real.labels else usable
    train = known.split("train")
    if patients is not None and not 0 <= patients <= len(train.people):
        raise UserError(f"patients={patients}: {real.root} has {len(train.people)} training patients with label maps of their own.")
    train = train if patients is None else chosen(train, patients, seed)
    made = [
        replace(case, split="train", image=_whole(synthetic, case.image), label=_whole(synthetic, case.label))
        for case in (comparable(synthetic, real).where(lambda case: case.status == "ok") if synthetic else ())
    ]
    if clash := {case.case for case in made} & {case.case for case in known}:
        raise UserError(f"{min(clash)!r} is a case of {real.root} and of the generated cohort.", "Rename it in the source and prepare that again.")
    return replace(real, cases=(*train, *made, *known.split("val"), *known.split("test")))


def _whole(cohort: Cohort, relative: str) -> str:
    return str(cohort.path(relative).resolve()) if relative else ""


def comparable(generated: Cohort, real: Cohort) -> Cohort:
    """The generated cohort, if its images mean the same as the real ones.

    Raises:
        UserError: it is not synthetic, is empty, or differs in unit or labels.
    """
    if not generated.synthetic:
        raise UserError(f"{generated.root} holds real images.", "Give a cohort made by `medldm generate`.")
    if not any(case.status == "ok" for case in generated):
        raise UserError(f"{generated.root} has no usable case.", "Generate some, or look at the column `reason` of its cohort.csv.")
    for what in ("unit", "labels"):
        ours, theirs = getattr(generated, what), getattr(real, what)
        if ours != theirs:
            raise UserError(
                f"{generated.root}/cohort.json and {real.root}/cohort.json differ in {what}: {ours!r} and {theirs!r}.",
                "Give the cohort that the generator was trained on.",
            )
    return generated


def chosen(real: Cohort, size: int, seed: int) -> Cohort:
    """The real training cases of `size` patients; the first `size` in an order that the seed alone decides."""
    people = real.people
    names = {people[i] for i in permutation(len(people), seed, "downstream")[:size]}
    return real.where(lambda case: case.person in names)
