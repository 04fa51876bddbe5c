"""A downstream study: scores of its arms, what synthetic cases add to real ones, and a plot."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from medldm.cohort import Cohort
from medldm.files import write_csv
from medldm.metrics.base import Images, Score, not_computable
from medldm.metrics.bootstrap import summarise
from medldm.parallel import spread
from medldm.report.html import Figure
from medldm.report.plots import plot_arms
from medldm.report.reconstruction import Values
from medldm.training.study import Arm, Downstream, own_labels

Found = dict[Arm, list[Values]]
Statistic = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class Trained:
    """What the networks of a study find.

    Args:
        test: held-out real cases.
        found: arm -> values of each of them.
        generated: generated cases, at most as many as were held out.
        agreement: arms of most real patients alone -> values of each of those.
        measure: "dice" or "error".
        unit: of the measure.
    """

    test: Images
    found: Found
    generated: Images
    agreement: Found
    measure: str = "dice"
    unit: str = ""


@dataclass(frozen=True)
class Study:
    """A downstream study that is to be made.

    Args:
        settings: of the study.
        train: real cases that may be trained on; the generator's own training cases, so that those of the test are new to all.
        synthetic: generated cases.
        told: patients whose own label maps, or whose covariate, the generator was told.
        jobs: trainings at once, each in a process of its own.
    """

    settings: Downstream
    train: Cohort
    synthetic: Cohort
    told: int
    jobs: int = 1

    @classmethod
    def of(cls, settings: Downstream, real: Cohort, synthetic: Cohort, jobs: int = 1) -> "Study":
        """A study on the split "train" of a cohort; for segmentation without cases whose label maps are predicted or missing."""
        train, name = real.split("train"), settings.covariate
        known = train.where(lambda case: case.covariates.get(name) is not None) if name else own_labels(train)
        return cls(settings, known, synthetic, len(known.people), jobs)

    def run(self, test: Images, root: Path, progress: Callable[[Iterable, str], Iterable]) -> Trained:
        """Train and judge all arms; those that are finished in the folder are read from there.

        Args:
            test: held-out real cases.
            root: folder of the arms.
            progress: takes arms and a title, and gives the arms one after the other.
        """
        from medldm.training.downstream import Covariate, Segmentation, run_arm

        task = (Covariate if self.settings.covariate else Segmentation)(self.settings, self.train, self.synthetic)
        arms = self.settings.arms(len(self.train.people))
        name = self.settings.covariate
        measure, unit = ("error", self.train.covariates.get(name, "")) if name else ("dice", "")
        result = Trained(test, {}, Images(self.synthetic).take(len(test)), {}, measure, unit)
        most = max(arm.size for arm in arms)
        asked = [{"generated": result.generated} if arm.name == "real" and arm.size == most else {} for arm in arms]
        work = [partial(run_arm, task, arm, {"held_out": test, **more}, root / str(arm)) for arm, more in zip(arms, asked, strict=True)]
        values = spread(_call, work, self.jobs)
        for arm in progress(arms, "downstream trainings"):
            found = next(values)
            result.found[arm] = found["held_out"]
            if "generated" in found:
                result.agreement[arm] = found["generated"]
        return result


def _call(work: Callable[[], dict[str, list[Values]]]) -> dict[str, list[Values]]:
    return work()


def study_scores(trained: Trained, told: int, seed: int = 0) -> list[Score]:
    """Means over patients of every arm, and paired differences, after a mean over the seeds for each case.

    `downstream_dice_real_n10`, `..._both_n10`, `..._synthetic` (for a covariate `downstream_error_...`), `downstream_gain_n10` (both minus real
    for Dice, real minus both for an error, so that a gain is positive) and `downstream_synthetic_over_real`, the ratio of the means of
    the synthetic arm and of the real one of most patients. `downstream_agreement_dice` (`..._error`) is what the real networks of
    most patients get on generated cases: how well images and their label maps or covariates agree. Intervals are over the patients of the
    test, or over generated cases, not over trainings.

    Args:
        trained: what the networks found.
        told: patients whose label maps, or covariate, the generator was told: an arm of fewer is said to be unfair.
        seed: of the bootstrap.
    """
    measure = trained.measure
    arms = _over_seeds(trained.found, measure)
    seeds = len({arm.seed for arm in trained.found})

    what = "label maps" if measure == "dice" else "the covariate"

    def score(name: str, rows: np.ndarray, size: int = 0, statistic: Statistic = np.mean, images: Images = trained.test) -> Score:
        unit = "" if statistic is _ratio_of_means else trained.unit
        unfair = f"; unfair: the generator was told {what} of {told} patients" if 0 < size < told else ""
        known = np.isfinite(rows.reshape(len(rows), -1)).all(1)
        patients = [patient for patient, used in zip(images.patients, known, strict=True) if used]
        if not patients:
            return not_computable(f"downstream_{name}", images, "no case has what the task asks for")
        found = summarise(f"downstream_{name}", rows[known], patients, unit, statistic, seed)
        if not np.isfinite(found.value):
            return not_computable(f"downstream_{name}", images, "the network of real cases scores 0")
        return found.computed(f"mean of {seeds} training{'s' * (seeds > 1)}{unfair}")

    scores = [
        score("_".join(filter(None, (measure, name, f"n{size}" * bool(size)))), values, size if name == "both" else 0)
        for (name, size), values in arms.items()
    ]
    sign = 1 if measure == "dice" else -1
    sizes = sorted({size for name, size in arms if name == "both"})
    scores += [score(f"gain_n{size}", sign * (arms["both", size] - arms["real", size]), size) for size in sizes]
    if ("synthetic", 0) in arms and sizes:
        pair = np.stack([arms["synthetic", 0], arms["real", sizes[-1]]], axis=1)
        scores.append(score("synthetic_over_real", pair, sizes[-1], _ratio_of_means))
    return scores + [score(f"agreement_{measure}", rows, images=trained.generated) for rows in _over_seeds(trained.agreement, measure).values()]


def _ratio_of_means(rows: np.ndarray) -> float:
    """Mean of the first column of [n, 2] over that of the second; nan where that is 0."""
    first, second = rows.mean(0)
    return float(first / second) if second else float("nan")


def study_figure(scores: Sequence[Score]) -> Figure:
    """Arms against the number of real patients."""
    arms = [score for score in scores if score.name.startswith(("downstream_dice", "downstream_error"))]
    measure = arms[0].name.split("_")[1]
    lines: dict[str, list[tuple[int, Score]]] = {}
    for score in arms:
        name, _, size = score.name.split("_", 2)[2].partition("_n")
        lines.setdefault(name, []).append((int(size or 0), score))
    unit = f" in {arms[0].unit}" if arms[0].unit else ""
    title = {"dice": "Dice on held-out patients", "error": f"Error on held-out patients{unit}"}[measure]
    caption = f"{title}; bars are 95 % intervals over {arms[0].n} patients. The dashed line is the arm of synthetic cases alone."
    if unfair := next((score.on.split("; ")[1] for score in arms if "unfair" in score.on), ""):
        caption += f" Arms with fewer patients are {unfair}."
    return Figure("Downstream", plot_arms(lines, title), caption)


def write_study(path: Path, trained: Trained) -> None:
    """One row per arm and judged case: `arm,size,seed,part,case,patient` and all values; `part` is "held_out" or "generated"."""
    parts = [("held_out", trained.test, trained.found), ("generated", trained.generated, trained.agreement)]
    names = list(dict.fromkeys(name for _, _, found in parts for rows in found.values() for row in rows for name in row))
    table: list[tuple[object, ...]] = [("arm", "size", "seed", "part", "case", "patient", *names)]
    for part, images, found in parts:
        for arm, rows in found.items():
            cases = zip(images.cases, rows, strict=True)
            table += [(arm.name, arm.size, arm.seed, part, case.case, case.patient, *map(row.get, names)) for case, row in cases]
    write_csv(path, table)


def _over_seeds(found: Found, measure: str) -> dict[tuple[str, int], np.ndarray]:
    """Arm without its seed -> mean over seeds per case, nan where a case has no value."""
    gathered: dict[tuple[str, int], list[list[float]]] = {}
    for arm, rows in found.items():
        gathered.setdefault((arm.name, arm.size), []).append([row.get(measure, np.nan) for row in rows])
    return {arm: np.mean(values, axis=0) for arm, values in sorted(gathered.items())}
