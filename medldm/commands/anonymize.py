"""`medldm anonymize`: DICOM and NIfTI files without what identifies the patients."""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from medldm.commands.progress import counted
from medldm.data.sources import BadCase
from medldm.errors import UserError
from medldm.files import atomic
from medldm.parallel import spread
from medldm.privacy import nifti, objects, stacks
from medldm.privacy.deidentify import Action, Deidentifier
from medldm.privacy.faces import Finding
from medldm.privacy.identifiers import Identifiers
from medldm.privacy.inventory import Inventory, Item, assign, files_of, fingerprint, inventory, take, volumes
from medldm.privacy.profile import Profile, private_list
from medldm.privacy.pseudonyms import Key, Secret
from medldm.run import OWN, Run
from medldm.tracking import tracked

COLUMNS = ("file", "element", "action")
REFUSED, PASSED = "refused: ", "passed over: "


def anonymize(
    source: Path,
    out: Path,
    key: Path | None = None,
    dates: Literal["shift", "remove"] = "shift",
    characteristics: bool = True,
    device: bool = False,
    uids: bool = False,
    descriptors: bool = False,
    private: list[str] | None = None,
    pixels: Literal["refuse", "accept"] | list[tuple[int, int, int, int]] = "refuse",
    faces: Literal["refuse", "remove", "accept"] = "refuse",
    skip_bad: bool = False,
    jobs: int = 1,
) -> Path:
    """Write a copy of a tree of DICOM and NIfTI files by the rules of DICOM PS3.15 Annex E, and search it for what is known of the patients.

    Files that are not understood are refused, not copied, and so are heads with a face unless `faces` says otherwise.

    Args:
        source: folder of DICOM files, NIfTI files with their sidecars, or both; other files are passed over.
        out: new folder for p001/s01/0001.dcm ..., and `audit.csv` with every action on every element.
        key: file that holds the secret and who is behind the pseudonyms, made where it does not exist; the same key gives the same pseudonyms,
            UIDs and dates. Without it, the secret is thrown away and nothing leads back.
        dates: shift all dates of a patient by one number of days and keep times of day, or remove both.
        characteristics: keep age (90 years at most), sex, size and weight.
        device: keep serial numbers and names of devices.
        uids: keep UIDs, which lead back to the archive they come from.
        descriptors: of descriptions, such as that of the series, keep words of a vocabulary of anatomy and sequences, instead of nothing.
        private: private attributes to keep, each 'CREATOR,gggg,ee', and 'standard' for diffusion weighting, mosaics and scaling of values.
        pixels: refuse images that may show text (ultrasound, screen captures, overlays ...), accept their pixels as they are, or blank
            rectangles of all images: '[[first row, first column, rows, columns], ...]'.
        faces: refuse volumes that show a face, which takes about 4 s a volume to find out; remove it, that is, put air in its place; or accept all
            volumes without a look. Refuse and remove both refuse volumes in which it cannot be told; what is too small to show a
            face (less than 60 mm along an axis, or 100 mm along two) is not searched.
        skip_bad: end well although files were refused.
        jobs: processes at work.

    Returns:
        The folder.

    Raises:
        UserError: an argument is wrong, or files were refused; all others are written then.
    """
    boxes = pixels if isinstance(pixels, str) else tuple(tuple(box) for box in pixels)
    profile = Profile(dates, characteristics, device, uids, descriptors, private_list(private), boxes, faces)
    options = dict(dates=dates, characteristics=characteristics, device=device, uids=uids, descriptors=descriptors, private=private, pixels=pixels)
    options["faces"] = faces
    source, out = Path(source), Path(out)
    _refuse_places(source, out, key)
    with ExitStack() as stack:
        if key:
            _lock(key, stack)
        _claimed(source, out, key, options, profile, jobs)
    return _ending(out, key, skip_bad)


def _claimed(source: Path, out: Path, key: Path | None, options: dict[str, Any], profile: Profile, jobs: int) -> None:
    """Take the folder, and do the work unless it is done. Neither source nor key are recorded: their paths may tell who it is."""
    secrets = Key.read(key) if key and key.exists() else Key.new()
    # without a key, a fingerprint would be one that everybody can compare with that of a source
    reads = {"source": fingerprint(source, secrets.secret)} if key else {}
    run = Run.claim(out, "anonymize", options, reads)
    if run.finished:
        print(f"{out} is anonymized already{'' if key else ', from this or another source'}.")
        return
    with tracked(run, reads) as tracker:
        _forget(out)
        counts = _anonymize(source, out, profile, secrets, key, jobs)
        tracker.metrics({name: float(count) for name, count in counts.items()})
        run.finish(reads, ["audit.csv"])


def _refuse_places(source: Path, out: Path, key: Path | None) -> None:
    if not source.is_dir():
        raise UserError("--source is not a folder.", "Give the folder of the files.")
    if out.resolve().is_relative_to(source.resolve()) or source.resolve().is_relative_to(out.resolve()):
        raise UserError("--out lies inside of --source, or holds it.", "Give a folder beside it as --out.")
    if key and key.resolve().is_relative_to(out.resolve()):
        raise UserError(f"The key {key} would lie in {out}, which others may get.", "Keep it elsewhere.")
    if key and key.resolve().is_relative_to(source.resolve()):
        raise UserError("The key would lie in --source and become a part of it.", "Keep it elsewhere.")


def _lock(key: Path, stack: ExitStack) -> None:
    """Two runs that number new patients at once would give two of them one pseudonym."""
    key.parent.mkdir(parents=True, exist_ok=True)
    try:
        stack.enter_context(FileLock(key.with_name(f".{key.name}.lock"), timeout=0))
    except Timeout as error:
        raise UserError(f"Another process uses the key {key}.", "Wait for it.") from error


def _forget(out: Path) -> None:
    """Take away what an interrupted run wrote: without its key, its pseudonyms are not those of this run."""
    for path in sorted(out.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
        elif path.relative_to(out).as_posix() not in OWN:
            path.unlink()


def _anonymize(source: Path, out: Path, profile: Profile, secrets: Key, key: Path | None, jobs: int) -> Counter[str]:
    """The passes over the source, and the audit."""
    total = sum(1 for _ in files_of(source))
    found = inventory(list(counted(take(source, profile), total, "reading")))
    if not any(item.kind for item in found.items):
        raise UserError(f"None of the {total} files of --source is DICOM or NIfTI.")
    faces = _find_faces(found, profile, jobs)
    assign(found, source, secrets)
    if key:
        secrets.write(key)  # before the first file that bears its pseudonyms
    tasks = [item for item in found.items if item.kind and not item.refused]
    work = partial(_write, out=out, profile=profile, secret=secrets.secret)
    given = [(item, found.known[item.identity], faces.get(item.number, ())) for item in tasks]
    counts = Counter(files=len(tasks), patients=len(found.known), refused=0)
    refused = {item.number: item.refused for item in found.items if item.refused}
    with atomic(out / "audit.csv") as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for item, (name, done, reason) in zip(tasks, counted(spread(work, given, jobs), len(given), "writing"), strict=True):
            if reason:
                refused[item.number] = reason
            writer.writerows((name, element, action) for element, action in done)
        writer.writerows(_others(found, refused))
    counts.update(refused=len(refused), files=-sum(item.number in refused for item in tasks))
    if key:
        secrets.refused = {str(number): str(found.items[number - 1].path.relative_to(source)) for number in sorted(refused)}
        secrets.write(key)
    return counts


def _find_faces(found: Inventory, profile: Profile, jobs: int) -> dict[int, tuple[Finding, ...]]:
    """What each file shows, by its number; files are refused where it is a face that is not to be removed, or cannot be told."""
    if profile.faces == "accept":
        return {}
    groups, faces = volumes(found), {}
    seen = counted(spread(_look, groups, jobs), len(groups), "looking for faces")
    for item, findings in ((item, findings) for group, each in zip(groups, seen, strict=True) for item, findings in zip(group, each, strict=True)):
        faces[item.number] = findings
        item.refused = next(filter(None, (finding.refusal(profile.faces == "remove") for finding in findings)), "")
    return faces


def _look(group: list[Item]) -> list[tuple[Finding, ...]]:
    """What was found in each file of a volume."""
    paths = [item.path for item in group]
    return stacks.search(paths) if group[0].kind == "dicom" else [nifti.find_face(path) for path in paths]


def _write(given: tuple[Item, Identifiers, tuple[Finding, ...]], out: Path, profile: Profile, secret: Secret) -> tuple[str, Sequence[Action], str]:
    """De-identify one file: its new name and what was done, or why it is refused."""
    item, known, findings = given
    try:
        if item.kind == "dicom":
            name = f"{item.target}.dcm"
            deidentifier = Deidentifier(profile, secret, item.patient, secret.days("\0".join(item.identity)), known)
            data, done = objects.deidentify(item.path, deidentifier, findings)
        else:
            name = item.target + nifti.suffix_of(item.path.name)
            data, done = nifti.deidentify(item.path, known, findings)
    except BadCase as bad:
        return "", (), bad.reason
    with atomic(out / name) as temporary:
        temporary.write_bytes(data)
    return name, done or [("", "copied: numbers only")], ""


def _others(found: Inventory, refused: dict[int, str]) -> Iterator[tuple[str, str, str]]:
    """Rows of files without an output."""
    for number, reason in sorted(refused.items()):
        yield f"#{number}", "", REFUSED + reason
    for item in found.items:
        if not item.kind:
            yield f"#{item.number}", "", PASSED + "is neither DICOM nor NIfTI, nor lies beside such a file"


def _ending(out: Path, key: Path | None, skip_bad: bool) -> Path:
    """Say what became of the files, which the audit remembers.

    Raises:
        UserError: some were refused, and `skip_bad` is not set.
    """
    with open(out / "audit.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))[1:]
    written = {row[0] for row in rows if not row[0].startswith("#")}
    reasons = Counter(row[2].removeprefix(REFUSED) for row in rows if row[2].startswith(REFUSED))
    passed = sum(row[2].startswith(PASSED) for row in rows)
    lines = [f"{out}: {len(written)} files; what was done to each element is in audit.csv."]
    lines += [f"{passed} files are neither DICOM nor NIfTI and were passed over."] if passed else []
    lines += [f"{count} refused: {reason}" for reason, count in reasons.most_common()]
    if not reasons or (skip_bad and written):
        print("\n".join(lines))
        return out
    where = f"{key} lists their paths" if key else "audit.csv has their numbers in sorted order; with --key, that file lists their paths"
    raise UserError("\n".join([*lines, f"Nothing was written of refused files; {where}."]), "To end well without them: --skip_bad true")
