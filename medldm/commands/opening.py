"""What an evaluation reads: opened, and refused early where it cannot be compared."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medldm.cohort import Cohort
from medldm.commands.within import device
from medldm.diffusion.canaries import Canaries, Canary
from medldm.diffusion.model import load_diffusion
from medldm.errors import UserError
from medldm.files import read_json, sha256
from medldm.metrics.base import Images
from medldm.metrics.features import Features, Haar
from medldm.metrics.radiomics import Radiomics
from medldm.metrics.temporal import FEWEST as FEWEST_TIMES
from medldm.models.autoencoder import Autoencoder
from medldm.models.features import load_features
from medldm.report.downstream import Study
from medldm.report.evaluation import Evaluation
from medldm.report.network_features import NetworkFeatures
from medldm.report.privacy import Privacy
from medldm.report.reconstruction import Judged, check_fit
from medldm.report.synthesis import Synthesis
from medldm.run import load_model
from medldm.training.data import contrasts
from medldm.training.study import Downstream, comparable

Progress = Callable[[Iterable, str], Iterable]
SAME_SPACING = 0.05  # largest relative difference between voxel sizes that are compared index by index


@dataclass(frozen=True)
class Wanted:
    """What `evaluate` is asked for; see there."""

    reference: Path
    generated: Path | None
    autoencoder: Path | None
    split: str
    independent: bool
    networks: list[Path]
    downstream: Downstream | None
    series: bool
    judged: Judged
    bounded: bool
    seed: int
    jobs: int = 1
    privacy: bool = False
    diffusion: Path | None = None

    def open(self, progress: Progress) -> Evaluation:
        """Everything that is to be evaluated.

        Args:
            progress: takes steps and a title, and gives the steps one after the other.

        Raises:
            UserError: an option has nothing to work on, a file is not as it was written, or cohorts cannot be compared.
        """
        self._check_options()
        real = Cohort.load(self.reference)
        if real.unit == "latent":
            raise UserError(f"{self.reference} holds latents, not images.", "Give the cohort of images that they were made from.")
        held_out, training = Images(real.split(self.split)), Images(real.split("train"))
        if not len(held_out):
            raise UserError(
                f"{self.reference} has no usable case in the split {self.split!r}.", "Give another --split, or prepare the cohort with one."
            )
        _refuse_predicted(real, held_out, self.split)
        self.judged.check(held_out)
        generated = comparable(Cohort.load(self.generated), real) if self.generated else None
        model = _autoencoder(self.autoencoder, held_out) if self.autoencoder else None
        if not self.independent:
            refuse_strangers(real, generated, self.autoencoder)
        for cohort in (real.where(lambda case: case.split in (self.split, "train")), generated):
            if cohort:
                cohort.check_files(progress)
        synthesis = self._synthesis(generated, held_out, training, progress) if generated else None
        study = self._study(real, generated) if self.downstream and generated else None
        privacy = self._privacy(training, held_out, generated) if self.privacy and generated else None
        named = {"reference": self.reference, "generated": self.generated, "autoencoder": self.autoencoder}
        folders = {role: Path(folder) for role, folder in named.items() if folder}
        on = f"split {self.split} of cohort {real.fingerprint()[:12]}", f"generated cohort {generated.fingerprint()[:12]}" if generated else ""
        return Evaluation(folders, self.split, on, self.seed, held_out, model, synthesis, study, privacy, self.judged)

    def _check_options(self) -> None:
        """Refuse options that nothing here would follow."""
        if self.generated is None and self.autoencoder is None:
            raise UserError("There is nothing to evaluate.", "Give --generated COHORT, --autoencoder RUN, or both.")
        if self.generated is None and self.downstream:
            raise UserError("--downstream compares generated with real cases; there are none.", "Give --generated COHORT.")
        needs: dict[str, tuple[object, dict[str, object]]] = {
            "--generated COHORT": (self.generated, {"features": self.networks, "series": self.series, "privacy": self.privacy}),
            "--privacy true": (self.privacy or None, {"diffusion": self.diffusion}),
            "--autoencoder RUN": (
                self.autoencoder,
                {"inside": self.judged.inside, "lesions": self.judged.lesions, "memory or offload": self.bounded},
            ),
        }
        for needed, (there, options) in needs.items():
            if there is None and (idle := next((name for name, value in options.items() if value), None)):
                raise UserError(f"--{idle} is for {needed.split()[0]}, which is not given.", f"Give {needed}, or leave it away.")

    def _synthesis(self, generated: Cohort, held_out: Images, training: Images, progress: Progress) -> Synthesis:
        _refuse_other_images(generated, held_out.cohort)
        if self.series and contrasts(generated) < FEWEST_TIMES:
            raise UserError(
                f"--series: images of {generated.root} have {contrasts(generated)} time points, {FEWEST_TIMES} are needed.", "Leave it away."
            )
        unseen = self.split != "train" and len(training) > 0
        features = _features(self.networks, generated, held_out, progress)
        return Synthesis(Images(generated), held_out, training if unseen else None, self.seed, features, self.series, not self.independent)

    def _privacy(self, training: Images, held_out: Images, generated: Cohort) -> Privacy:
        """What is audited.

        Raises:
            UserError: the reference does not hold the training patients and others, or the model is another one.
        """
        if self.independent or self.split == "train" or not len(training):
            found = "--privacy compares with the patients that the model was trained on, and with others"
            raise UserError(f"{found}.", "Give the cohort that it was trained on as --reference, with a held-out --split.")
        model, facts = None, dict[str, Any]()
        if self.diffusion:
            model, facts = load_diffusion(self.diffusion), read_json(self.diffusion / "provenance.json").get("facts", {})
            if generated.parents.get("diffusion") != sha256(self.diffusion / "model.safetensors"):
                raise UserError(f"{generated.root} was not made by {self.diffusion}.", "Give the run that `generate` was given.")
        made = Images(generated)
        claimed = (facts["privacy"]["epsilon"], facts["privacy"]["delta"]) if "privacy" in facts else None
        return Privacy(made, training, held_out, model.to(device()).eval() if model else None, _candidates(facts, training), claimed, self.seed)

    def _study(self, real: Cohort, generated: Cohort) -> Study:
        """What a downstream study is made of.

        Raises:
            UserError: patients of the test may have been trained on, or label maps are missing.
        """
        settings = self.downstream or Downstream()
        if self.independent or self.split == "train":
            raise UserError(
                "Patients of the test may have been trained on: --downstream needs the cohort of the generator, and a split that it did not see.",
                "Leave --independent away, and test on the split test or val.",
            )
        made = generated.where(lambda case: case.status == "ok")
        if not settings.covariate and not (real.labels and all(case.label for cohort in (made, real.split(self.split)) for case in cohort)):
            raise UserError("--downstream segments labels, and some cases have no label map.", "Set downstream.covariate, or generate with labels.")
        study = Study.of(settings, real, made, self.jobs)
        settings.arms(len(study.train.people))
        return study


def _candidates(facts: dict[str, Any], training: Images) -> list[Canary]:
    """What may have been planted in a training, by what its run says."""
    said = facts.get("canaries")
    return Canaries(said["count"], said["copies"]).draw(training.patients, said["seed"]) if said else []


def _refuse_predicted(real: Cohort, held_out: Images, split: str) -> None:
    predicted = {case.case for case in held_out.cases} & set(real.facts.get("predicted_labels", ()))
    if predicted:
        found = f"Label maps of {len(predicted)} of {len(held_out)} cases of the split {split!r} of {real.root} are predicted by `annotate`"
        raise UserError(f"{found}; nothing can be judged by them.", "Evaluate on the split test, whose label maps are left as they are.")


def _refuse_other_images(generated: Cohort, real: Cohort) -> None:
    """Refuse images of other contrasts or voxel sizes: features and copies are compared voxel by voxel.

    Raises:
        UserError: they differ.
    """
    ours, theirs = contrasts(generated.where(lambda case: case.status == "ok")), contrasts(real)
    if ours != theirs:
        raise UserError(f"Images of {generated.root} have {ours} contrasts, those of {real.root} {theirs}.", "Give cohorts of the same contrasts.")
    sizes = [np.median([case.spacing for case in cohort if case.spacing], axis=0) for cohort in (generated, real)]
    if np.shape(sizes[0]) == np.shape(sizes[1]) == (3,) and (np.abs(sizes[0] / sizes[1] - 1) > SAME_SPACING).any():
        told = [" x ".join(f"{s:g}" for s in size) for size in sizes]
        found = f"Voxels of {generated.root} are {told[0]} mm, those of {real.root} {told[1]} mm (medians)"
        raise UserError(f"{found}; they cannot be compared.", "Prepare the reference with --spacing of the generated cohort.")


def _features(networks: list[Path], synthetic: Cohort, held_out: Images, progress: Progress) -> list[Features]:
    """What distances are measured in."""
    labelled = held_out.labelled and all(case.label for case in synthetic if case.status == "ok")
    found: list[Features] = [Haar(), Radiomics()] if labelled else [Haar()]
    found += [NetworkFeatures(load_features(path).to(device()), progress) for path in networks]
    if twice := next((f.name for i, f in enumerate(found) if f.name in {g.name for g in found[:i]}), None):
        raise UserError(f"features: {twice!r} is given twice.", "Give each network once; of several `train-features` runs, one.")
    return found


def refuse_strangers(real: Cohort, synthetic: Cohort | None, autoencoder: Path | None) -> None:
    """Refuse what goes back to another cohort: patients held out here may have been trained on there."""
    origins = {}
    if autoencoder:
        origins[autoencoder] = read_json(autoencoder / "provenance.json").get("reads", {}).get("cohort")
    if synthetic:
        origins[synthetic.root] = synthetic.parents.get("cohort")
    for folder, origin in origins.items():
        if origin != real.fingerprint():
            found = f"{folder} goes back to another cohort ({str(origin)[:12]}) than {real.root} ({real.fingerprint()[:12]})"
            fix = "Give the cohort that it was trained on, or --independent true if they share no patient."
            raise UserError(f"{found}; it may have seen these patients.", fix)


def _autoencoder(root: Path, images: Images) -> Autoencoder:
    model = load_model(root)
    if not isinstance(model, Autoencoder):
        raise UserError(f"{root} holds a {type(model).__name__}, not an autoencoder.", "Give a folder of `medldm train-autoencoder`.")
    check_fit(model, images)
    return model.to(device())
