"""`medldm evaluate`: how good an autoencoder's reconstructions, a generated cohort, or both are, with a report to open."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from medldm.cohort import Cohort
from medldm.commands.within import device, hold_to
from medldm.errors import UserError
from medldm.files import atomic, read_json, read_yaml, write_text
from medldm.metrics.base import Images, Score, write_scores
from medldm.metrics.features import Features, Haar
from medldm.metrics.radiomics import Radiomics
from medldm.models.autoencoder import Autoencoder
from medldm.models.features import features_digest, load_features
from medldm.report.html import Figure, Item, Section, Text, write_report
from medldm.report.mosaic import mosaic
from medldm.report.network_features import NetworkFeatures
from medldm.report.plots import plot_curves, read_history
from medldm.report.reconstruction import (
    Values,
    case_values,
    check_fit,
    legend,
    reconstructed_picture,
    reconstruction_figures,
    reconstruction_scores,
    stored_picture,
)
from medldm.report.synthesis import Synthesis
from medldm.report.tables import lineage_table, score_table, sources
from medldm.run import Run, load_model
from medldm.tracking import tracked

OUTPUTS = ("metrics.csv", "cases.csv", "report.html")
LIMITS = (
    "Intervals are 95 % bootstrap intervals over patients. They say how far other patients would move a figure, not how far another training would.",
    "haar_v1 describes texture and contrast with wavelet statistics; it knows no anatomy. A small distance is necessary for realism, not sufficient.",
    "The search for copies compares whole images at one position. It finds plain copies; it is no proof of privacy.",
    "Condition fidelity trusts the generated label map. Whether image and label map agree has to be seen in the pictures.",
)


def evaluate(
    out: Path,
    reference: Path,
    generated: Path | None = None,
    autoencoder: Path | None = None,
    split: str = "test",
    independent: bool = False,
    features: list[Path] | None = None,
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
        memory: what the autoencoder may take beside the weights, such as 8GB; volumes are then computed by slabs, with the same result.
        offload: keep activations in the memory of the host, for volumes that are too large for a GPU.
        seed: of the bootstrap and of random parts and pairs.

    Returns:
        The path of the report.

    Raises:
        UserError: nothing to evaluate, an empty split, cohorts that cannot be compared, or a run that holds no autoencoder.
    """
    out = Path(out)
    inputs = _open(reference, generated, autoencoder, split, independent, features or [], seed)
    if inputs.model:
        factor = inputs.model.factor
        cells = [tuple(-(-n // factor) for n in case.shape) for case in inputs.held_out.cases]
        hold_to(inputs.model, memory, offload, decodes=cells, encodes=[tuple(n * factor for n in size) for size in cells])
    reads = sources(inputs.folders) | {f"features {number}": features_digest(path) for number, path in enumerate(features or [], 1)}
    arguments: dict[str, Any] = dict(reference=reference, generated=generated, autoencoder=autoencoder)
    arguments |= dict(split=split, independent=independent, seed=seed)
    arguments |= {"features": features} if features else {}
    run = Run.claim(out, "evaluate", arguments, reads)
    report = out / "report.html"
    if run.finished:
        print(f"{report} exists; the evaluation was done before.")
        return report
    with tracked(run, reads) as tracker:
        scores = _measure(inputs, out)
        tracker.metrics({score.name: score.value for score in scores})
        for name in ("metrics.csv", "overview.png"):  # the other files name cases, which stay out of the tracking store
            tracker.artifact(out / name)
        run.finish(reads, list(OUTPUTS))
    _print(scores)
    print(f"Report: {report}")
    return report


@dataclass(frozen=True)
class _Inputs:
    """What is evaluated: `model` on `held_out`, `synthesis` beside it, or both; `folders` by role."""

    folders: dict[str, Path]
    split: str
    seed: int
    held_out: Images
    model: Autoencoder | None
    synthesis: Synthesis | None


def _open(
    reference: Path, generated: Path | None, autoencoder: Path | None, split: str, independent: bool, networks: list[Path], seed: int
) -> _Inputs:
    """Open everything, and refuse early what cannot be compared."""
    if generated is None and autoencoder is None:
        raise UserError("There is nothing to evaluate.", "Give --generated COHORT, --autoencoder RUN, or both.")
    real = Cohort.load(reference)
    if real.unit == "latent":
        raise UserError(f"{reference} holds latents, not images.", "Give the cohort of images that they were made from.")
    held_out, training = Images(real.split(split)), Images(real.split("train"))
    if not len(held_out):
        raise UserError(f"{reference} has no usable case in the split {split!r}.", "Give another --split, or prepare the cohort with one.")
    model = _autoencoder(autoencoder, held_out) if autoencoder else None
    synthetic = _comparable(Cohort.load(generated), real) if generated else None
    if not independent:
        _refuse_strangers(real, synthetic, autoencoder)
    synthesis = None
    if synthetic:
        unseen = split != "train" and len(training) > 0
        synthesis = Synthesis(Images(synthetic), held_out, training if unseen else None, seed, _features(networks, synthetic, held_out))
    named = {"reference": reference, "generated": generated, "autoencoder": autoencoder}
    return _Inputs({role: Path(folder) for role, folder in named.items() if folder}, split, seed, held_out, model, synthesis)


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


def _measure(inputs: _Inputs, out: Path) -> list[Score]:
    """Compute all scores and write the three files."""
    model, held_out, synthesis = inputs.model, inputs.held_out, inputs.synthesis
    rows = [case_values(model, held_out, i) for i in _progress(range(len(held_out)), "reconstructing")] if model else []
    scores = reconstruction_scores(rows, held_out.patients, inputs.seed)
    scores += list(_progress(synthesis.scores(), "comparing cohorts")) if synthesis else []
    made, real = synthesis.values() if synthesis else ([], [])
    write_scores(out / "metrics.csv", scores, f"split {inputs.split} of cohort {held_out.cohort.fingerprint()[:12]}")
    generated = synthesis.generated if synthesis else held_out
    _write_cases(out / "cases.csv", (("reconstruction", held_out, rows), ("generated", generated, made), ("real", held_out, real)))
    overview = _overview(inputs)
    with atomic(out / "overview.png") as temporary:
        temporary.write_bytes(overview.png)
    sections = [
        Section("At a glance", [overview]),
        Section("Synthesis", synthesis.figures(made) if synthesis else []),
        Section("Reconstruction", [reconstruction_figures(model, held_out, rows)] if model else []),
        Section("Figures and their intervals", [score_table("", scores)]),
        Section("Training", _curves(inputs.folders)),
        Section("Limits", [Text(LIMITS)]),
        Section("Provenance", [lineage_table(inputs.folders)]),
    ]
    write_report(out / "report.html", "Evaluation", _lead(inputs), sections)
    return scores


def _comparable(generated: Cohort, real: Cohort) -> Cohort:
    """The generated cohort, if its images mean the same as the real ones."""
    if not generated.synthetic:
        raise UserError(f"{generated.root} holds real images.", "Give a cohort made by `medldm generate` as --generated.")
    if not any(case.status == "ok" for case in generated):
        raise UserError(f"{generated.root} has no usable case.", "Generate some, or look at the column `reason` of its cohort.csv.")
    for what in ("unit", "labels"):
        ours, theirs = getattr(generated, what), getattr(real, what)
        if ours != theirs:
            raise UserError(
                f"{generated.root}/cohort.json and {real.root}/cohort.json differ in {what}: {ours!r} and {theirs!r}.",
                "Give the cohort that the generator was trained on as --reference.",
            )
    return generated


def _autoencoder(root: Path, images: Images) -> Autoencoder:
    model = load_model(root)
    if not isinstance(model, Autoencoder):
        raise UserError(f"{root} holds a {type(model).__name__}, not an autoencoder.", "Give a folder of `medldm train-autoencoder`.")
    check_fit(model, images)
    return model.to(device())


def _progress(steps: Iterable, title: str) -> Iterable:
    return track(steps, title, console=Console(stderr=True), transient=True)


def _overview(inputs: _Inputs) -> Figure:
    """Rows real, reconstructed and generated, of the first cases."""
    shown = range(min(3, len(inputs.held_out)))
    rows = {"real": [stored_picture(inputs.held_out, i) for i in shown]}
    if inputs.model:
        rows["reconstructed (the same cases)"] = [reconstructed_picture(inputs.model, inputs.held_out, i) for i in shown]
    if inputs.synthesis:
        generated = inputs.synthesis.generated
        rows["generated"] = [stored_picture(generated, i) for i in range(min(3, len(generated)))]
    caption = "The first cases of each cohort, not selected: axial, coronal and sagittal slice, all at one scale, patient's right on the left."
    return Figure("", mosaic(list(rows.values()), list(rows)), caption, legend(inputs.held_out))


def _curves(folders: dict[str, Path]) -> list[Item]:
    """Curves of the trainings behind the given folders, among them the run that a generated cohort came from."""
    runs = {role: folder for role, folder in folders.items() if role != "reference"}
    config = folders["generated"] / "config.yaml" if "generated" in folders else None
    if config and config.is_file() and isinstance(source := read_yaml(config).get("run"), str):
        runs["diffusion"] = Path(source)
    curves = {role: read_history(folder / "history.csv") for role, folder in runs.items() if (folder / "history.csv").is_file()}
    caption = "Logarithmic where a curve spans a factor of eight."
    return [Figure(role.capitalize(), plot_curves(found), caption) for role, found in curves.items() if found]


def _lead(inputs: _Inputs) -> str:
    """What was compared with what."""
    folders, held_out = inputs.folders, inputs.held_out
    real = f"{len(held_out)} real cases of {len(set(held_out.patients))} patients (split {inputs.split!r} of {folders['reference'].name})"
    text = f"{len(inputs.synthesis.generated)} generated cases beside {real}." if inputs.synthesis else f"Measured on {real}."
    return text + (f" The same real cases, reconstructed by the autoencoder in {folders['autoencoder'].name}." if inputs.model else "")


def _write_cases(path: Path, parts: Sequence[tuple[str, Images, Sequence[Values]]]) -> None:
    """One row per case and part; a cell is empty where a value does not apply."""
    names = list(dict.fromkeys(name for _, _, rows in parts for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["part", "case", "patient", *names])
    for part, images, rows in parts:
        for case, row in zip(images.cases if rows else (), rows, strict=True):
            writer.writerow([part, case.case, case.patient, *(repr(row[name]) if name in row else "" for name in names)])
    write_text(path, text.getvalue())


def _print(scores: Sequence[Score]) -> None:
    width = max(len(score.name) for score in scores)
    for score in scores:
        print(f"{score.name:{width}}  {score.value:10.4f}  [{score.low:.4f}, {score.high:.4f}]  n={score.n} {score.unit}")
