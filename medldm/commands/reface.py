"""`medldm reface`: heads with faces that a model draws, in the place of those of patients."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from medldm.cohort import Case, Cohort
from medldm.commands.linking import carry_records, link
from medldm.commands.opening import SAME_SPACING
from medldm.commands.progress import counted
from medldm.commands.within import device
from medldm.diffusion.model import LatentDiffusion, load_diffusion
from medldm.errors import UserError
from medldm.files import sha256
from medldm.privacy.deface import region
from medldm.privacy.faces import Finding, look
from medldm.privacy.reface import Drawing, refaced
from medldm.randomness import keyed
from medldm.run import Run
from medldm.tracking import tracked
from medldm.training.data import contrasts
from medldm.volume import Volume, read_volume, write_volume


def reface(cohort: Path, run: Path, out: Path, drawing: Drawing = Drawing(), skip_bad: bool = False, seed: int = 0) -> Cohort:
    """Draw another face for every head that shows one; everything else stays as it is, to the bit.

    Tools that register, segment or strip heads expect a face, and fail on some heads whose face is air. A face that is drawn fits the head, and is
    not that of the patient. Cases in which no face was found stay as they are, and those in which it cannot be told are refused. Like defacing
    this is no anonymity: skull, ears and brain stay.

    Args:
        cohort: whole heads, made by `prepare`.
        run: a run of `train-diffusion` on whole heads that were prepared in the same way, of these or of other patients.
        out: the new cohort; files that do not change are linked where the disk can, else copied.
        drawing: how faces are drawn.
        skip_bad: leave out the cases in which it cannot be told where a face is, with a row that says why, instead of stopping.
        seed: of the noise that faces are made from.

    Returns:
        The new cohort.

    Raises:
        UserError: cohort and model do not fit, or it cannot be told where the face of a case is; nothing is written then.
    """
    arguments = dict(cohort=cohort, run=run, drawing=drawing, skip_bad=skip_bad, seed=seed)
    source, out, model = Cohort.load(cohort), Path(out), load_diffusion(Path(run)).to(device()).eval()
    cases = source.where(lambda case: case.status == "ok")
    _check_fit(cases, model)
    reads = {"cohort": source.fingerprint(), "diffusion": sha256(Path(run) / "model.safetensors")}
    if (out / "provenance.json").is_file() and Run.claim(out, "reface", arguments, reads).finished:
        print(f"{out} is finished already.")
        return Cohort.load(out)
    findings = {case.case: _look(source, case) for case in counted(cases.cases, len(cases), "looking for faces")}
    bad = {name: finding.doubt for name, finding in findings.items() if finding.doubt}
    if bad and not skip_bad:
        told = "; ".join(f"{name} {reason}" for name, reason in list(bad.items())[:5])
        raise UserError(f"{len(bad)} of {len(cases)} cases: {told}.", "To leave them out: --skip_bad true")
    claimed = Run.claim(out, "reface", arguments, reads)
    with tracked(claimed, reads) as tracker:
        written = [
            _case(source, case, findings.get(case.case), model, out, drawing, seed) for case in counted(source.cases, len(source), "drawing faces")
        ]
        carry_records(source.root, out)
        drawn = sorted(name for name, finding in findings.items() if finding.face)
        facts = {**source.facts, "refaced": {"diffusion": reads["diffusion"], "cases": drawn}}
        result = replace(source, root=out, cases=tuple(written), parents={**source.parents, "cohort": reads["cohort"]}, facts=facts)
        result.save()
        tracker.metrics({"faces_drawn": float(len(drawn)), "left_out": float(len(bad))})
        claimed.finish(reads, ["cohort.csv", "cohort.json"])
    kept = Counter(finding.status for finding in findings.values() if not (finding.doubt or finding.face))
    others = "".join(f"; {count} {status}, left as they are" for status, count in kept.items())
    print(f"{out}: {len(drawn)} faces drawn{others}{f'; {len(bad)} left out' if bad else ''}.")
    return result


def _check_fit(cases: Cohort, model: LatentDiffusion) -> None:
    """Refuse images of another kind than those of the model.

    Raises:
        UserError: they are latents or synthetic, have other channels, or voxels of another size.
    """
    if cases.unit == "latent" or cases.synthetic or not len(cases):
        raise UserError(f"{cases.root} holds no images of patients.", "Give a cohort made by `prepare`.")
    for case in cases:
        if np.abs(np.divide(case.spacing, model.spacing) - 1).max() > SAME_SPACING:
            wanted = "[" + ",".join(f"{s:g}" for s in model.spacing) + "]"
            raise UserError(
                f"{case.case} has voxels of {case.spacing} mm, the model of {model.spacing} mm.", f"Prepare it with --spacing '{wanted}'."
            )
    if contrasts(cases) != model.autoencoder.image_channels:
        raise UserError(f"Images of {cases.root} have {contrasts(cases)} contrasts, those of the model {model.autoencoder.image_channels}.")


def _look(source: Cohort, case: Case) -> Finding:
    """What the first contrast shows."""
    volume = read_volume(source.path(case.image), source.unit)
    return look(Volume(volume.data[:1], volume.affine, "a.u."))


def _case(source: Cohort, case: Case, finding: Finding | None, model: LatentDiffusion, out: Path, drawing: Drawing, seed: int) -> Case:
    """A case of the new cohort, its files written; one of another status than "ok" has no finding."""
    if finding and finding.doubt:
        return replace(case, status="face", reason=finding.doubt, image="", label="", sha256="")
    drawn = finding is not None and finding.face
    for path in filter(None, (case.label, "" if drawn else case.image)):
        link(source.path(path), out / path)
    if not finding or not drawn:
        return case
    volume = read_volume(source.path(case.image), source.unit)
    mask = region(volume.shape, volume.affine, np.array(finding.matrix))
    number = int(torch.randint(2**31, (), generator=keyed(seed, "reface", case.case)))
    label = read_volume(source.path(case.label), "label") if case.label else None
    write_volume(out / case.image, refaced(volume, mask, model, number, label, drawing))
    return replace(case, sha256=sha256(*(out / path for path in (case.image, case.label) if path)))
