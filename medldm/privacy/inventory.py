"""What a source holds: whose each file is, what identifies them, and the new names, before anything is written."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from medldm.data.dicom.archive import SUFFIXES
from medldm.data.dicom.foreign import distrust
from medldm.data.dicom.headers import is_dicom
from medldm.data.dicom.tags import text, whole
from medldm.data.sources import BadCase
from medldm.privacy import naming, nifti, objects
from medldm.privacy.identifiers import Identifiers, collect, collect_path
from medldm.privacy.nifti import suffix_of
from medldm.privacy.profile import Profile
from medldm.privacy.pseudonyms import Key, Secret
from medldm.privacy.slices import series_of


@dataclass
class Item:
    """A file of the source.

    Args:
        number: of the files in sorted order, from 1; what messages call it.
        path: where it lies.
        kind: "dicom", "nifti", or "" where it is neither.
        refused: why it is set aside, or "".
        identity: of its patient.
        study: UID of the study, or the label of the session.
        order: within a study.
        series: of a DICOM image that may be a part of a volume of the body; "" for others.
        target: path in the output without suffix, once it is known.
    """

    number: int
    path: Path
    kind: str = ""
    refused: str = ""
    identity: tuple[str, ...] = field(default=(), repr=False)
    study: str = field(default="", repr=False)
    order: tuple[Any, ...] = field(default=(), repr=False)
    series: str = field(default="", repr=False)
    target: str = ""
    patient: str = ""


@dataclass
class Inventory:
    """All files, and what is known of each patient.

    Args:
        items: in the order of their numbers.
        known: identity -> identifiers.
    """

    items: list[Item]
    known: dict[tuple[str, ...], Identifiers] = field(repr=False)


def files_of(root: Path) -> Iterator[Path]:
    """Files in sorted order; links to folders are not followed, and pipes and devices are no files."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        yield from (path for path in (Path(folder) / name for name in sorted(names)) if path.is_file())


def take(root: Path, profile: Profile) -> Iterator[tuple[Item, Identifiers]]:
    """Look at every file once, without its pixels."""
    for number, path in enumerate(files_of(root), start=1):
        item, own = Item(number, path), Identifiers()
        relative = PurePosixPath(path.relative_to(root).as_posix())
        try:
            if path.name != "DICOMDIR" and (is_dicom(path) or path.suffix.lower() in SUFFIXES):
                item.kind = "dicom"
                _look(item, own, profile)
            elif suffix_of(path.name) and (not path.name.lower().endswith(".json") or _has_volume(path)):
                label = naming.patient_of(relative, root)
                item.kind, item.identity, item.study = "nifti", ("nifti", label), naming.session_of(relative)
                for part in label.split("/"):
                    own.add("id" if len(part) > 2 else "value", part)  # a short one says nothing
                    own.add("words", part)
                nifti.collect(path, own)
        except BadCase as bad:
            item.refused = bad.reason
        collect_path([*relative.parts[:-1], naming._stem(relative.name) if item.kind == "nifti" else path.name.partition(".")[0], root.name], own)
        yield item, own


def inventory(found: list[tuple[Item, Identifiers]]) -> Inventory:
    """Bring together what was found of each patient."""
    known: dict[tuple[str, ...], Identifiers] = defaultdict(Identifiers)
    for item, own in found:
        if item.identity:
            known[item.identity].merge(own)
    return Inventory([item for item, _ in found], dict(known))


def assign(found: Inventory, root: Path, key: Key) -> None:
    """Give patients, studies and files their new names; the key remembers the first two.

    Args:
        found: gets the names.
        root: of the source.
        key: gets new patients and studies.
    """
    taken = {value for known in found.known.values() for value in (*known.values, *known.names)}
    for identity in sorted(found.known, key=lambda one: key.secret.digest("order", "\0".join(one))):
        name = key.name(identity, taken)
        studies: dict[str, list[Item]] = defaultdict(list)
        for item in found.items:
            if item.identity == identity and not item.refused:
                item.patient = name
                studies[item.study].append(item)
        for study, items in sorted(studies.items(), key=lambda entry: min((item.order for item in entry[1]), default=())):
            _name(items, name, study, root, key)


def volumes(found: Inventory) -> list[list[Item]]:
    """The files that may show a face, those together that form a volume."""
    groups: dict[tuple[Any, ...], list[Item]] = defaultdict(list)
    for item in sorted((item for item in found.items if not item.refused), key=lambda item: item.order):
        if item.series:
            groups[item.identity, item.study, item.series].append(item)
        elif item.kind == "nifti" and suffix_of(item.path.name).startswith(".nii"):
            groups[item.number,].append(item)
    return list(groups.values())


def fingerprint(root: Path, secret: Secret) -> str:
    """A figure that changes when files are added, taken away or written; it says nothing to those without the key."""
    listed = [f"{path.relative_to(root)}\0{path.stat().st_size}\0{path.stat().st_mtime_ns}" for path in files_of(root)]
    return secret.digest("source", "\n".join(listed)).hex()


def _look(item: Item, own: Identifiers, profile: Profile) -> None:
    """Read a header."""
    dataset = objects.read(item.path, pixels=False)
    with distrust(""):
        values = tuple(text(dataset, name) for name in ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate"))
        item.identity = ("dicom", *((values[0], values[1], "", "") if values[0] else ("", "", values[2], values[3])))
        item.study = text(dataset, "StudyInstanceUID")
        when = text(dataset, "StudyDate") + text(dataset, "StudyTime")
        series = (whole(dataset, "SeriesNumber"), text(dataset, "SeriesInstanceUID"), whole(dataset, "InstanceNumber"))
        item.order = (when, item.study, *series, item.number)
        item.series = series_of(dataset, item.path)
        own.encodings |= objects.encodings(dataset)
        collect(dataset, own, profile)


def _name(items: list[Item], patient: str, study: str, root: Path, key: Key) -> None:
    slices = sorted((item for item in items if item.kind == "dicom"), key=lambda item: item.order)
    for number, item in enumerate(slices, start=1):
        item.target = f"{patient}/{key.study(patient, study)}/{number:04d}"
    volumes: Counter[str] = Counter()
    groups: dict[str, str] = {}
    taken: set[tuple[str, str]] = set()
    for item in (item for item in items if item.kind == "nifti"):
        relative = PurePosixPath(item.path.relative_to(root).as_posix())
        suffix = suffix_of(item.path.name)
        stem = str(item.path)[: len(str(item.path)) - len(suffix)]
        if stem not in groups or (stem, suffix) in taken:  # a volume and what lies beside it keep one name; x.NII is another than x.nii
            base = naming.renamed(relative, patient, lambda session: key.study(patient, session), root)
            volumes[base] += 1
            groups[stem] = base if volumes[base] == 1 else f"{base}_{volumes[base]}"
        taken.add((stem, suffix))
        item.target = groups[stem]


def _has_volume(path: Path) -> bool:
    """True where a NIfTI file of the same name lies beside a .json file."""
    stem = str(path)[: -len(".json")]
    return any(Path(stem + suffix).is_file() for suffix in (".nii", ".nii.gz"))
