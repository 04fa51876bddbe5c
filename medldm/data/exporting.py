"""A cohort in the layout of nnU-Net v2 or of the Medical Segmentation Decathlon.

Training and validation cases become `imagesTr/` and `labelsTr/`, test cases `imagesTs/` and `labelsTs/`. What these layouts have no
place for stands in `covariates.csv` (patients, splits, covariates), so that `medldm prepare` reads back what was written.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from medldm.cohort import Case, Cohort
from medldm.errors import UserError
from medldm.files import atomic, write_csv, write_json
from medldm.volume import Volume, read_volume, write_volume

FOLDS = 5  # nnU-Net's own number


def exportable(cohort: Cohort, labelled: bool) -> Cohort:
    """The usable cases.

    Args:
        cohort: what is to be exported.
        labelled: True where the layout needs label maps.

    Raises:
        UserError: there are none, they are latents, label maps are missing, or labels have no clear names.
    """
    usable = cohort.where(lambda case: case.status == "ok")
    if not len(usable):
        raise UserError(f"{cohort.root} has no usable case.", "Prepare it again.")
    if cohort.unit == "latent":
        raise UserError(f"{cohort.root} holds latents, not images.", "Give the cohort of images.")
    without = [case.case for case in usable if not case.label]
    if without and len(without) < len(usable):
        raise UserError(
            f"{cohort.root}: {len(without)} of {len(usable)} cases have no label map, such as {without[0]!r}.",
            "Prepare a cohort of those that have one.",
        )
    if without and labelled:
        raise UserError(f"{cohort.root} has no label maps, which nnU-Net learns.", "Choose the format msd for images alone.")
    if not without and not cohort.labels:
        raise UserError(f"{cohort.root} has label maps, but no names of labels.", "Prepare it again.")
    _names(usable)
    return usable


def write_nnunet(cohort: Cohort, root: Path, name: str, done: Callable[[Case], None] = lambda case: None) -> None:
    """Write `dataset.json`, `splits_final.json` and one file per contrast, `<case>_0000.nii.gz` ...

    A contrast is called "CT" only where intensities are HU, else "noNorm": they are normalised already, and nnU-Net shall not do
    it again. The true names stand under "contrasts".

    Args:
        cohort: usable cases with label maps, from `exportable`.
        root: folder of the data set.
        name: its name.
        done: called after each case.
    """
    values = _consecutive(cohort)
    count = 0
    for case in cohort:
        part = _part(case)
        count = _write_channels(cohort, case, root / f"images{part}")
        _write_label(cohort, case, root / f"labels{part}/{case.case}.nii.gz", values)
        done(case)
    about = {
        "channel_names": {str(channel): "CT" if cohort.unit == "HU" else "noNorm" for channel in range(count)},
        "labels": {"background": 0, **{structure: value for value, structure in _names(cohort).items()}},
        "numTraining": sum(_part(case) == "Tr" for case in cohort),
        "file_ending": ".nii.gz",
        **_told(cohort, name, count),
    }
    if splits := folds(cohort):
        write_json(root / "splits_final.json", splits)
    write_csv(root / "covariates.csv", covariates_table(cohort))
    write_json(root / "dataset.json", about)  # last: with it the folder is a data set


def folds(cohort: Cohort) -> list[dict[str, list[str]]]:
    """Training and validation cases for cross-validation, by patient: nnU-Net's own folds would part the scans of a patient.

    The split "val" is the one fold where there is one, else real training patients are cut into five; generated cases are always
    for training. Empty with fewer than five real patients, or none to train on.
    """
    train, val = cohort.split("train"), cohort.split("val")
    if len(val):
        return [{"train": [case.case for case in train], "val": [case.case for case in val]}] if len(train) else []
    people = train.where(lambda case: not _generated(cohort, case)).people
    owners = [set(people[number::FOLDS]) for number in range(FOLDS)] if len(people) >= FOLDS else []
    return [{name: [c.case for c in train if (c.person in mine) == (name == "val")] for name in ("train", "val")} for mine in owners]


def _generated(cohort: Cohort, case: Case) -> bool:
    """True for cases that were added to a real cohort, whose paths are whole."""
    return cohort.synthetic or Path(case.image).is_absolute()


def write_msd(cohort: Cohort, root: Path, name: str, done: Callable[[Case], None] = lambda case: None) -> None:
    """Write `dataset.json` and one file a case, contrasts as its channels.

    Args:
        cohort: usable cases, with or without label maps, from `exportable`.
        root: folder of the data set.
        name: its name.
        done: called after each case.
    """
    values = _consecutive(cohort)
    count = 0
    for case in cohort:
        part = _part(case)
        _copy(cohort.path(case.image), root / f"images{part}/{case.case}.nii.gz")
        count = count or len(read_volume(cohort.path(case.image)).data)
        if case.label:
            _write_label(cohort, case, root / f"labels{part}/{case.case}.nii.gz", values)
        done(case)
    told = _told(cohort, name, count)
    train, test = ([case for case in cohort if _part(case) == part] for part in ("Tr", "Ts"))
    about = {
        "name": name,
        "tensorImageSize": "4D" if count > 1 else "3D",
        "modality": {str(n): "CT" if cohort.unit == "HU" else contrast for n, contrast in enumerate(told.get("contrasts") or ["image"] * count)},
        "labels": {"0": "background", **{str(value): structure for value, structure in _names(cohort).items()}},
        "numTraining": len(train),
        "numTest": len(test),
        "training": [{key: f"./{key}sTr/{case.case}.nii.gz" for key in ("image", "label") if key == "image" or case.label} for case in train],
        "test": [f"./imagesTs/{case.case}.nii.gz" for case in test],
        **told,
    }
    write_csv(root / "covariates.csv", covariates_table(cohort))
    write_json(root / "dataset.json", about)


def _part(case: Case) -> str:
    return "Ts" if case.split == "test" else "Tr"


def _names(cohort: Cohort) -> dict[int, str]:
    """Label value 1, 2, ... -> structure name of letters, digits and `_`; both layouts expect values without a gap."""
    names = {new: re.sub(r"\W+", "_", cohort.labels[old]).strip("_") for old, new in _consecutive(cohort).items()}
    if "" in names.values() or len({*names.values(), "background"}) <= len(names):
        raise UserError(f"{cohort.root}: the labels {', '.join(cohort.labels.values())} do not have a name each.", "Rename them.")
    return names


def _consecutive(cohort: Cohort) -> dict[int, int]:
    """Label value of the cohort -> 1, 2, ... in the same order; empty where it has no label maps."""
    labelled = any(case.label for case in cohort)
    return {old: new for new, old in enumerate(sorted(cohort.labels), start=1)} if labelled else {}


def _told(cohort: Cohort, name: str, count: int) -> dict[str, Any]:
    """What `dataset.json` says beyond its layout: readers of the layouts pass over keys that they do not know."""
    contrasts = [str(contrast) for contrast in cohort.facts.get("contrasts") or []]
    made = sum(_generated(cohort, case) for case in cohort)
    text = f"{'Synthetic cohort' if cohort.synthetic else 'Cohort'} of {len(cohort)} cases, written by medldm."
    told = {
        "name": name,
        "description": text,
        "synthetic": cohort.synthetic,
        "generated": made,
        "unit": cohort.unit,
        "fingerprint": cohort.fingerprint(),
    }
    return told | ({"contrasts": contrasts} if len(contrasts) == count else {})


def _write_channels(cohort: Cohort, case: Case, folder: Path) -> int:
    """One file per contrast; a single one is copied byte for byte.

    Returns:
        How many there are.
    """
    source = cohort.path(case.image)
    volume = read_volume(source)
    for channel in range(len(volume.data)):
        path = folder / f"{case.case}_{channel:04d}.nii.gz"
        if len(volume.data) == 1:
            _copy(source, path)
        elif not path.is_file():
            write_volume(path, volume.with_data(volume.data[channel : channel + 1]))
    return len(volume.data)


def _write_label(cohort: Cohort, case: Case, path: Path, values: dict[int, int]) -> None:
    """The label map with values without a gap; copied byte for byte where they are so already."""
    if all(old == new for old, new in values.items()):
        _copy(cohort.path(case.label), path)
    elif not path.is_file():
        label = read_volume(cohort.path(case.label), "label")
        table = torch.zeros(max(values) + 1)
        table[list(values)] = torch.tensor(list(values.values()), dtype=table.dtype)
        present = set(label.data.unique().int().tolist()) - {0}
        if strange := sorted(present - set(values)):
            raise UserError(f"{cohort.root}: the label map of case {case.case!r} has the value {strange[0]}, which has no name.", "Prepare it again.")
        write_volume(path, Volume(table[label.data.long()], label.affine, "label"))


def _copy(source: Path, path: Path) -> None:
    """Copy a file atomically; one that is there is whole."""
    if not path.is_file():
        with atomic(path) as temporary:
            shutil.copyfile(source, temporary)


def covariates_table(cohort: Cohort) -> list[tuple[object, ...]]:
    """`covariates.csv`: patients, splits and covariates; volumes of structures are measured anew from label maps."""
    measured = {f"volume_{structure}" for structure in cohort.labels.values()} if any(case.label for case in cohort) else set()
    names = sorted(set(cohort.covariates) - measured)
    rows = [(case.case, case.patient, case.split, *map(case.covariates.get, names)) for case in cohort]
    return [("case", "patient", "split", *names), *rows]
