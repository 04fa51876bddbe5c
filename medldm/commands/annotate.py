"""Label maps for the cases of a cohort that have none, from those that have."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from medldm.cohort import Case, Cohort
from medldm.commands.linking import carry_records, link
from medldm.commands.progress import counted
from medldm.commands.within import device
from medldm.data.steps.torchio_augment import ORDINARY, Augment
from medldm.data.storing import structure_volumes
from medldm.errors import UserError
from medldm.files import sha256
from medldm.metrics.segmentation import dice
from medldm.models.segmenter import Segmenter
from medldm.randomness import seeded
from medldm.run import Run
from medldm.tracking import tracked
from medldm.training.data import Crops, contrasts, crop_size
from medldm.training.options import Training
from medldm.volume import Volume, read_volume, write_volume


def annotate(
    cohort: Path,
    out: Path,
    members: int = 3,
    widths: tuple[int, ...] = (32, 64, 128),
    training: Training = Training(steps=800),
    augment: Augment = ORDINARY,
    crop: tuple[int, int, int] | None = None,
    seed: int = 0,
) -> Cohort:
    """Predict the missing label maps of the splits "train" and "val", so that all images of a hospital can be trained on where few have labels.

    Networks learn from the training cases that have label maps, and the mean of their probabilities decides. The new cohort says which
    label maps are predicted; `evaluate --downstream` never takes them for real ones. Cases of the split "test" stay as they are.

    Args:
        cohort: a folder made by `prepare`.
        out: the new cohort; files that do not change are linked where the disk can, else copied.
        members: networks, which differ in initial weights and order.
        widths: of the networks, see `Segmenter`.
        training: length, batch, learning rates, precision of each.
        augment: random changes of the training crops.
        crop: voxels of a training crop; by default what fits every case, at most 64.
        seed: decides initial weights, order, crops and changes.

    Returns:
        The new cohort.
    """
    arguments = {name: value for name, value in locals().items() if name != "out"}
    source, out = Cohort.load(cohort), Path(out)
    training.check_trains()
    if members < 1:
        raise UserError(f"members={members}: at least one network is needed.")
    known, missing = _parts(source)
    images = contrasts(known)
    nets = [_new(images, len(source.labels), widths, seed + member) for member in range(members)]
    size = crop_size(known, nets[0].factor, crop)
    reads = {"cohort": source.fingerprint()}
    run = Run.claim(out, "annotate", arguments, reads)
    if run.finished:
        print(f"{out} is finished already.")
        return Cohort.load(out)
    with tracked(run, reads):
        print(f"{members} networks learn from {len(known)} cases; {len(missing)} lack a label map")
        for member, net in enumerate(nets):
            _train(net, known, size, training, augment, seed + member, run.root / "networks" / str(member))
        _judge(nets, source)
        cases = [_case(case, source, missing, nets, out) for case in counted(source.cases, len(source), "predicting")]
        carry_records(source.root, out)
        facts = {**source.facts, "predicted_labels": sorted(missing)}
        result = replace(source, root=out, cases=tuple(cases), parents={**source.parents, **reads}, facts=facts)
        result.save()
        run.finish(reads, ["cohort.csv", "cohort.json"])
    return result


def _parts(source: Cohort) -> tuple[Cohort, set[str]]:
    """The training cases that have a label map, and the names of cases that get one.

    Raises:
        UserError: there is nothing to learn from, or nothing to do.
    """
    if source.unit == "latent" or not source.labels:
        raise UserError(f"{source.root} has no labels.", "Give a cohort of images, some of which have label maps.")
    known = source.split("train").where(lambda case: bool(case.label))
    missing = {case.case for name in ("train", "val") for case in source.split(name) if not case.label}
    if not len(known):
        raise UserError(f"{source.root}: no training case has a label map.", "Prepare it with some that have.")
    if not missing:
        raise UserError(f"{source.root}: every case of the splits train and val has a label map.", "Train on it as it is.")
    return known, missing


def _new(images: int, labels: int, widths: Sequence[int], seed: int) -> Segmenter:
    with seeded(seed, "annotate"):
        return Segmenter(images, labels, tuple(widths))


def _train(net: Segmenter, known: Cohort, size: tuple[int, ...], training: Training, augment: Augment, seed: int, root: Path) -> None:
    """Train one network; one that was stopped goes on."""
    from medldm.training.fit import fit
    from medldm.training.segmentation import SegmentationTraining

    fit(SegmentationTraining(net, training, seed, size), Crops(known, size, training.batch, seed, augment), None, root, [], print)
    net.eval().to(device())


def _predict(nets: Sequence[Segmenter], image: torch.Tensor) -> torch.Tensor:
    """Label map [1 I J K] of an image [C I J K]: the class of the largest mean probability."""
    return torch.stack([net.probabilities(image[None].to(device())) for net in nets]).mean(0).argmax(1).float().cpu()


def _judge(nets: Sequence[Segmenter], source: Cohort) -> None:
    """Print how well label maps of held-out patients are found, if there are any."""
    held_out = [case for case in source.split("val") if case.label]
    rows = []
    for case in held_out:
        found = _predict(nets, read_volume(source.path(case.image)).data)[0].numpy()
        wanted = read_volume(source.path(case.label), "label").data[0].numpy()
        rows.append({name: dice(found, wanted, value) for value, name in sorted(source.labels.items())})
    known = {name: [row[name] for row in rows if row[name] is not None] for name in source.labels.values()}
    if told := ", ".join(f"{name} {np.mean(values):.3f}" for name, values in known.items() if values):
        print(f"Dice on {len(rows)} labelled cases of the split val: {told}")


def _case(case: Case, source: Cohort, missing: set[str], nets: Sequence[Segmenter], out: Path) -> Case:
    """A case of the new cohort, its files written."""
    for path in filter(None, (case.image, case.label)):
        link(source.path(path), out / path)
    if case.case not in missing:
        return case
    image = read_volume(source.path(case.image), source.unit)
    label = Volume(_predict(nets, image.data), image.affine, "label")
    relative = f"labels/{case.case}.nii.gz"
    write_volume(out / relative, label)
    covariates = {**case.covariates, **structure_volumes(label, source.labels)}
    return replace(case, label=relative, sha256=sha256(out / case.image, out / relative), covariates=covariates)
