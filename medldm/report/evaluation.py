"""The evaluation of an autoencoder, of a generated cohort, or of both: all scores, and the page that shows them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medldm.files import atomic, read_yaml, write_csv, write_json
from medldm.metrics.base import Images, Score, write_scores
from medldm.models.autoencoder import Autoencoder
from medldm.report.downstream import Study, study_figure, study_scores, write_study
from medldm.report.html import Figure, Item, Section, Text, write_report
from medldm.report.mosaic import mosaic
from medldm.report.plots import plot_curves, read_history
from medldm.report.privacy import Privacy
from medldm.report.reconstruction import (
    Judged,
    Values,
    best_median_worst,
    case_values,
    legend,
    reconstructed_picture,
    reconstruction_figures,
    reconstruction_scores,
    stored_picture,
)
from medldm.report.synthesis import Synthesis
from medldm.report.tables import lineage_table, score_table
from medldm.report.viewer import Viewer

SHOWN = 4

Progress = Callable[[Iterable, str], Iterable]

LIMITS = (
    "Intervals are 95 % bootstrap intervals over patients. They say how far other patients would move a figure, not how far another training would.",
    "haar_v1 describes texture and contrast with wavelet statistics; it knows no anatomy. A small distance is necessary for realism, not sufficient.",
    "The search for copies compares whole images at one position. It finds plain copies; it is no proof of privacy.",
    "This page holds voxels of real patients, which can be turned and rendered: treat it as you treat the images.",
    "Condition fidelity trusts the generated label map. Whether image and label map agree has to be seen in the pictures.",
)


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated.

    Args:
        folders: of cohorts and runs by role.
        split: part of the reference that is held out.
        on: what figures are computed on, in words: the real cases and the generated cohort, "" where there is none.
        seed: of the bootstrap.
        held_out: real cases.
        model: judged by its reconstructions of them, or None.
        synthesis: judged beside them, or None.
        study: trained to see what the synthetic cases are worth, or None.
        privacy: audited, or None.
        judged: what is looked at in reconstructions.
    """

    folders: dict[str, Path]
    split: str
    on: tuple[str, str]
    seed: int
    held_out: Images
    model: Autoencoder | None
    synthesis: Synthesis | None
    study: Study | None = None
    privacy: Privacy | None = None
    judged: Judged = field(default_factory=Judged)

    def measure(self, out: Path, progress: Progress) -> list[Score]:
        """Compute all scores and write `metrics.csv`, `cases.csv`, `overview.png` and `report.html`.

        Args:
            out: the folder.
            progress: takes steps and a title, and gives the steps one after the other.
        """
        model, held_out, synthesis = self.model, self.held_out, self.synthesis
        rows = [case_values(model, held_out, i, self.judged) for i in progress(range(len(held_out)), "reconstructing")] if model else []
        rebuilt = reconstruction_scores(rows, held_out.patients, self.seed)
        scores = list(progress(synthesis.scores(), "comparing cohorts")) if synthesis else []
        if self.study:
            trained = self.study.run(held_out, out / "downstream", progress)
            scores += study_scores(trained, self.study.told, self.seed)
            write_study(out / "downstream.csv", trained)
        found = self.privacy.find(progress) if self.privacy else None
        if found:
            scores += found.scores()
            write_json(out / "privacy.json", {what: {"verdict": state, "reason": reason} for what, (state, reason) in found.verdicts().items()})
        made, real = synthesis.values() if synthesis else ([], [])
        for row, similarity in zip(made, found.cohort.generated if found else (), strict=False):
            row["copy_similarity"] = similarity
        scores = rebuilt + [score.also_on(self.on[1]) for score in scores]
        write_scores(out / "metrics.csv", scores, self.on[0])
        generated = synthesis.generated if synthesis else held_out
        _write_cases(out / "cases.csv", (("reconstruction", held_out, rows), ("generated", generated, made), ("real", held_out, real)))
        overview = _overview(self)
        with atomic(out / "overview.png") as temporary:
            temporary.write_bytes(overview.png)
        sections = [
            Section("At a glance", [overview]),
            Section("Step through", [_viewer(self, rows)]),
            Section("Downstream", [study_figure(scores)] if self.study else []),
            Section("Privacy", found.items() if found else []),
            Section("Synthesis", synthesis.figures(made) if synthesis else []),
            Section("Reconstruction", [reconstruction_figures(model, held_out, rows)] if model else []),
            Section("Figures and their intervals", [score_table("", scores)]),
            Section("Training", _curves(self.folders)),
            Section("Limits", [Text(LIMITS)]),
            Section("Provenance", [lineage_table(self.folders)]),
        ]
        write_report(out / "report.html", "Evaluation", _lead(self), sections)
        return scores


def _overview(evaluation: Evaluation) -> Figure:
    """Rows real, reconstructed and generated, of the first cases."""
    shown = range(min(3, len(evaluation.held_out)))
    rows = {"real": [stored_picture(evaluation.held_out, i) for i in shown]}
    if evaluation.model:
        rows["reconstructed (the same cases)"] = [reconstructed_picture(evaluation.model, evaluation.held_out, i) for i in shown]
    if evaluation.synthesis:
        generated = evaluation.synthesis.generated
        rows["generated"] = [stored_picture(generated, i) for i in range(min(3, len(generated)))]
    caption = "The first cases of each cohort, not selected: axial, coronal and sagittal slice, all at one scale, patient's right on the left."
    return Figure("", mosaic(list(rows.values()), list(rows)), caption, legend(evaluation.held_out))


def _viewer(evaluation: Evaluation, rows: Sequence[Values]) -> Viewer:
    """Real cases, with their reconstructions the best, the median and the worst, and the first generated ones."""
    held_out, volumes = evaluation.held_out, {}
    chosen = dict.fromkeys(best_median_worst(rows)) if rows else range(min(SHOWN, len(held_out)))
    for index in chosen:
        volumes[f"real {held_out.cases[index].case}"] = stored_picture(held_out, index)
        if evaluation.model:
            volumes[f"reconstructed {held_out.cases[index].case}"] = reconstructed_picture(evaluation.model, held_out, index)
    if evaluation.synthesis:
        made = evaluation.synthesis.generated
        volumes |= {f"generated {made.cases[i].case}": stored_picture(made, i) for i in range(min(SHOWN, len(made)))}
    caption = "Drag with the left button to move, with the right one to change contrast; turn the rendering; wheel for slices."
    return Viewer("", volumes, caption, legend(held_out))


def _curves(folders: dict[str, Path]) -> list[Item]:
    """Curves of the trainings behind the given folders, among them the run that a generated cohort came from."""
    runs = {role: folder for role, folder in folders.items() if role != "reference"}
    config = folders["generated"] / "config.yaml" if "generated" in folders else None
    if config and config.is_file() and isinstance(source := read_yaml(config).get("run"), str):
        runs["diffusion"] = Path(source)
    curves = {role: read_history(folder / "history.csv") for role, folder in runs.items() if (folder / "history.csv").is_file()}
    caption = "Losses, lower is better (dice is 1 - overlap); logarithmic where a curve spans a factor of eight."
    return [Figure(role.capitalize(), plot_curves(found), caption) for role, found in curves.items() if found]


def _lead(evaluation: Evaluation) -> str:
    """What was compared with what."""
    folders, held_out = evaluation.folders, evaluation.held_out
    real = f"{len(held_out)} real cases of {len(set(held_out.patients))} patients (split {evaluation.split!r} of {folders['reference'].name})"
    text = f"{len(evaluation.synthesis.generated)} generated cases beside {real}." if evaluation.synthesis else f"Measured on {real}."
    return text + (f" The same real cases, reconstructed by the autoencoder in {folders['autoencoder'].name}." if evaluation.model else "")


def _write_cases(path: Path, parts: Sequence[tuple[str, Images, Sequence[Values]]]) -> None:
    """One row per case and part; a cell is empty where a value does not apply."""
    names = list(dict.fromkeys(name for _, _, rows in parts for row in rows for name in row))
    table = [("part", "case", "patient", *names)]
    for part, images, rows in parts:
        for case, row in zip(images.cases if rows else (), rows, strict=True):
            table.append((part, case.case, case.patient, *map(row.get, names)))
    write_csv(path, table)
