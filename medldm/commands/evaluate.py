"""`medldm evaluate`: how good an autoencoder's reconstructions, a generated cohort, or both are, with a report to open."""

import math
from collections.abc import Sequence
from pathlib import Path

from medldm.commands.opening import Wanted
from medldm.commands.progress import shown
from medldm.commands.within import hold_to
from medldm.metrics.base import Score
from medldm.models.features import features_digest
from medldm.report.evaluation import Evaluation
from medldm.report.reconstruction import Judged
from medldm.report.tables import sources
from medldm.run import Run
from medldm.tracking import tracked
from medldm.training.study import Downstream

OUTPUTS = ("metrics.csv", "cases.csv", "report.html")


def evaluate(
    out: Path,
    reference: Path,
    generated: Path | None = None,
    autoencoder: Path | None = None,
    split: str = "test",
    independent: bool = False,
    features: list[Path] | Path | None = None,
    downstream: Downstream | None = None,
    privacy: bool = False,
    diffusion: Path | None = None,
    series: bool = False,
    inside: tuple[str, ...] = (),
    lesions: tuple[str, ...] = (),
    memory: str | None = None,
    offload: bool = False,
    jobs: int = 1,
    seed: int = 0,
) -> Path:
    """Evaluate an autoencoder on held-out cases, a generated cohort against real cases, or both at once.

    Writes `metrics.csv` (every figure with its 95 % interval over patients), `cases.csv` (values per case) and `report.html`.

    Args:
        out: folder to write.
        reference: cohort of real cases.
        generated: synthetic cohort whose covariates are what was requested; without it only reconstruction is judged.
        autoencoder: run of an autoencoder; without it only synthesis is judged.
        split: part of the reference to compare with: train, val or test.
        independent: the reference is another cohort than the models were trained on, and shares no patient with it.
        features: networks to measure distances in, beside haar_v1 and radiomics_v1: runs of `train-features`, or local files of MedicalNet
            or RadImageNet.
        downstream: train a network on real, synthetic and both kinds of cases, and test it on the held-out patients; not by default.
        privacy: search for copies of training cases as `release` does, and say what the cohort gives away (`privacy.json`); about 1.5 s a case.
        diffusion: with --privacy, the run that made the cases: attacks tell whether it gives away who it was trained on; about 1 s a patient.
        inside: structures inside of which reconstructed images are compared; by default all voxels are.
        lesions: structures whose pieces are counted one by one, as lesions found and made up.
        series: the contrasts of an image are its time points; judge how they change.
        memory: what the autoencoder may take beside the weights, such as 8GB; volumes are then computed by slabs, with the same result.
        offload: keep activations in the memory of the host, for volumes that are too large for a GPU.
        jobs: trainings of --downstream at once, each in a process with one thread; on processors that is faster than threads are.
        seed: of the bootstrap and of random parts and pairs.

    Returns:
        The path of the report.

    Raises:
        UserError: nothing to evaluate, an empty split, cohorts that cannot be compared, or a run that holds no autoencoder.
    """
    networks = [features] if isinstance(features, Path) else features or []
    arguments = {name: value for name, value in locals().items() if name not in ("out", "memory", "offload", "jobs", "networks")}
    out = Path(out)
    bounded, judged = offload or memory is not None, Judged(inside, lesions)
    wanted = Wanted(
        reference, generated, autoencoder, split, independent, networks, downstream, series, judged, bounded, seed, jobs, privacy, diffusion
    )
    found = wanted.open(shown)
    _hold_to(found, memory, offload)
    reads = sources(found.folders) | {f"features {number}": features_digest(path) for number, path in enumerate(networks, 1)}
    return _carry_out(found, Run.claim(out, "evaluate", arguments, reads), reads)


def _carry_out(found: Evaluation, run: Run, reads: dict[str, str]) -> Path:
    """Measure, write and show everything; the path of the report."""
    report = run.root / "report.html"
    if run.finished:
        print(f"{report} exists; the evaluation was done before.")
        return report
    with tracked(run, reads) as tracker:
        scores = found.measure(run.root, shown)
        tracker.metrics({score.name: score.value for score in scores})
        tracker.artifact(run.root / "metrics.csv")  # the other files name or show cases, who stay out of the tracking store
        run.finish(reads, list(OUTPUTS))
    _print(scores)
    print(f"Report: {report}")
    return report


def _hold_to(found: Evaluation, memory: str | None, offload: bool) -> None:
    """Let the autoencoder work within a given memory."""
    if found.model:
        factor = found.model.factor
        cells = [tuple(-(-n // factor) for n in case.shape) for case in found.held_out.cases]
        hold_to(found.model, memory, offload, decodes=cells, encodes=[tuple(n * factor for n in size) for size in cells])


def _print(scores: Sequence[Score]) -> None:
    width = max(len(score.name) for score in scores)
    for score in scores:
        if math.isnan(score.value):
            print(f"{score.name:{width}}  {score.on}")
        else:
            print(f"{score.name:{width}}  {score.value:10.4f}  [{score.low:.4f}, {score.high:.4f}]  n={score.n} {score.unit}")
