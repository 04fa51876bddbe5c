"""`medldm release`: the gate between a generated cohort and everybody else."""

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from medldm.cohort import Case, Cohort
from medldm.commands.opening import refuse_strangers
from medldm.commands.progress import shown
from medldm.data.dicom.rounding import rounded
from medldm.errors import UserError
from medldm.files import sha256, write_csv, write_text
from medldm.metrics.base import Images, write_scores
from medldm.privacy.audit import FEWEST, Audit, audit
from medldm.provenance.code import identity, key_of
from medldm.provenance.image_mark import ImageMark
from medldm.provenance.keys import MARKS, fingerprint, secret, signing_key
from medldm.provenance.manifest import SCHEMA, content_digest, sidecar, sign
from medldm.report.datasheet import datasheet
from medldm.run import Run
from medldm.tracking import tracked
from medldm.training.study import comparable
from medldm.volume import Volume, read_volume, write_volume

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def release(
    cohort: Path,
    training: Path,
    out: Path,
    key: Path,
    split: str = "test",
    mark: ImageMark | None = ImageMark(),
    override: str | None = None,
    seed: int = 0,
) -> Cohort:
    """Audit a generated cohort for copies of training cases, and write those that pass, marked and signed.

    Cases that are more like a training case than held-out patients are stay behind. Where they are too many, or the audit cannot tell, nothing
    is released (exit code 2); `audit.csv` and `metrics.csv` say why. Each image gets a watermark, and each file a signed manifest, inside and
    beside it, that `verify` reads.

    Args:
        cohort: a folder made by `generate`.
        training: the cohort of real cases that its model was trained on, with held-out patients.
        out: the released cohort, with a datasheet.
        key: private key (PEM) of whoever signs; a new one is made where there is none, and KEY.pub beside it is for everybody.
        split: held-out part of the training cohort: test or val.
        mark: the watermark of images; null for none.
        override: a reason to release although the audit did not pass, which the datasheet quotes; copies stay behind all the same.
        seed: of the audit.

    Returns:
        The released cohort.

    Raises:
        UserError: the audit did not pass, or the cohorts do not belong together.
    """
    # what is released says where nothing lay; fingerprints say what was read
    arguments = {name: value for name, value in locals().items() if name not in ("cohort", "training", "out", "key")}
    generated, real = Cohort.load(cohort), Cohort.load(training)
    usable = comparable(generated, real).where(lambda case: case.status == "ok")
    held_out = _held_out(real, split)
    refuse_strangers(real, generated, None)
    for part in (usable, real.where(lambda case: case.split in (split, "train"))):
        part.check_files(shown)
    _refuse_constant(Images(usable))
    signer = signing_key(key)
    reads = {"cohort": generated.fingerprint(), "training": real.fingerprint(), "key": fingerprint(signer.public_key().public_bytes_raw())}
    run = Run.claim(out, "release", arguments, reads)
    if run.finished:
        print(f"{run.root} is finished already.")
        return Cohort.load(run.root)
    with tracked(run, reads) as tracker:
        found = audit(Images(real.split("train")), Images(held_out), Images(usable), shown, seed)
        tracker.metrics({score.name: score.value for score in found.scores()})
        _write_audit(run.root, usable, found)
        _gate(found, run.root, override)
        kept = [case for case, copy in zip(usable, found.copies, strict=True) if not copy]
        cases = tuple(_released(usable, case, run.root, signer, mark, found, override) for case in shown(kept, "marking and signing"))
        result = _cohort(usable, cases, run.root, found, override)
        write_text(run.root / "datasheet.md", datasheet(result, real, found, mark, override, reads["key"]))
        shutil.copyfile(Path(f"{key}.pub"), run.root / "signer.pub")
        run.finish(reads, ["cohort.csv", "cohort.json", "audit.csv", "metrics.csv", "datasheet.md", "signer.pub"])
    print(f"{run.root}: {len(cases)} of {len(usable)} cases, signed by {reads['key']}. Pass signer.pub on by another way than the data.")
    return result


def _held_out(real: Cohort, split: str) -> Cohort:
    if split not in ("test", "val") or not len(real.split(split)):
        raise UserError(f"{real.root} has no usable case in the held-out split {split!r}.", "Give --split test or val, or another --training.")
    if len(people := real.split(split).people) < FEWEST:
        print(f"note: {len(people)} held-out patients; fewer than {FEWEST} leave the audit inconclusive")
    return real.split(split)


def _refuse_constant(images: Images) -> None:
    """Refuse, before the long search, images that cannot carry a watermark nor show anything; those that hold NaN are refused by being read."""
    for index, case in enumerate(images.cases):
        if np.ptp(images.image(index)) == 0:
            raise UserError(f"The image of {case.case} is the same everywhere.", "Generate it anew, or leave it out of the cohort.")


def _gate(found: Audit, root: Path, override: str | None) -> None:
    """Refuse where the audit did not pass and nobody takes it on."""
    state, reason = found.verdict()
    print(f"audit: {state}: {reason}")
    if state != "pass" and not override:
        raise UserError(
            f"The audit is {state}: {reason}. Nothing was released; see {root}/audit.csv.",
            "Train on more patients or for fewer steps; --override 'REASON' releases what is no copy all the same.",
        )


def _write_audit(root: Path, cases: Cohort, found: Audit) -> None:
    """Similarities case by case, without names of real ones, and the figures."""
    rows = zip(cases, found.generated, found.copies, strict=True)
    table = [("case", "similarity", "copy"), *((case.case, f"{similarity:.4f}", int(copy)) for case, similarity, copy in rows)]
    write_csv(root / "audit.csv", table)
    write_scores(root / "metrics.csv", found.scores(), "similarity of details to the most similar training case, after alignment")


def _released(
    source: Cohort, case: Case, root: Path, signer: "Ed25519PrivateKey", mark: ImageMark | None, found: Audit, override: str | None
) -> Case:
    """Write a case, marked and signed."""
    image = read_volume(source.path(case.image), source.unit)
    weights, (seed, index) = source.parents["diffusion"], source.facts["seeds"][case.case]
    hidden = secret(signer, MARKS)
    name = identity(hidden, weights, seed, index)
    if mark is not None:
        contrasts = [mark.embed(contrast.numpy(), key_of(hidden, name), name) for contrast in image.data]
        image = image.with_data(torch.stack([torch.from_numpy(contrast) for contrast in contrasts]))
    files = {"image": (case.image, image)}
    if case.label:
        files["label"] = (case.label, read_volume(source.path(case.label), "label"))
    state, reason = found.verdict()
    manifest = {
        "schema": SCHEMA, "id": name.hex(), "case": case.case, "synthetic": True, "created": time.strftime("%Y-%m-%d", time.gmtime()),
        "content": {role: content_digest(_stored(volume)) for role, (_, volume) in files.items()} | _as_dicom(image),
        "labels": {str(value): structure for value, structure in source.labels.items()} if case.label else {},
        "model": {"weights": weights, "training": source.parents.get("cohort", "")}, "seed": [seed, index],
        "conditions": {key: str(value) for key, value in case.covariates.items() if value is not None},
        "mark": {"kind": "image", "psnr": str(mark.psnr), "band": [str(f) for f in mark.band]} if mark else None,
        "audit": {"state": state, "reason": reason, "override": override},
    }  # fmt: skip
    envelope = sign(manifest, signer)
    for path, volume in files.values():
        write_volume(root / path, volume, envelope)
        write_text(sidecar(root / path), envelope.decode())
    return replace(case, sha256=sha256(*(root / path for path, _ in files.values())))


def _stored(volume: Volume) -> Volume:
    """A volume as it is read back: its place in the header's float32."""
    return replace(volume, affine=volume.affine.astype("float32").astype("float64"))


def _as_dicom(image: Volume) -> dict[str, str]:
    """Digests of the contrasts in the 16 bits in which `export` writes them as DICOM, so that these files can be verified too."""
    return {f"dicom_{n}": content_digest(contrast.volume) for n, contrast in enumerate(rounded(image), start=1)}


def _cohort(source: Cohort, cases: tuple[Case, ...], root: Path, found: Audit, override: str | None) -> Cohort:
    state, reason = found.verdict()
    facts = {
        "seeds": {case.case: source.facts["seeds"][case.case] for case in cases},
        "release": {"audit": state, "reason": reason, "override": override, "withheld": len(source) - len(cases)},
        **({"privacy": source.facts["privacy"]} if "privacy" in source.facts else {}),
    }
    result = replace(source, root=root, cases=cases, facts=facts)
    result.save()
    return result
