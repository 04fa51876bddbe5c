"""The budget of a differentially private training: how much noise it asks for, and what is spent after some steps."""

import warnings
from dataclasses import asdict, dataclass

from medldm.errors import UserError
from medldm.optional import require

ACCOUNTANT = "rdp"  # PRV would do with 7 to 9 % less noise, but is no strict bound: it integrates numerically
EFFORT = 0.01  # how far below its target epsilon may stay, relative to it
COVERS = (
    "the weights of the denoiser, for each patient of the split train with all cases; not the autoencoder, nor what else is computed from the "
    "patients (grid and statistics of the latents, grain, population and statistics of the conditions), nor their number, the patients of the "
    "split val, or other trainings on the same patients: a guarantee for the whole model needs an autoencoder and statistics of public data"
)


@dataclass(frozen=True)
class Privacy:
    """Differentially private training (DP-SGD, Abadi et al. 2016): the weights hardly tell whether a patient was there.

    For any set S of weights, with D' being D without one patient: P(S | D) <= exp(epsilon) P(S | D') + delta, and the same with D and D'
    exchanged. Such a training is not reproducible: who knew its noise could subtract it.

    Args:
        epsilon: what the whole training may spend; about 1 is strict, 10 loose.
        delta: share of failures, in (0, 1 / patients); by default 1 / (10 patients).
        clip: largest norm of what one patient adds to a gradient.
    """

    epsilon: float
    delta: float | None = None
    clip: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.epsilon < float("inf") and 0 < self.clip < float("inf")):
            raise UserError("privacy.epsilon and privacy.clip must be positive numbers.")


@dataclass(frozen=True)
class Budget:
    """A plan of noise: each step adds N(0, (noise_multiplier clip)^2) to a sum over patients that were drawn with probability sample_rate.

    Args:
        epsilon: spent after all steps, at most what was asked for.
        delta: see `Privacy`.
        noise_multiplier: standard deviation of the noise, relative to `clip`.
        clip: see `Privacy`.
        sample_rate: share of the patients in a step, on average, in (0, 1].
        steps: of the whole training.
    """

    epsilon: float
    delta: float
    noise_multiplier: float
    clip: float
    sample_rate: float
    steps: int

    @classmethod
    def plan(cls, privacy: Privacy, patients: int, batch: int, steps: int) -> "Budget":
        """The least noise that keeps to the budget.

        Args:
            privacy: the budget.
            patients: of the split train.
            batch: patients per step, on average.
            steps: of the whole training.

        Raises:
            UserError: opacus is not installed, a batch is more than all patients, delta is too large, or no noise would be enough.
        """
        delta = 1 / (10 * patients) if privacy.delta is None else privacy.delta
        if batch > patients:
            raise UserError(f"training.batch={batch}: there are {patients} patients, and a private step draws each at most once.", "Lower it.")
        if not 0 < delta < 1 / patients:
            raise UserError(
                f"privacy.delta={delta:g} must lie between 0 and 1 / patients = {1 / patients:.3g}: a larger one allows to tell all of one."
            )
        search = require("opacus", "dp").accountants.utils.get_noise_multiplier
        try:
            with warnings.catch_warnings(action="ignore"):  # of a bound that is loose
                noise = search(
                    target_epsilon=privacy.epsilon,
                    target_delta=delta,
                    sample_rate=batch / patients,
                    steps=steps,
                    accountant=ACCOUNTANT,
                    epsilon_tolerance=EFFORT * privacy.epsilon,
                )
        except ValueError as error:
            raise UserError(f"privacy.epsilon={privacy.epsilon:g} cannot be reached at delta={delta:g}, whatever the noise.", "Raise it.") from error
        budget = cls(privacy.epsilon, delta, noise, privacy.clip, batch / patients, steps)
        return cls(**{**asdict(budget), "epsilon": budget.spent(steps)})

    def spent(self, steps: int) -> float:
        """Epsilon after so many steps, by Renyi divergences of the sampled Gaussian mechanism (Mironov et al. 2019)."""
        if not steps:
            return 0.0
        accountant = require("opacus", "dp").accountants.create_accountant(ACCOUNTANT)
        accountant.history = [(self.noise_multiplier, self.sample_rate, steps)]
        with warnings.catch_warnings(action="ignore"):
            return float(accountant.get_epsilon(delta=self.delta))

    def record(self) -> dict[str, float | int | str]:
        """What a finished run, and whatever is made with it, says of its privacy."""
        return {**asdict(self), "unit": "patient", "accountant": f"opacus {ACCOUNTANT}", "covers": COVERS}
