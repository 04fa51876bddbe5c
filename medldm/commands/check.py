"""`medldm check`: which files of a source cannot be used, and why."""

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from rich.console import Console
from rich.progress import track

from medldm.data.check import Finding, check_case, compare
from medldm.data.layouts import Source, find_cases
from medldm.errors import UserError
from medldm.files import sha256_of, write_text
from medldm.run import Run
from medldm.tracking import tracked

COLUMNS = ("case", "patient", "file", "status", "reason")


def check(source: Path, out: Path | None = None, covariates: Path | None = None, labels: dict[str, int] | None = None) -> list[Finding]:
    """Check every file of a source: readable, whole, finite, label map on the grid of its image, no image of two patients.

    Args:
        source: MSD, nnU-Net or plain folder.
        out: folder for `check.csv` with a row a case; without it the bad files are only printed.
        covariates: CSV with the column case and optional columns patient, split and covariates; else covariates.csv of the source.
        labels: structure name to label value; else those of dataset.json.

    Returns:
        One finding a case.

    Raises:
        UserError: at least one file is bad.
    """
    found = find_cases(source, covariates, labels)
    run = Run.claim(out, "check", dict(source=source, covariates=covariates, labels=labels)) if out else None
    findings = check_all(found)
    if run and out:  # every time anew: files are repaired between two checks
        reads = {"source": fingerprint(findings)}
        with tracked(run, reads) as tracker:
            write_text(out / "check.csv", _table(findings))
            tracker.metrics({"cases": len(findings), "bad": sum(f.status != "ok" for f in findings)})
            run.finish(reads, ["check.csv"])
    bad = [finding for finding in findings if finding.status != "ok"]
    if bad:
        advice = "Repair them or take them out; `medldm prepare --skip_bad true` goes on without them."
        raise UserError(f"{refusal(bad, len(findings), source)}\n{advice}")
    print(f"All {len(findings)} cases of {source} ({found.kind} layout) are usable.")
    return findings


def check_all(source: Source) -> list[Finding]:
    """Check the cases one by one, with a progress bar, then against each other."""
    steps = track(source.cases, "checking", console=Console(stderr=True), transient=True)
    return compare([check_case(case, source.labels, source.labelled) for case in steps])


def refusal(bad: Sequence[Finding], count: int, source: Path) -> str:
    """The bad files, one a line, after their number."""
    lines = [f"  {finding.file}  [{finding.status}]  {finding.reason}" for finding in bad]
    return "\n".join([f"{len(bad)} of {count} cases of {source} are bad:", *lines])


def fingerprint(findings: Sequence[Finding]) -> str:
    """SHA-256 over names, patients and contents of the checked cases."""
    return sha256_of(sorted((f.case, f.patient, f.content, f.status) for f in findings))


def _table(findings: Sequence[Finding]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *(astuple(finding)[: len(COLUMNS)] for finding in findings)])
    return text.getvalue()
