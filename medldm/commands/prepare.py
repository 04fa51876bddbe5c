"""`medldm prepare`: a source of any layout becomes a cohort of one kind of file."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import track

from medldm.cohort import Case, Cohort
from medldm.commands.check import check_all, fingerprint, refusal
from medldm.data.check import Finding, load_case
from medldm.data.covariates import UNITS
from medldm.data.layouts import Source, find_cases
from medldm.data.splits import assign_splits
from medldm.data.steps.intensity import Percentile, Rescale, Window
from medldm.data.steps.reorient import Reorient
from medldm.data.steps.resample import Resample
from medldm.data.storing import write_case
from medldm.errors import UserError
from medldm.run import Run, describe
from medldm.tracking import tracked


def prepare(
    source: Path,
    out: Path,
    covariates: Path | None = None,
    spacing: tuple[float, float, float] | None = None,
    window: tuple[float, float] | None = None,
    labels: dict[str, int] | None = None,
    val: float = 0.05,
    test: float = 0.2,
    skip_bad: bool = False,
    seed: int = 0,
) -> Cohort:
    """Read a source, check it, and write a cohort: RAS+ axes, intensities in [-1, 1], splits by patient.

    Args:
        source: MSD, nnU-Net or plain folder.
        out: folder of the cohort.
        covariates: CSV with the column case and optional columns patient, split and covariates; else covariates.csv of the source.
        spacing: mm along I, J, K to resample to; by default each case keeps its grid.
        window: two intensities (HU for CT) that become -1 and 1; by default the percentiles 0.5 and 99.5 of each image.
        labels: structure name to label value; else those of dataset.json, else label_1, label_2 ...
        val: share of patients for validation, where the source names no split.
        test: share of patients for the test, where the source names no split.
        skip_bad: leave bad files out, with a row that says why, instead of stopping.
        seed: seed of the split.

    Returns:
        The cohort. Where the source has labels, `volume_<name>` in mm3 is among its covariates.

    Raises:
        UserError: an argument, a table or a file is wrong; nothing is written then.
    """
    arguments = {key: value for key, value in locals().items() if key != "out"}
    source, out = Path(source), Path(out)
    if out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{out} lies inside the source {source}.", "Give a folder beside it as --out.")
    rescale = Window(*window) if window else Percentile()
    resample = Resample(tuple(spacing)) if spacing else None
    assign_splits([], val, test)  # refuses wrong shares before the long check
    run = Run.claim(out, "prepare", arguments) if _has_content(out) else None
    if run and run.finished:
        print(f"{out} is prepared already.")
        return Cohort.load(out)
    found = find_cases(source, covariates, labels)
    findings = check_all(found)
    found = _usable(found, findings, skip_bad)
    run = run or Run.claim(out, "prepare", arguments)
    reads = {"source": fingerprint(findings)}
    with tracked(run, reads) as tracker:
        written, limits = _write(found, out, rescale, resample, _splits(found, val, test, seed))
        cases = sorted([*written, *_skipped(findings)], key=lambda case: case.case)
        units = {name: _unit(name) for case in written for name in case.covariates}
        facts = {"layout": found.kind, "intensity": describe(rescale), "intensity_limits": limits}
        cohort = Cohort(out, tuple(cases), "a.u.", found.labels, units, reads, facts=facts)
        cohort.save()
        tracker.metrics({"cases": len(written), "bad": len(cases) - len(written), "patients": len({case.patient for case in written})})
        run.finish(reads, ["cohort.csv", "cohort.json"])
    _summarise(cohort, found)
    return Cohort.load(out)


def _has_content(out: Path) -> bool:
    """True where `out` can be claimed, or refused, before the source is read; a new folder is made only for a good source."""
    return out.exists() and (not out.is_dir() or any(out.iterdir()))


def _usable(found: Source, findings: Sequence[Finding], skip_bad: bool) -> Source:
    """The source without bad cases and with a name for each label."""
    bad = [finding for finding in findings if finding.status != "ok"]
    if bad and (not skip_bad or len(bad) == len(findings)):
        advice = "No case is usable." if skip_bad else "Repair or remove them, or go on without them: --skip_bad true"
        raise UserError(f"{refusal(bad, len(findings), found.root)}\nNothing was written. {advice}")
    names = found.labels or {value: f"label_{value}" for value in sorted({v for f in findings for v in f.label_values})}
    ok = {finding.case for finding in findings if finding.status == "ok"}
    cases = tuple(case for case in found.cases if case.case in ok)
    taken = {f"volume_{name}" for name in names.values()} & set(cases[0].covariates)
    if taken and found.labelled:
        raise UserError(f"The covariates {', '.join(sorted(taken))} of {found.root} are measured from the labels.", "Rename these columns.")
    return replace(found, cases=cases, labels=names if found.labelled else {})


def _splits(found: Source, val: float, test: float, seed: int) -> dict[str, str]:
    """Patient -> split; splits that the source names stay."""
    given = {case.patient: case.split for case in found.cases if case.split}
    return assign_splits([case.patient for case in found.cases], val, test, seed, given)


def _write(
    found: Source, out: Path, rescale: Rescale, resample: Resample | None, splits: dict[str, str]
) -> tuple[list[Case], dict[str, list[tuple[float, float]]]]:
    """Write all cases; equal sources give equal bytes, so that an interrupted run ends like any other.

    Returns:
        The cases, and for each the intensities per channel that became -1 and 1.
    """
    written, limits = [], {}
    for case in track(found.cases, "preparing", console=Console(stderr=True), transient=True):
        image, label = load_case(case)
        limits[case.case] = rescale.limits(image)
        for step in (Reorient(), rescale, resample):
            image = step(image) if step else image
            label = step(label) if step and label else label
        written.append(write_case(out, case.case, image, label, found.labels, case.patient, splits[case.patient], case.covariates))
    return written, limits


def _skipped(findings: Sequence[Finding]) -> list[Case]:
    return [Case(f.case, f.patient, "", "", status=f.status, reason=f"{f.file} {f.reason}") for f in findings if f.status != "ok"]


def _unit(name: str) -> str:
    return "mm3" if name.startswith("volume_") else UNITS.get(name, "")


def _summarise(cohort: Cohort, found: Source) -> None:
    """What was made, in two lines; a third where the covariates table does not fit."""
    good = [case for case in cohort if case.status == "ok"]
    splits = Counter(case.split for case in good)
    patients = len({case.patient for case in good})
    left_out = f"; {len(cohort) - len(good)} bad cases left out" if len(good) < len(cohort) else ""
    counts = ", ".join(f"{splits[name]} {name}" for name in ("train", "val", "test"))
    print(f"{cohort.root}: {len(good)} cases of {patients} patients ({counts}){left_out}")
    names = ", ".join(cohort.labels.values()) or "none"
    print(f"grid {_range([case.shape for case in good])} voxels, spacing {_range([case.spacing for case in good])} mm, labels: {names}")
    if found.unknown_rows or found.missing_rows:
        print(f"covariates: {found.unknown_rows} rows belong to no case, {found.missing_rows} cases have no row (their values are missing)")


def _range(triples: Sequence[tuple[float, ...]]) -> str:
    axes = [(min(values), max(values)) for values in zip(*triples, strict=True)]
    return " x ".join(f"{low:g}" if f"{low:g}" == f"{high:g}" else f"{low:g}-{high:g}" for low, high in axes)
