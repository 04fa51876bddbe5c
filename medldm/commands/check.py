"""`medldm check`: which files of a source cannot be used, and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Literal

from medldm.commands.progress import counted
from medldm.data.check import ASSUMABLE, check_case
from medldm.data.compare import compare
from medldm.data.finding import Finding
from medldm.data.layouts import find_cases
from medldm.data.sources import SET_ASIDE, Source, SourceCase
from medldm.errors import UserError
from medldm.files import csv_text, read_json, sha256_of, write_csv, write_json, write_text
from medldm.parallel import processors, spread
from medldm.run import Run
from medldm.tracking import tracked

COLUMNS = ("case", "patient", "file", "status", "reason")
CHECKED = "checked.json"
SHOWN = 10  # cases that are named where none can be used
SMALL = 32 << 20  # bytes of a source for which starting processes takes longer than the work


def check(
    source: Path,
    out: Path | None = None,
    covariates: Path | None = None,
    contrasts: list[str] | None = None,
    modality: Literal["CT", "MR"] | None = None,
    labels: dict[str, int] | None = None,
    root: Path | None = None,
    align: bool = False,
    assume: list[str] | None = None,
    jobs: int | None = None,
    key: Path | None = None,
) -> list[Finding]:
    """Check every file of a source: readable, whole, finite, in its place, plausible, and of one patient only.

    Args:
        source: a DICOM archive, a folder in BIDS, MSD, nnU-Net or plain layout, or a CSV file that names the images.
        out: folder for `check.csv` with a row a case; without it the bad files are only printed.
        covariates: table with one row a case or patient; else covariates.csv or participants.tsv of the source.
        contrasts: the images of a case that become its channels, in this order, such as '[T1w, FLAIR]'; in DICOM, words of descriptions.
        modality: CT or MR; takes only these where the source says which is which, and holds CT to Hounsfield units.
        labels: structure name to label value; else those of dataset.json.
        root: folder that the paths of a CSV source are relative to; by default its own.
        align: bring contrasts and label maps that lie on other grids onto that of the first contrast.
        assume: findings that are known to be in order, such as '[spacing_outlier]'.
        jobs: processes at work; by default one a processor for large sources.
        key: CSV to write with the identities behind the pseudonyms of a DICOM archive.

    Returns:
        One finding a case.

    Raises:
        UserError: at least one file is bad.
    """
    arguments = {name: value for name, value in locals().items() if name not in ("out", "jobs", "key")}
    found = find_cases(source, covariates, labels, contrasts, root)
    found = found.of_modality(modality) if modality else found  # an archive of several may be checked as a whole
    write_key(found, key, out)
    run = Run.claim(out, "check", arguments) if out else None
    findings = check_all(found, processes(found, jobs), align, assume or [])
    bad = [finding for finding in findings if finding.status not in ("ok", *SET_ASIDE)]
    if run and out:  # every time anew: files are repaired between two checks
        reads = {"source": fingerprint(findings)}
        with tracked(run, reads) as tracker:
            write_csv(out / "check.csv", _table(findings))
            tracker.metrics({"cases": len(findings), "bad": len(bad)})
            run.finish(reads, ["check.csv"])
    usable = sum(finding.status == "ok" for finding in findings)
    if bad or not usable:
        advice = "Repair them or take them out; `medldm prepare --skip_bad true` goes on without them."
        raise UserError(f"{refusal(bad, findings, source)}\n{advice if usable else 'No case is usable.'}")
    print("\n".join([f"All {usable} cases of {source} ({found.kind} layout) are usable.", *_set_aside(findings), *found.notes]))
    return findings


def check_all(source: Source, jobs: int, align: bool, assume: Sequence[str], known: Path | None = None) -> list[Finding]:
    """Check the cases one by one, in several processes and with a progress bar, then against each other.

    Args:
        source: what to check.
        jobs: processes at work.
        align: as in `check`.
        assume: as in `check`.
        known: findings of an earlier run, from `remember`; those of files that did not change since are taken from it.

    Raises:
        UserError: a word of `assume` is none that a user can vouch for.
    """
    if strange := sorted(set(assume) - set(ASSUMABLE)):
        raise UserError(f"--assume: {', '.join(strange)} cannot be assumed to be in order.", f"What can: {', '.join(ASSUMABLE)}.")
    before = read_json(known) if known and known.is_file() else {}
    findings: dict[str, Finding] = {}
    for case in source.cases:
        entry = before.get(case.case)
        if entry and entry["stamp"] == _stamp(case):
            findings[case.case] = Finding.from_plain(entry["finding"])
    rest = [case for case in source.cases if case.case not in findings]
    labelled = frozenset(case.modality for case in source.cases if case.label)
    work = partial(_check, labels=source.labels, labelled=labelled, align=align, assume=tuple(assume))
    for finding in counted(spread(work, rest, jobs), len(rest), "checking"):
        findings[finding.case] = finding
    return compare([findings[case.case] for case in source.cases], tuple(assume))


def _check(case: SourceCase, labels: Mapping[int, str], labelled: frozenset[str], align: bool, assume: Sequence[str]) -> Finding:
    """`check_case`, with a label map expected where other images of the same modality have one."""
    return check_case(case, labels, case.modality in labelled, align=align, assume=assume)


def remember(path: Path, source: Source, findings: Sequence[Finding]) -> None:
    """Store what was found, with size and time of every file, so that a run that continues need not read all of them again."""
    single = {f.case: f for f in findings if f.status == "ok"}
    write_json(path, {c.case: {"stamp": _stamp(c), "finding": single[c.case].to_plain()} for c in source.cases if c.case in single})


def processes(source: Source, jobs: int | None) -> int:
    """As many as were asked for, else one a processor, else one where that is enough."""
    if jobs is not None:
        return jobs
    size = sum(file.stat().st_size for case in source.cases for file in case.files if file.is_file())
    return processors() if size > SMALL else 1


def refusal(bad: Sequence[Finding], findings: Sequence[Finding], source: Path) -> str:
    """The bad files, one a line, after their number."""
    lines = [f"  {finding.file}  [{finding.status}]  {finding.reason}" for finding in bad]
    if not bad:
        lines = [f"  {f.file}  [{f.status}]  {f.reason}" for f in findings[:SHOWN]] + (["  ..."] if len(findings) > SHOWN else [])
        return "\n".join([f"None of {len(findings)} cases of {source} is an image to learn from:", *lines, *_set_aside(findings)])
    return "\n".join([f"{len(bad)} of {len(findings)} cases of {source} are bad:", *lines, *_set_aside(findings)])


def fingerprint(findings: Sequence[Finding]) -> str:
    """SHA-256 over names, patients and contents of the checked cases."""
    return sha256_of(sorted((f.case, f.patient, f.content, f.status) for f in findings))


def write_key(source: Source, path: Path | None, out: Path | None) -> None:
    """Write who is behind the pseudonyms, where the user asks for it, beside and never inside of what may be passed on.

    Raises:
        UserError: the file exists, lies in the output folder, or the source has no pseudonyms.
    """
    if path is None:
        return
    path = Path(path)
    if not source.key:
        raise UserError(f"{source.root} has no pseudonyms: its cases are called as their files are.", "Leave --key away.")
    if out and path.resolve().is_relative_to(Path(out).resolve()):
        raise UserError(f"The key {path} would lie in {out}, which others may get.", "Keep it elsewhere.")
    text = csv_text([tuple(source.key[0]), *(tuple(row.values()) for row in source.key)])
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise UserError(f"{path} exists.", "Give a new file as --key.")
    write_text(path, text)
    path.chmod(0o600)


def _stamp(case: SourceCase) -> str:
    """Changes when a file of the case is written, or another takes its place."""
    return sha256_of([[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in case.files if file.is_file()])


def _set_aside(findings: Sequence[Finding]) -> list[str]:
    counts = Counter(finding.status for finding in findings if finding.status in SET_ASIDE)
    return [f"Set aside: {', '.join(f'{count} {status}' for status, count in counts.most_common())}."] if counts else []


def _table(findings: Sequence[Finding]) -> list[tuple[object, ...]]:
    return [COLUMNS, *(astuple(finding)[: len(COLUMNS)] for finding in findings)]
