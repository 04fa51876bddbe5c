"""`medldm evaluate`: how good an autoencoder's reconstructions, a generated cohort, or both are, with a report to open."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from medldm.cohort import Cohort
from medldm.commands.within import device, hold_to
from medldm.errors import UserError
from medldm.files import read_json
from medldm.metrics.base import Images, Score
from medldm.metrics.features import Features, Haar
from medldm.metrics.radiomics import Radiomics
from medldm.models.autoencoder import Autoencoder
from medldm.models.features import features_digest, load_features
from medldm.report.downstream import Study
from medldm.report.evaluation import Evaluation
from medldm.report.network_features import NetworkFeatures
from medldm.report.reconstruction import Judged, check_fit
from medldm.report.synthesis import Synthesis
from medldm.report.tables import sources
from medldm.run import Run, load_model
from medldm.tracking import tracked
from medldm.training.study import Downstream, comparable

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
    series: bool = False,
    inside: tuple[str, ...] = (),
    lesions: tuple[str, ...] = (),
    memory: str | None = None,
    offload: bool = False,
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
        inside: structures inside of which reconstructed images are compared; by default all voxels are.
        lesions: structures whose pieces are counted one by one, as lesions found and made up.
        series: the contrasts of an image are its time points; judge how they change.
        memory: what the autoencoder may take beside the weights, such as 8GB; volumes are then computed by slabs, with the same result.
        offload: keep activations in the memory of the host, for volumes that are too large for a GPU.
        seed: of the bootstrap and of random parts and pairs.

    Returns:
        The path of the report.

    Raises:
        UserError: nothing to evaluate, an empty split, cohorts that cannot be compared, or a run that holds no autoencoder.
    """
    networks = [features] if isinstance(features, Path) else features or []
    arguments = {name: value for name, value in locals().items() if name not in ("out", "memory", "offload", "networks")}
    out = Path(out)
    found = _open(reference, generated, autoencoder, split, independent, networks, downstream, series, Judged(inside, lesions), seed)
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
        scores = found.measure(run.root, _progress)
        tracker.metrics({score.name: score.value for score in scores})
        for name in ("metrics.csv", "overview.png"):  # the other files name cases, which stay out of the tracking store
            tracker.artifact(run.root / name)
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


def _open(
    reference: Path,
    generated: Path | None,
    autoencoder: Path | None,
    split: str,
    independent: bool,
    networks: list[Path],
    downstream: Downstream | None,
    series: bool,
    judged: Judged,
    seed: int,
) -> Evaluation:
    """Open everything, and refuse early what cannot be compared."""
    if generated is None and autoencoder is None:
        raise UserError("There is nothing to evaluate.", "Give --generated COHORT, --autoencoder RUN, or both.")
    real = Cohort.load(reference)
    if real.unit == "latent":
        raise UserError(f"{reference} holds latents, not images.", "Give the cohort of images that they were made from.")
    held_out, training = Images(real.split(split)), Images(real.split("train"))
    if not len(held_out):
        raise UserError(f"{reference} has no usable case in the split {split!r}.", "Give another --split, or prepare the cohort with one.")
    judged.check(held_out)
    model = _autoencoder(autoencoder, held_out) if autoencoder else None
    synthetic = comparable(Cohort.load(generated), real) if generated else None
    if not independent:
        _refuse_strangers(real, synthetic, autoencoder)
    synthesis = None
    if synthetic:
        unseen = split != "train" and len(training) > 0
        synthesis = Synthesis(Images(synthetic), held_out, training if unseen else None, seed, _features(networks, synthetic, held_out), series)
    study = _study(downstream, real, synthetic, split, independent) if downstream else None
    named = {"reference": reference, "generated": generated, "autoencoder": autoencoder}
    return Evaluation({role: Path(folder) for role, folder in named.items() if folder}, split, seed, held_out, model, synthesis, study, judged)


def _study(settings: Downstream, real: Cohort, synthetic: Cohort | None, split: str, independent: bool) -> Study:
    """What a downstream study is made of.

    Raises:
        UserError: there is nothing to compare, patients of the test may have been trained on, or label maps are missing.
    """
    if synthetic is None:
        raise UserError("--downstream compares generated with real cases; there are none.", "Give --generated COHORT.")
    if independent or split == "train":
        raise UserError(
            "Patients of the test may have been trained on: --downstream needs the cohort of the generator, and a split that it did not see.",
            "Leave --independent away, and test on the split test or val.",
        )
    made = synthetic.where(lambda case: case.status == "ok")
    if not settings.covariate and not (real.labels and all(case.label for cohort in (made, real.split(split)) for case in cohort)):
        raise UserError("--downstream segments labels, and some cases have no label map.", "Set downstream.covariate, or generate with labels.")
    study = Study.of(settings, real, made)
    settings.arms(len(study.train.people))
    return study


def _features(networks: list[Path], synthetic: Cohort, held_out: Images) -> list[Features]:
    """What distances are measured in."""
    labelled = held_out.labelled and all(case.label for case in synthetic if case.status == "ok")
    found: list[Features] = [Haar(), Radiomics()] if labelled else [Haar()]
    found += [NetworkFeatures(load_features(path).to(device()), _progress) for path in networks]
    if twice := next((f.name for i, f in enumerate(found) if f.name in {g.name for g in found[:i]}), None):
        raise UserError(f"features: {twice!r} is given twice.", "Give each network once; of several `train-features` runs, one.")
    return found


def _refuse_strangers(real: Cohort, synthetic: Cohort | None, autoencoder: Path | None) -> None:
    """Refuse what goes back to another cohort: patients held out here may have been trained on there."""
    origins = {}
    if autoencoder:
        origins[autoencoder] = read_json(autoencoder / "provenance.json").get("reads", {}).get("cohort")
    if synthetic:
        origins[synthetic.root] = synthetic.parents.get("cohort")
    for folder, origin in origins.items():
        if origin != real.fingerprint():
            found = f"{folder} goes back to another cohort ({str(origin)[:12]}) than {real.root} ({real.fingerprint()[:12]})"
            fix = "Give the cohort that it was trained on, or --independent true if they share no patient."
            raise UserError(f"{found}; it may have seen these patients.", fix)


def _autoencoder(root: Path, images: Images) -> Autoencoder:
    model = load_model(root)
    if not isinstance(model, Autoencoder):
        raise UserError(f"{root} holds a {type(model).__name__}, not an autoencoder.", "Give a folder of `medldm train-autoencoder`.")
    check_fit(model, images)
    return model.to(device())


def _progress(steps: Iterable, title: str) -> Iterable:
    return track(steps, title, console=Console(stderr=True), transient=True)


def _print(scores: Sequence[Score]) -> None:
    width = max(len(score.name) for score in scores)
    for score in scores:
        print(f"{score.name:{width}}  {score.value:10.4f}  [{score.low:.4f}, {score.high:.4f}]  n={score.n} {score.unit}")
