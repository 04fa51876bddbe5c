"""The inception score with a classifier of the cohort itself: are generated cases clear members of all its classes?"""

from dataclasses import dataclass, field

import numpy as np

from medldm.metrics.base import Images, Metric, Score, not_computable
from medldm.metrics.bootstrap import summarise
from medldm.metrics.conditions import fewest_of_a_class
from medldm.metrics.features import Features, Haar

FEWEST = 5  # real patients of each class, and generated cases
FOLDS = 5


@dataclass(frozen=True)
class ClassifierScore(Metric):
    """exp(mean KL(p(class | image) | p(class))) of a linear classifier on named features (Salimans et al. 2016, with the cohort's own classes).

    `classifier_score_<covariate>_<features>`, between 1 (all cases look the same to the classifier) and the number of classes, and
    `..._real`, the same of real cases by classifiers that did not see them, for each covariate that is a category.

    Args:
        features: describe the images.
        seed: of the bootstrap over patients.
    """

    features: Features = field(default_factory=Haar)
    seed: int = 0

    def __call__(self, generated: Images, reference: Images) -> list[Score]:
        """Scores; `reference` holds the real cases that the classifier learns from."""
        scores = []
        for name in sorted(reference.cohort.covariates):
            known = [i for i, case in enumerate(reference.cases) if isinstance(case.covariates.get(name), str)]
            classes, patients = [str(reference.cases[i].covariates[name]) for i in known], [reference.patients[i] for i in known]
            if not known:
                continue  # a number, or unknown everywhere
            if len(set(classes)) < 2 or fewest_of_a_class(classes, patients) < FEWEST or len(generated) < FEWEST:
                reason = f"two classes of {FEWEST} real patients and {FEWEST} generated cases are needed"
                scores.append(not_computable(f"classifier_score_{name}_{self.features.name}", generated, reason))
            else:
                scores += self._scores(name, generated, reference, known, classes, patients)
        return scores

    def _scores(self, name: str, generated: Images, reference: Images, known: list[int], classes: list[str], patients: list[str]) -> list[Score]:
        from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

        x = self.features.cases(reference)[known]
        made = _classifier().fit(x, classes).predict_proba(self.features.cases(generated))
        real = cross_val_predict(_classifier(), x, classes, groups=patients, cv=StratifiedGroupKFold(FOLDS), method="predict_proba")
        title = f"classifier_score_{name}_{self.features.name}"
        return [
            summarise(end, rows, owners, statistic=inception_score, seed=self.seed).computed(str(self.features))
            for end, rows, owners in ((title, made, generated.patients), (f"{title}_real", real, patients))
        ]


def inception_score(p: np.ndarray) -> float:
    """exp(mean_i sum_c p_ic log(p_ic / mean_j p_jc)) of class probabilities [n, classes]."""
    marginal = p.mean(0, keepdims=True)
    ratio = np.divide(p, marginal, out=np.ones_like(p), where=p > 0)
    return float(np.exp((p * np.log(ratio)).sum(1).mean()))


def _classifier():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
