"""What whoever receives a released cohort has to know, in words."""

import math
from importlib.metadata import version
from typing import Any

from medldm.cohort import Cohort
from medldm.privacy.audit import Audit
from medldm.provenance.image_mark import ImageMark

LIMITS = (
    "The images are synthetic and show no patient; they are smoother than real ones, and rare findings may be missing.",
    "The audit searches for copies of whole images. It does not rule out that a model gives away who was among its training patients, or "
    "that a detail of a patient is repeated.",
    "A watermark tells where an image comes from when everything else is lost. Whoever wants to can remove it; nobody without the key can "
    "forge the signature.",
    "Not for diagnosis, and not a medical device.",
)


def datasheet(released: Cohort, real: Cohort, found: Audit, mark: ImageMark | None, override: str | None, signer: str) -> str:
    """The datasheet (after Gebru et al. 2021) of a released cohort, as Markdown.

    Args:
        released: what was written.
        real: what the model was trained on; no name of a case or patient is told.
        found: the audit.
        mark: the watermark, or None.
        override: why a cohort was released that did not pass, or None.
        signer: fingerprint of the public key.
    """
    state, reason = found.verdict()
    spacing = " x ".join(f"{s:g}" for s in released.cases[0].spacing) if len(released) else "?"
    train, withheld = real.split("train"), released.facts["release"]["withheld"]
    parts = {
        "Data": [
            f"{len(released)} synthetic cases, voxels of {spacing} mm, unit {released.unit}.",
            f"Structures in the label maps: {', '.join(released.labels.values()) or 'none'}.",
            f"Covariates, as they were asked for: {', '.join(f'{k} ({u})' if u else k for k, u in released.covariates.items()) or 'none'}.",
        ],
        "Model": [
            f"A latent diffusion model of medldm {version('medldm')}, weights sha256 {released.parents.get('diffusion', '?')}.",
            f"Trained on {len(train)} images of {len(train.people)} patients (cohort {real.fingerprint()[:12]}).",
            _privacy(released.facts.get("privacy")),
        ],
        "Audit": [
            f"**{state}**: {reason}.",
            *([f"Released all the same, because: {override}"] if override and state != "pass" else []),
            f"{withheld} cases were copies or could not be told from copies, and were withheld.",
            *(
                f"{score.name}: {score.value:.3f}" + (f" [{score.low:.3f}, {score.high:.3f}]" if math.isfinite(score.low) else "") + f", n={score.n}"
                for score in found.scores()
            ),
        ],
        "Marks": [
            f"Every file carries a manifest signed by {signer} (Ed25519), inside and beside it: `medldm verify FOLDER --trust signer.pub`.",
            f"Images carry a watermark of 64 bits at {mark.psnr} dB." if mark else "Images carry no watermark.",
        ],
        "Limits": list(LIMITS),
    }
    return "# Datasheet\n" + "".join(f"\n## {title}\n\n" + "\n".join(f"* {line}" for line in lines) + "\n" for title, lines in parts.items())


def _privacy(budget: dict[str, Any] | None) -> str:
    """What the record of a private training promises, see `medldm.training.budget`."""
    if budget is None:
        return "Trained without differential privacy."
    epsilon, delta, noise, clip, rate, steps = (budget[name] for name in ("epsilon", "delta", "noise_multiplier", "clip", "sample_rate", "steps"))
    return (
        f"Differential privacy of a {budget['unit']}: epsilon {epsilon:.3g} at delta {delta:.2g} (DP-SGD, {steps} steps, sample rate {rate:.3g}, "
        f"clip {clip:g}, noise multiplier {noise:.3g}, accountant {budget['accountant']}). It covers {budget['covers']}."
    )
