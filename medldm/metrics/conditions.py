"""Condition fidelity: does a generated case show what was asked for?

The covariates of a generated cohort are what was requested. Volumes are measured in the generated label maps. Any other
covariate is read off the label volumes by a linear model fitted on real cases, whose own cross-validated score stands beside.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from medldm.errors import UserError
from medldm.metrics.base import Images, Metric, Score, not_computable
from medldm.metrics.bootstrap import summarise
from medldm.metrics.segmentation import cohort_volumes

FEWEST = 5  # generated cases: the correlation of two is 1 or -1 whatever they are
CUBIC_MM = {"": 1.0, "mm3": 1.0, "mm^3": 1.0, "ml": 1000.0, "cm3": 1000.0, "cm^3": 1000.0}
FOLDS = 5


@dataclass(frozen=True)
class Pair:
    """What was requested and what was measured, case by case.

    Args:
        name: of the covariate, such as "volume_total".
        unit: of both.
        requested: values [n].
        measured: values [n].
        cases: positions of the n cases in the cohort.
    """

    name: str
    unit: str
    requested: np.ndarray
    measured: np.ndarray
    cases: np.ndarray


def volume_pairs(generated: Images) -> list[Pair]:
    """Requested and measured volume per structure that was requested, and of all together where all were.

    Raises:
        UserError: a `volume_*` covariate has a unit that is no volume.
    """
    if not generated.labelled:
        return []
    measured, columns, names = cohort_volumes(generated), {}, generated.cohort.labels
    for index, value in enumerate(sorted(names)):
        name = f"volume_{names[value]}"
        if name in generated.cohort.covariates:
            columns[name] = (_numbers(generated, name) * _cubic_mm(generated, name), measured[:, index])
    if len(columns) == len(names) > 1:
        columns["volume_total"] = tuple(np.sum(side, axis=0) for side in zip(*columns.values(), strict=True))
    pairs = []
    for name, (asked, found) in columns.items():
        known = np.flatnonzero(np.isfinite(asked))
        if len(known) > 1 and np.ptp(asked[known]) > 0:
            pairs.append(Pair(name, "mm3", asked[known], found[known], known))
    return pairs


def correlation(rows: np.ndarray) -> float:
    """Pearson correlation of the two columns of [n, 2]; nan where one is constant."""
    a, b = (rows - rows.mean(0)).T
    length = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / length) if length > 0 else float("nan")


def balanced_accuracy(rows: np.ndarray) -> float:
    """Mean recall of the classes; columns of [n, 2]: true class, predicted class."""
    return float(np.mean([np.mean(rows[rows[:, 0] == c, 1] == c) for c in np.unique(rows[:, 0])]))


@dataclass(frozen=True)
class ConditionFidelity(Metric):
    """Correlation, error and bias of every requested condition.

    `fidelity_r_<name>` (Pearson), `fidelity_error_<name>` (mean |measured - requested| / requested) and `fidelity_bias_<name>` (the same
    signed) for `volume_<label>` and `volume_total`; `fidelity_r_<name>` for other numbers and `fidelity_accuracy_<name>` (balanced) for
    categories, each with `..._real`, the cross-validated score of the same linear model on real cases.

    Args:
        seed: of the bootstrap over patients.
    """

    seed: int = 0

    def __call__(self, generated: Images, reference: Images) -> list[Score]:
        """Scores of the generated cohort; `reference` is what the linear models are fitted on."""
        scores = [score for pair in volume_pairs(generated) for score in self._volume_scores(pair, generated)]
        if generated.labelled and reference.labelled:
            for name in sorted(set(generated.cohort.covariates) & set(reference.cohort.covariates)):
                if not name.startswith("volume_"):
                    scores += self._learned(name, generated, reference)
        return scores

    def _volume_scores(self, pair: Pair, generated: Images) -> list[Score]:
        patients = [generated.patients[i] for i in pair.cases]
        scores = [_compared(f"fidelity_r_{pair.name}", generated, pair.requested, pair.measured, patients, correlation, self.seed)]
        positive = np.flatnonzero(pair.requested > 0)
        if len(positive):
            relative = 100 * (pair.measured[positive] / pair.requested[positive] - 1)
            owners = [patients[i] for i in positive]
            scores.append(summarise(f"fidelity_error_{pair.name}", np.abs(relative), owners, "%", seed=self.seed))
            scores.append(summarise(f"fidelity_bias_{pair.name}", relative, owners, "%", seed=self.seed))
        return scores

    def _learned(self, name: str, generated: Images, reference: Images) -> list[Score]:
        """Scores of a condition that is no volume, if it varies in both cohorts."""
        numeric = all(isinstance(c.covariates.get(name), float | None) for images in (generated, reference) for c in images.cases)
        fake, real = _column(generated, name, numeric), _column(reference, name, numeric)
        known_fake, known_real = (np.flatnonzero([v is not None for v in column]) for column in (fake, real))
        asked, truth = np.array([fake[i] for i in known_fake]), np.array([real[i] for i in known_real])
        owners_fake, owners_real = [generated.patients[i] for i in known_fake], [reference.patients[i] for i in known_real]
        model, statistic, title = (_ridge(), correlation, "r") if numeric else (_classifier(), balanced_accuracy, "accuracy")
        if reason := _unfit(asked, truth, owners_real, numeric):
            return [not_computable(f"fidelity_{title}_{name}", generated, reason)]
        if not numeric:
            classes = sorted({*asked, *truth})
            asked, truth = (np.array([classes.index(v) for v in column], dtype=np.float64) for column in (asked, truth))
        x_fake, x_real = cohort_volumes(generated)[known_fake], cohort_volumes(reference)[known_real]
        found, cross = model.fit(x_real, truth).predict(x_fake), _cross_validated(model, x_real, truth, owners_real)
        return [
            _compared(f"fidelity_{title}_{name}", generated, asked, found, owners_fake, statistic, self.seed),
            _compared(f"fidelity_{title}_{name}_real", reference, truth, cross, owners_real, statistic, self.seed),
        ]


def _unfit(asked: np.ndarray, truth: np.ndarray, patients: list[str], numeric: bool) -> str:
    """Why a covariate cannot be told from label maps, or ""."""
    if len(set(asked)) < 2:
        return "the same was asked for in every case"
    if len(set(patients)) < 2 * FOLDS:
        return f"{2 * FOLDS} real patients are needed to learn from, there are {len(set(patients))}"
    if len(set(truth)) < 2:
        return "it does not vary among the real cases"
    if not numeric and fewest_of_a_class(truth, patients) < FOLDS:
        return f"{FOLDS} real patients of each class are needed, one has {fewest_of_a_class(truth, patients)}"
    return ""


def fewest_of_a_class(classes: Sequence[str] | np.ndarray, patients: Sequence[str]) -> int:
    """Patients of the class that fewest have; classes and patients are given per case."""
    return min(Counter(name for name, _ in set(zip(map(str, classes), patients, strict=True))).values())


def _compared(
    name: str, images: Images, truth: np.ndarray, found: np.ndarray, patients: list[str], statistic: Callable[[np.ndarray], float], seed: int
) -> Score:
    if len(set(patients)) < FEWEST:
        return not_computable(name, images, f"at least {FEWEST} cases are needed, {len(set(patients))} is too few")
    score = summarise(name, np.stack([truth, found], axis=1), patients, "", statistic, seed)
    return score if np.isfinite(score.value) else not_computable(name, images, "what was measured does not vary")


def _cross_validated(model, x: np.ndarray, y: np.ndarray, patients: list[str]) -> np.ndarray:
    """Predictions for each case by a model that did not see its patient."""
    from sklearn.base import clone, is_classifier
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    found = np.empty(len(y))
    folds = StratifiedGroupKFold(FOLDS) if is_classifier(model) else GroupKFold(FOLDS)
    for fit, held_out in folds.split(x, y, patients):
        found[held_out] = clone(model).fit(x[fit], y[fit]).predict(x[held_out])
    return found


def _ridge():
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 3, 13)))


def _classifier():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))


def _column(images: Images, name: str, numeric: bool) -> list:
    """A covariate per case: numbers, or category names (a category may be written as a number)."""
    values = [case.covariates.get(name) for case in images.cases]
    return values if numeric else [None if v is None else str(v) for v in values]


def _numbers(images: Images, name: str) -> np.ndarray:
    """A covariate per case as numbers, nan where it is missing or a word."""
    values = [case.covariates.get(name) for case in images.cases]
    return np.array([v if isinstance(v, float) else np.nan for v in values], dtype=np.float64)


def _cubic_mm(images: Images, name: str) -> float:
    unit = images.cohort.covariates[name]
    if unit not in CUBIC_MM:
        raise UserError(f"{images.cohort.root}/cohort.json: the covariate {name!r} has the unit {unit!r}, which is no volume.", "Use mm3 or ml.")
    return CUBIC_MM[unit]
