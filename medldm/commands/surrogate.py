"""`medldm surrogate`: synthetic cases in the place of real ones."""

import random
from collections.abc import Iterator
from pathlib import Path

from medldm.cohort import Case, Cohort
from medldm.commands.opening import refuse_strangers
from medldm.commands.progress import shown
from medldm.commands.within import device
from medldm.diffusion.model import LatentDiffusion, load_diffusion
from medldm.errors import UserError
from medldm.files import sha256, write_csv
from medldm.metrics.base import Images
from medldm.metrics.features import Haar
from medldm.metrics.radiomics import Radiomics
from medldm.privacy.catalogue import distinct, retrieved
from medldm.privacy.identity import Disguise, Surrogate, Surrogates
from medldm.randomness import keyed
from medldm.run import Run
from medldm.tracking import tracked
from medldm.volume import Volume, read_volume, write_volume

#: Position of a real case, and what stands in its place: image, label map, covariates; None where nothing does.
Made = Iterator[tuple[int, tuple[Volume, Volume | None, dict] | None]]


def surrogate(
    cohort: Path,
    run: Path,
    out: Path,
    disguise: Disguise = Disguise(),
    cases: list[str] | None = None,
    links: Path | None = None,
    catalogue: Path | None = None,
    grain: float = 0.0,
    seed: int = 0,
) -> Cohort:
    """Write synthetic cases that stand for real ones, to show or to pass on in their place.

    Each comes from a group of patients, not from one: it begins at their mean, made noisy, and has the volumes of another member. Those that
    are more like their source than different patients are like each other are made anew, or given up. With a catalogue nothing is made; each
    real case gets the generated case that shows most nearly the same, and near copies of any patient are left out. Numbers are drawn by lot, so
    that only the file of links leads back. Surrogates are unreleased: `release` audits, marks and signs them like generated cases.

    Args:
        cohort: real cases, those that the model was trained on.
        run: a run of `train-diffusion` on them.
        out: the synthetic cohort.
        disguise: how surrogates are made.
        cases: names of the cases that get one; all by default.
        links: file for who stands for whom, which leads back to patients; without it nobody can tell.
        catalogue: a cohort made by `generate` with that run, to choose from instead of making surrogates.
        grain: share of what decoding leaves out that is added as noise, see `generate`.
        seed: of noise and of whose volumes are taken.

    Returns:
        The synthetic cohort.

    Raises:
        UserError: too few patients, a file of links that exists, or cohort, run and catalogue do not belong together.
    """
    arguments = dict(cohort=cohort, run=run, disguise=disguise, cases=cases, catalogue=catalogue, grain=grain, seed=seed)
    whole = Cohort.load(cohort)
    real, model = _opened(whole, Path(run))
    reads = {"diffusion": sha256(Path(run) / "model.safetensors"), "cohort": whole.fingerprint()}
    source = Cohort.load(catalogue) if catalogue else None
    if source is not None and source.parents.get("diffusion") != reads["diffusion"]:
        raise UserError(f"{catalogue} was not made by {run}.", "Give a cohort that `generate` made with that run.")
    chosen = _chosen(real, cases)
    _refuse_links(links, Path(out))
    claimed = Run.claim(out, "surrogate", arguments, reads)
    if claimed.finished:
        print(f"{out} is finished already.")
        return Cohort.load(out)
    with tracked(claimed, reads) as tracker:
        made = _retrieved(Images(source), real, chosen, disguise) if source is not None else _made(model, real, chosen, disguise, grain, seed)
        written, pairs = _write(claimed.root, made, len(chosen))
        facts = {"seeds": {case.case: [seed, index] for index, case in enumerate(written)}, "release": "unreleased"}
        result = Cohort(claimed.root, tuple(written), "a.u.", model.labels, dict(model.units), reads, synthetic=True, facts=facts)
        result.save()
        if links:
            write_csv(Path(links), [("case", "surrogate"), *((real.cases[i].case, name) for i, name in pairs)])
        tracker.metrics({"surrogates": float(len(written)), "given_up": float(len(chosen) - len(written))})
        claimed.finish(reads, ["cohort.csv", "cohort.json"])
    print(f"{out}: {len(written)} surrogates; {len(chosen) - len(written)} cases have none, being too easily recognised.")
    return result


def _opened(cohort: Cohort, run: Path) -> tuple[Images, LatentDiffusion]:
    model = load_diffusion(run)
    refuse_strangers(cohort, None, run)
    if cohort.synthetic:
        raise UserError(f"{cohort.root} is synthetic already.", "Give the cohort of real cases.")
    return Images(cohort), model.to(device()).eval()


def _chosen(real: Images, names: list[str] | None) -> list[int]:
    """Positions of the cases that get a surrogate."""
    places = {case.case: index for index, case in enumerate(real.cases)}
    if names and (unknown := sorted(set(names) - set(places))):
        raise UserError(f"--cases: {real.cohort.root} has no usable case {unknown[0]!r}.")
    return [places[name] for name in names] if names else list(range(len(real)))


def _refuse_links(links: Path | None, out: Path) -> None:
    if links and Path(links).exists():
        raise UserError(f"--links: {links} exists.", "Give a new file.")
    if links and Path(links).resolve().is_relative_to(out.resolve()):
        raise UserError("--links would lie among the surrogates, and leads back to patients.", "Keep it elsewhere.")


def _made(model: LatentDiffusion, real: Images, chosen: list[int], disguise: Disguise, grain: float, seed: int) -> Made:
    surrogates = Surrogates(model, real, disguise, seed, shown)
    for index in shown(chosen, "surrogates"):
        found = surrogates.of(index)
        yield index, None if found is None else _volumes(model, found, grain, seed, index)


def _volumes(model: LatentDiffusion, found: Surrogate, grain: float, seed: int, index: int) -> tuple[Volume, Volume | None, dict]:
    affine = model.affine(found.image.shape[1:])
    image = model.grain(found.image, keyed(seed, "grain", index), grain) if model.grain is not None else found.image
    return Volume(image, affine), None if found.label is None else Volume(found.label, affine, "label"), found.covariates


def _retrieved(catalogue: Images, real: Images, chosen: list[int], disguise: Disguise) -> Made:
    if len(catalogue) < len(chosen):
        raise UserError(f"The catalogue has {len(catalogue)} cases, and {len(chosen)} are needed.", "Generate more, or name fewer --cases.")
    kept = distinct(catalogue, real, disguise.likeness, shown)
    if len(kept) < len(chosen):
        raise UserError(f"The catalogue has {len(kept)} cases that are like no patient, and {len(chosen)} are needed.", "Generate more.")
    taken = [{part.cases[i].case for i in places} for part, places in ((catalogue, kept), (real, chosen))]
    offered, asked = (Images(part.cohort.where(lambda case, of=of: case.case in of)) for part, of in zip((catalogue, real), taken, strict=True))
    features = [Haar(), Radiomics()] if offered.labelled and asked.labelled else [Haar()]
    for case, place in zip(asked.cases, retrieved(offered, asked, features), strict=True):
        found, root = offered.cases[place], offered.cohort
        label = read_volume(root.path(found.label), "label") if found.label else None
        yield next(i for i in chosen if real.cases[i].case == case.case), (read_volume(root.path(found.image)), label, found.covariates)


def _write(root: Path, made: Made, count: int) -> tuple[list[Case], list[tuple[int, str]]]:
    """Write surrogates under numbers drawn by lot; the cases, and for each real one the name of its surrogate or ""."""
    numbers = random.SystemRandom().sample(range(count), count)  # no seed, which would stand in config.yaml
    cases, pairs = [], []
    for number, (index, found) in zip(numbers, made, strict=False):
        name = f"surrogate-{number:06d}" if found else ""
        pairs.append((index, name))
        if found is None:
            continue
        image, label, covariates = found
        files = [f"images/{name}.nii.gz", *([f"labels/{name}.nii.gz"] if label else [])]
        for file, volume in zip(files, (image, label), strict=False):
            if volume is not None:
                write_volume(root / file, volume)
        digest = sha256(*(root / file for file in files))
        cases.append(Case(name, name, "", files[0], files[1] if label else "", digest, image.shape, image.spacing, covariates=covariates))
    return sorted(cases, key=lambda case: case.case), sorted(pairs)
