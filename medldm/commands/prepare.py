"""`medldm prepare`: a source of any layout becomes a cohort of one kind of file."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

from medldm.cohort import Case, Cohort, Covariate
from medldm.commands.check import CHECKED, check_all, fingerprint, processes, refusal, remember
from medldm.commands.progress import counted
from medldm.data.covariates import UNITS
from medldm.data.finding import Finding
from medldm.data.layouts import find_cases
from medldm.data.preparing import Prepared, Recipe, forget_others, image_before, prepare_case
from medldm.data.sources import SET_ASIDE, Source
from medldm.data.splits import assign_splits
from medldm.data.steps.base import Step
from medldm.data.steps.intensity import Percentile, Window
from medldm.data.steps.relabel import Relabel
from medldm.data.steps.reorient import Reorient
from medldm.data.steps.resample import Resample
from medldm.errors import UserError
from medldm.files import sha256
from medldm.parallel import spread
from medldm.report.html import write_report
from medldm.report.preparation import preparation_sections
from medldm.run import Run, describe
from medldm.tracking import tracked

CT_WINDOW = (-1000.0, 1000.0)  # HU; air to compact bone
LEARNED_FROM = 50  # cases at most, evenly spaced: the landmarks of a histogram are means over them


def prepare(
    source: Path,
    out: Path,
    covariates: Path | None = None,
    contrasts: list[str] | None = None,
    modality: Literal["CT", "MR"] | None = None,
    labels: dict[str, int] | None = None,
    root: Path | None = None,
    spacing: tuple[float, float, float] | None = None,
    window: tuple[float, float] | None = None,
    steps: list[Step] | None = None,
    align: bool = False,
    assume: list[str] | None = None,
    stratify: list[str] | None = None,
    val: float = 0.05,
    test: float = 0.2,
    skip_bad: bool = False,
    jobs: int | None = None,
    seed: int = 0,
) -> Cohort:
    """Read a source, check it, and write a cohort: RAS+ axes, intensities in [-1, 1], splits by patient, and a report.

    Args:
        source: a DICOM archive, a folder in BIDS, MSD, nnU-Net or plain layout, or a CSV file that names the images.
        out: folder of the cohort.
        covariates: table with one row a case or patient; else covariates.csv or participants.tsv of the source.
        contrasts: the images of a case that become its channels, in this order, such as '[T1w, FLAIR]'; in DICOM, words of descriptions.
        modality: CT or MR; takes only these where the source says which is which, and holds CT to Hounsfield units.
        labels: structure name to label value; else those of dataset.json, else label_1, label_2 ...
        root: folder that the paths of a CSV source are relative to; by default its own.
        spacing: mm along I, J, K to resample to; by default each case keeps its grid.
        window: two intensities that become -1 and 1; by default -1000 and 1000 HU for CT, else the percentiles 0.5 and 99.5 of each image.
        steps: everything that is done to a case, in order, instead of spacing and window; see medldm/data/steps.
        align: bring contrasts and label maps that lie on other grids onto that of the first contrast.
        assume: findings of the check that are known to be in order, such as '[spacing_outlier]'.
        stratify: covariates that the splits shall be balanced for; by default all of the table, and which structures there are.
        val: share of patients for validation, where the source names no split.
        test: share of patients for the test, where the source names no split.
        skip_bad: leave bad files out, with a row that says why, instead of stopping.
        jobs: processes at work; by default one a processor for large sources.
        seed: seed of the split.

    Returns:
        The cohort. Where the source has labels, `volume_<name>` in mm3 is among its covariates.

    Raises:
        UserError: an argument, a table or a file is wrong; nothing is written then.
    """
    return _prepare(SimpleNamespace(**locals()))


def _prepare(asked: SimpleNamespace) -> Cohort:
    """The work of `prepare`, whose arguments are the fields of `asked`."""
    # a cohort is passed on, and the paths of a source may name patients; its content has a fingerprint
    arguments = {name: value for name, value in vars(asked).items() if name not in ("source", "root", "covariates", "out", "jobs")}
    tables = {"covariates": sha256(Path(asked.covariates))} if asked.covariates and Path(asked.covariates).is_file() else None
    source, out, assume = Path(asked.source), Path(asked.out), tuple(asked.assume or ())
    _steps(asked)  # refuses wrong settings before the long check, as the next lines do
    assign_splits([], asked.val, asked.test)
    if out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{out} lies inside the source {source}.", "Give a folder beside it as --out.")
    run = Run.claim(out, "prepare", arguments, tables) if _has_content(out) else None
    if run and run.finished and not source.exists():
        print(f"{out} is prepared already; {source} is not there to be compared with.")
        return Cohort.load(out)
    found = find_cases(source, asked.covariates, asked.labels, asked.contrasts, asked.root).of_modality(asked.modality)
    jobs = processes(found, asked.jobs)
    findings = check_all(found, jobs, asked.align, assume, out / CHECKED)
    if run and run.finished:
        return _as_before(Cohort.load(out), findings, source)
    usable = _usable(found, findings, asked.skip_bad)
    splits = _splits(usable, findings, asked)
    run = run or Run.claim(out, "prepare", arguments, tables)
    remember(out / CHECKED, found, findings)
    reads = {"source": fingerprint(findings)}
    with tracked(run, reads) as tracker:
        recipe = _recipe(usable, Recipe(tuple(_steps(asked, usable.modality)), {}, asked.align, assume), splits, jobs)
        prepared = _write(usable, findings, recipe, splits, out, jobs)
        cohort = _cohort(usable, findings, prepared, recipe, out, reads)
        _report(cohort, findings, prepared, usable)
        tracker.metrics({"cases": len(prepared), "bad": len(findings) - len(prepared), "patients": len(splits)})
        run.finish(reads, ["cohort.csv", "cohort.json"])
    _summarise(cohort, usable)
    return Cohort.load(out)


def _as_before(cohort: Cohort, findings: Sequence[Finding], source: Path) -> Cohort:
    """The finished cohort, if its source is as it was.

    Raises:
        UserError: files were added, taken away or changed since.
    """
    if fingerprint(findings) != cohort.parents["source"]:
        reason = f"{source} has changed since {cohort.root} was prepared from it."
        raise UserError(reason, "Give a new folder as --out; models of the old cohort remain as they are.")
    print(f"{cohort.root} is prepared already.")
    return cohort


def _steps(asked: SimpleNamespace, modality: str = "") -> list[Step]:
    """All that is done to a case, in order."""
    if asked.steps is not None:
        if asked.spacing or asked.window:
            raise UserError("--steps says all that is done; --spacing and --window have no place beside it.", "Put Resample or Window into it.")
        if any(isinstance(step, Relabel) for step in asked.steps):
            raise UserError("Relabel in --steps would part the structures from their names; labels are numbered by `prepare`.", "Leave it out.")
        return list(asked.steps)
    window = asked.window or (CT_WINDOW if modality == "CT" else None)
    return [Reorient(), Window(*window) if window else Percentile(), *([Resample(tuple(asked.spacing))] if asked.spacing else [])]


def _has_content(out: Path) -> bool:
    """True where `out` can be claimed, or refused, before the source is read; a new folder is made only for a good source."""
    return out.exists() and (not out.is_dir() or any(out.iterdir()))


def _usable(found: Source, findings: Sequence[Finding], skip_bad: bool) -> Source:
    """The source without bad cases and with a name for each label."""
    bad = [finding for finding in findings if finding.status not in ("ok", *SET_ASIDE)]
    ok = {finding.case for finding in findings if finding.status == "ok"}
    if (bad and not skip_bad) or not ok:
        advice = "Repair or remove them, or go on without them: --skip_bad true" if ok else "No case is usable."
        raise UserError(f"{refusal(bad, findings, found.root)}\nNothing was written. {advice}")
    names = found.labels or {value: f"label_{value}" for value in sorted({v for f in findings for v in f.label_values})}
    cases = tuple(case for case in found.cases if case.case in ok)
    taken = {f"volume_{name}" for name in names.values()} & set(cases[0].covariates)
    if taken and found.labelled:
        raise UserError(f"The covariates {', '.join(sorted(taken))} of {found.root} are measured from the labels.", "Rename these columns.")
    return replace(found, cases=cases, labels=names if found.labelled else {})


def _splits(found: Source, findings: Sequence[Finding], asked: SimpleNamespace) -> dict[str, str]:
    """Patient -> split: splits that the source names stay, the others are balanced for covariates and for the structures there are.

    Of several cases of a patient the first counts.
    """
    names = {name for case in found.cases for name in case.covariates}
    if strange := set(asked.stratify or []) - names:
        known = ", ".join(sorted(names)) or "none"
        raise UserError(f"--stratify: {', '.join(sorted(strange))} is no covariate of {found.root}.", f"Its covariates: {known}.")
    wanted = sorted(names if asked.stratify is None else asked.stratify)
    values = {finding.case: finding.label_values for finding in findings}
    strata: dict[str, dict[str, Covariate]] = {}
    for case in found.cases:
        shown = found.labels if asked.stratify is None else {}
        there = {f"has_{name}": str(value in values[case.case]) if case.label else None for value, name in shown.items()}
        strata.setdefault(case.patient, {name: case.covariates.get(name) for name in wanted} | there)
    varying = {name for row in strata.values() for name in row if len({other[name] for other in strata.values()}) > 1}
    strata = {patient: {name: row[name] for name in sorted(varying)} for patient, row in strata.items()}
    given = {case.patient: case.split for case in found.cases if case.split}
    patients = [case.patient for case in found.cases]
    return assign_splits(patients, asked.val, asked.test, asked.seed, given, strata if varying else None)


def _recipe(found: Source, recipe: Recipe, splits: dict[str, str], jobs: int) -> Recipe:
    """The recipe with the labels of the source as 1, 2, ..., and with steps that learn from a cohort fitted to training cases of it."""
    values = tuple(found.labels)
    relabel = (Relabel(values),) if values != tuple(range(1, len(values) + 1)) else ()
    recipe = replace(recipe, steps=relabel + recipe.steps, labels=dict(enumerate(found.labels.values(), start=1)))
    training = [case for case in found.cases if splits[case.patient] == "train"]
    training = training[:: max(1, -(-len(training) // LEARNED_FROM))]
    for number, step in enumerate(recipe.steps):
        if type(step).fit is not Step.fit:
            images = spread(partial(image_before, recipe=recipe, number=number), training, jobs)
            fitted = step.fit(counted(images, len(training), "learning"))
            recipe = replace(recipe, steps=(*recipe.steps[:number], fitted, *recipe.steps[number + 1 :]))
    return recipe


def _write(found: Source, findings: Sequence[Finding], recipe: Recipe, splits: dict[str, str], out: Path, jobs: int) -> list[Prepared]:
    """Write all cases; equal sources give equal bytes, so that an interrupted run ends like any other."""
    content = {finding.case: finding.content for finding in findings}
    tasks = [(case, splits[case.patient], content[case.case]) for case in found.cases]
    prepared = list(counted(spread(partial(prepare_case, recipe=recipe, root=out), tasks, jobs), len(tasks), "preparing"))
    forget_others(out, [entry.case.case for entry in prepared])
    return prepared


def _cohort(found: Source, findings: Sequence[Finding], prepared: Sequence[Prepared], recipe: Recipe, out: Path, reads: dict[str, str]) -> Cohort:
    """The cohort, saved: a row for each case that was written, and one for each that was left out."""
    written = [entry.case for entry in prepared]
    skipped = [Case(f.case, f.patient, "", "", status=f.status, reason=f"{f.file} {f.reason}".strip()) for f in findings if f.status != "ok"]
    units = {name: "mm3" if name.startswith("volume_") else UNITS.get(name, "") for case in written for name in case.covariates}
    facts = {
        "layout": found.kind,
        "modality": found.modality,
        "contrasts": list(found.contrasts),
        "steps": [describe(step) for step in recipe.steps],
        "label_values": {str(new): old for new, old in zip(recipe.labels, found.labels, strict=True)},
    }
    cases = tuple(sorted([*written, *skipped], key=lambda case: case.case))
    cohort = Cohort(out, cases, "a.u.", recipe.labels, units, reads, facts=facts)
    cohort.save()
    return cohort


def _report(cohort: Cohort, findings: Sequence[Finding], prepared: Sequence[Prepared], found: Source) -> None:
    histograms = {entry.case.case: entry.histogram for entry in prepared}
    strata = {case.patient: case.covariates for case in found.cases}
    sections = preparation_sections(cohort, findings, histograms, strata)
    write_report(cohort.root / "report.html", f"Cohort {cohort.root.name}", " ".join(_summary(cohort)), sections)


def _summary(cohort: Cohort) -> tuple[str, str]:
    """What was made, in two sentences."""
    good = [case for case in cohort if case.status == "ok"]
    splits = Counter(case.split for case in good)
    aside = sum(case.status in SET_ASIDE for case in cohort)
    bad = len(cohort) - len(good) - aside
    counts = ", ".join(f"{splits[name]} {name}" for name in ("train", "val", "test"))
    left_out = "".join([f"; {bad} bad cases left out" if bad else "", f"; {aside} set aside" if aside else ""])
    labels = ", ".join(list(cohort.labels.values())[:12]) + (f" and {len(cohort.labels) - 12} more" if len(cohort.labels) > 12 else "")
    first = f"{len(good)} cases of {len({case.patient for case in good})} patients ({counts}){left_out}."
    return first, f"Grid {_range([c.shape for c in good])} voxels, spacing {_range([c.spacing for c in good])} mm, labels: {labels or 'none'}."


def _summarise(cohort: Cohort, found: Source) -> None:
    first, second = _summary(cohort)
    print("\n".join([f"{cohort.root}: {first}", second, *found.notes, f"Report: {cohort.root}/report.html"]))
    if found.unknown_rows or found.missing_rows:
        print(f"covariates: {found.unknown_rows} rows belong to no case, {found.missing_rows} cases have no row (their values are missing)")


def _range(triples: Sequence[tuple[float, ...]]) -> str:
    axes = [(min(values), max(values)) for values in zip(*triples, strict=True)]
    return " x ".join(f"{low:.4g}" if f"{low:.4g}" == f"{high:.4g}" else f"{low:.4g}-{high:.4g}" for low, high in axes)
