"""Whether surrogates can be linked to the patients in whose place they stand, and what is left of the use of the data.

    python benchmarks/identity.py --cohort C --run DIFFUSION --out out/identity [--count 60] [--first .92] [--group 10] [--likeness .05]

Before: copies of the cases as a second scan would give them (other noise, bias field, position by up to 5 degrees and 2 voxels) are linked to
them. After: surrogates of the same cases are. Each figure is that of the strongest of three attacks: details after alignment, wavelet
statistics, radiomics. The volumes of structures are compared over all cases.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medldm.cohort import Cohort
from medldm.commands.surrogate import surrogate
from medldm.files import write_csv
from medldm.metrics.base import Images
from medldm.metrics.features import Haar
from medldm.metrics.radiomics import Radiomics
from medldm.privacy.identity import Disguise
from medldm.privacy.linkage import Linkage, by_details, by_features
from medldm.volume import Volume, write_volume


def scanned_again(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image [I J K] as another scan of the same patient would show it."""
    axis = rng.normal(size=3)
    matrix = Rotation.from_rotvec(np.radians(rng.uniform(-5, 5)) * axis / np.linalg.norm(axis)).as_matrix()
    middle = (np.array(image.shape) - 1) / 2
    moved = ndimage.affine_transform(image, matrix, middle - matrix @ middle + rng.uniform(-2, 2, 3), order=1, mode="nearest")
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in image.shape), indexing="ij")
    bias = np.exp(sum(w * a for w, a in zip(rng.uniform(-0.15, 0.15, 3), axes, strict=True)))
    return ((moved + 1) * bias - 1 + rng.normal(0, 0.06, image.shape)).astype(np.float32)


def again(real: Cohort, root: Path) -> Cohort:
    """The cohort as second scans."""
    images = Images(real)
    for index, case in enumerate(images.cases):
        if not (root / case.image).is_file():
            scan = scanned_again(images.image(index)[0], np.random.default_rng(index))
            write_volume(root / case.image, Volume(torch.from_numpy(scan)[None], np.diag([*images.spacing(index), 1.0])))
            label = images.label(index)
            if label is not None:
                write_volume(root / case.label, Volume(torch.from_numpy(label)[None], np.diag([*images.spacing(index), 1.0]), "label"))
    return Cohort(root, images.cases, real.unit, real.labels, real.covariates)


def attacks(gallery: Images, probes: Images, truth: np.ndarray) -> dict[str, Linkage]:
    """Every attack."""
    found = {"details": by_details(gallery, probes, truth)}
    for features in (Haar(), Radiomics()) if gallery.labelled and probes.labelled else (Haar(),):
        found[features.name] = by_features(gallery, probes, truth, features)
    return found


def told(title: str, found: dict[str, Linkage]) -> tuple[float, float]:
    """Print all attacks; rank 1 and AUC of the strongest."""
    for name, linkage in found.items():
        first, mean, auc, error = linkage.scores(name)
        print(f"{title:18s}{name:14s} rank 1 {first.value:.3f} [{first.low:.3f}, {first.high:.3f}]  mAP {mean.value:.3f}  "
              f"AUC {auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]  EER {error.value:.3f}  {': '.join(linkage.answer())}")  # fmt: skip
    return max(float((f.ranks < 2).mean()) for f in found.values()), max(f.auc() for f in found.values())


def volumes(images: Images) -> dict[str, np.ndarray]:
    """Structure -> mm3 per case."""
    sizes = [np.prod(images.spacing(i)) for i in range(len(images))]
    return {name: np.array([(images.label(i) == value).sum() * size for i, size in enumerate(sizes)]) for value, name in images.cohort.labels.items()}


def main() -> None:
    """Make surrogates, link, and print the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--group", type=int, default=10)
    parser.add_argument("--first", type=float, default=0.92)
    parser.add_argument("--likeness", type=float, default=0.05)
    options = parser.parse_args()
    real = Cohort.load(options.cohort).split("train")
    cases = tuple(sorted({case.person: case for case in real}.values(), key=lambda case: case.case)[: options.count])
    names = [case.case for case in cases]
    gallery = Images(real.where(lambda case: case.case in names))
    before = told("scanned again", attacks(gallery, Images(again(gallery.cohort, options.out / "again")), np.arange(len(gallery))))
    links = options.out / "links.csv"
    disguise = Disguise(options.group, options.first, likeness=options.likeness)
    made = surrogate(options.cohort, options.run, options.out / "surrogates", disguise, names, links)
    found = dict(line.split(",") for line in links.read_text().splitlines()[1:] if not line.endswith(","))
    probes = Images(made)
    where = {name: case for case, name in found.items()}
    truth = np.array([[c.case for c in gallery.cases].index(where[case.case]) for case in probes.cases])
    after = told("surrogates", attacks(gallery, probes, truth))
    write_csv(options.out / "volumes.csv", [("structure", "real", "surrogates"), *_rows(gallery, probes)])
    for name, one, other in _rows(gallery, probes):
        print(f"{name}: mean {one:.0f} mm3 in real cases, {other:.0f} in surrogates ({other / one - 1:+.1%})")
    print(f"{len(probes)} of {len(gallery)} cases have a surrogate")
    print(f"RESULT rank1_before={before[0]:.3f} rank1_after={after[0]:.3f} auc_after={after[1]:.3f}")


def _rows(gallery: Images, probes: Images) -> list[tuple[str, float, float]]:
    one, other = volumes(gallery), volumes(probes)
    return [(name, float(one[name].mean()), float(other[name].mean())) for name in one]


if __name__ == "__main__":
    main()
