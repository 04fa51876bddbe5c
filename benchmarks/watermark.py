"""What the watermark of images withstands, what it costs, and whether wrong keys ever find it.

    python benchmarks/watermark.py --data ../shared/data --out out/watermark [--hippocampi 50] [--heads 6] [--keys 10000]

Hippocampi are small (about 35 x 50 x 35 voxels), heads larger (120 x 120 x 90). Changes that move the image are undone by the search for
copies among all marked images, as `verify` does. A change is withstood where the score exceeds what a wrong key reaches in one of a million
searches among as many released images. Averaging takes 50 pairs of marked and unmarked images, and tries to remove and to forge a mark.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK
import torch
import torchio
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medldm.cohort import Case, Cohort
from medldm.metrics.base import Images
from medldm.models.segmenter import Segmenter
from medldm.privacy.traces import Tracer
from medldm.provenance.code import identity, key_of
from medldm.provenance.image_mark import ImageMark
from medldm.training.data import Crops, crop_size
from medldm.training.fit import fit
from medldm.training.options import Training
from medldm.training.segmentation import SegmentationTraining
from medldm.volume import Volume, read_volume, write_volume

SECRET = b"benchmark of the watermark......"
MARK = ImageMark()
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def through(save: Callable[[np.ndarray, str], None]) -> Change:
    """Save and load by other software."""

    def change(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            save(image, f"{folder}/x.nii.gz")
            return read_volume(Path(folder) / "x.nii.gz").data[0].numpy()

    return change


def _nibabel(image: np.ndarray, path: str) -> None:
    whole = np.rint((image + 1) * 500).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(whole, np.eye(4)), path)


def _itk(image: np.ndarray, path: str) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.rint((image + 1) * 500).astype(np.int16).transpose(2, 1, 0)), path)


def _torchio(image: np.ndarray, path: str) -> None:
    torchio.ScalarImage(tensor=torch.from_numpy(np.rint((image + 1) * 500).astype(np.int16))[None]).save(path)


def turned(image: np.ndarray, degrees: float, rng: np.random.Generator) -> np.ndarray:
    """Turned about a random axis."""
    axis = rng.normal(size=3)
    matrix = Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()
    middle = (np.array(image.shape) - 1) / 2
    return ndimage.affine_transform(image, matrix, middle - matrix @ middle, order=1, mode="nearest")


def biased(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A field that changes brightness by 30 % from side to side."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in image.shape), indexing="ij")
    return (image + 1) * np.exp(sum(w * axis for w, axis in zip(rng.uniform(-0.15, 0.15, 3), axes, strict=True))) - 1


def half(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """To voxels of twice the size and back."""
    small = ndimage.zoom(image, 0.5, order=1, mode="nearest")
    return ndimage.zoom(small, np.array(image.shape) / small.shape, order=1, mode="nearest")


def resampled(image: np.ndarray, down: Callable[[np.ndarray], np.ndarray], order: int) -> np.ndarray:
    """Smaller, and back by splines of an order; voxels are boxes that fill the same space before and after."""
    small = down(image)
    return ndimage.zoom(small, np.divide(image.shape, small.shape), order=order, mode="nearest", grid_mode=True)


def cut(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """To the box of what is not background, less 2 voxels on each side."""
    inside = ndimage.find_objects((image > -0.9).astype(int))[0]
    return image[tuple(slice(s.start + 2, s.stop - 2) for s in inside)]


IN_PLACE: dict[str, Change] = {
    "as it is": lambda x, rng: x,
    "int16, nibabel": through(_nibabel),
    "int16, SimpleITK": through(_itk),
    "int16, TorchIO": through(_torchio),
    "noise of 5 %": lambda x, rng: x + rng.normal(0, 0.1, x.shape),
    "blur of 1 voxel": lambda x, rng: ndimage.gaussian_filter(x, 1),
    "half the resolution": half,
    "half, by means": lambda x, rng: resampled(x, lambda y: ndimage.zoom(y, 0.5, order=1, mode="nearest", grid_mode=True), 1),
    "half, by splines": lambda x, rng: resampled(x, lambda y: ndimage.zoom(ndimage.gaussian_filter(y, 0.7), 0.5, mode="nearest", grid_mode=True), 3),
    "gamma 0.7 or 1.5": lambda x, rng: ((x + 1) / 2).clip(0, 1) ** rng.choice([0.7, 1.5]),
    "bias field": biased,
    "background zeroed": lambda x, rng: np.where(x < -0.85, -1, x),
}
MOVED: dict[str, Change] = {
    "cut": cut,
    "mirrored": lambda x, rng: np.flip(x, int(rng.integers(3))),
    "turned by 5 degrees": lambda x, rng: turned(x, 5, rng),
    "shifted by 5 voxels": lambda x, rng: ndimage.shift(x, rng.choice([-5, 5], 3), order=0, mode="nearest"),
}


def marked_cohort(root: Path, files: list[Path], spacing: float) -> tuple[Images, list[bytes], list[np.ndarray]]:
    """Marked images, their names, and what they were before."""
    cases, names, plain = [], [], []
    for number, path in enumerate(files):
        image = read_volume(path).data[0].numpy()
        low, high = np.percentile(image, (0.5, 99.5))
        image = (2 * (image - low) / (high - low) - 1).clip(-1, 1).astype(np.float32)
        name = identity(SECRET, number)
        marked = MARK.embed(image, key_of(SECRET, name), name)
        write_volume(root / f"{number}.nii.gz", Volume(torch.from_numpy(marked)[None], np.diag([spacing] * 3 + [1.0])))
        cases.append(Case(f"c{number}", "", "", f"{number}.nii.gz", shape=image.shape, spacing=(spacing,) * 3))
        names.append(name)
        plain.append(image)
    return Images(Cohort(root, tuple(cases))), names, plain


def detection(images: Images, names: list[bytes], moved: int) -> dict[str, float]:
    """Change -> share of images whose mark is found."""
    found, limit = {}, MARK.limit(3 * len(names))
    for title, change in IN_PLACE.items():
        rng = np.random.default_rng(0)
        scores = [MARK.score(change(images.image(i)[0], rng).astype(np.float32), key_of(SECRET, name), name) for i, name in enumerate(names)]
        found[title] = float(np.mean(np.array(scores) > limit))
        _print(title, found[title], scores, limit)
    tracer = Tracer(images, names, SECRET, MARK)
    for title, change in MOVED.items():
        rng, hits, scores = np.random.default_rng(0), [], []
        for i in range(min(moved, len(names))):
            changed = np.ascontiguousarray(change(images.image(i)[0], rng), dtype=np.float32)
            trace = tracer(Volume(torch.from_numpy(changed)[None], np.diag([*images.spacing(i), 1.0])))["voxels"]
            hits.append(trace.found and trace.index == i)
            scores.append(trace.score)
        found[title] = float(np.mean(hits))
        _print(title, found[title], scores, limit)
    return found


def _print(title: str, found: float, scores: list[float], limit: float) -> None:
    print(f"  {title:22s} found {found:6.1%}   score {np.mean(scores):5.1f}, least {np.min(scores):5.1f}, n={len(scores)} (limit {limit:.1f})")


def averaging(images: Images, names: list[bytes], plain: list[np.ndarray]) -> None:
    """Whether the mean of marks of other images takes one away or makes one."""
    size = np.min([image.shape for image in plain], axis=0)
    box = tuple(slice(0, n) for n in size)
    marks = []
    for number, image in enumerate(plain[:50]):
        name = identity(SECRET, "averaged", number)
        marks.append(MARK.embed(image[box], key_of(SECRET, name), name) - image[box])
    pattern = np.mean(marks, axis=0)
    pattern *= np.sqrt(np.mean(np.square(marks)) / np.mean(pattern**2))  # as strong as a mark
    victim = identity(SECRET, "victim")
    image = MARK.embed(plain[-1][box], key_of(SECRET, victim), victim)
    left = MARK.score(image - pattern, key_of(SECRET, victim), victim)
    forged = max(MARK.score(plain[-2][box] + pattern, key_of(SECRET, identity(SECRET, k)), identity(SECRET, k)) for k in range(200))
    print(f"  averaging {len(marks)} pairs: a mark still scores {left:.1f} after it (limit {MARK.limit(1):.1f})")
    print(f"  and an unmarked image at most {forged:.1f} with 200 keys (limit {MARK.limit(200):.1f})")


def volumes_change(files: list[Path], labels: list[Path], root: Path) -> float:
    """Largest relative change of the mean volume of a structure, as a network of 400 steps sees it, by marking."""
    cases = tuple(
        Case(f"c{i}", "", "train", str(image.absolute()), str(label.absolute()), shape=read_volume(image).shape, spacing=(1.0, 1.0, 1.0))
        for i, (image, label) in enumerate(zip(files, labels, strict=True))
    )
    cohort = Cohort(Path("/"), cases, labels={1: "anterior", 2: "posterior"})
    scaled = root / "scaled"
    for i, case in enumerate(cases):
        volume = read_volume(Path(case.image))
        low, high = np.percentile(volume.data.numpy(), (0.5, 99.5))
        write_volume(scaled / f"{i}.nii.gz", volume.with_data((2 * (volume.data - low) / (high - low) - 1).clamp(-1, 1)))
    cohort = replace(cohort, cases=tuple(replace(case, image=str((scaled / f"{i}.nii.gz").absolute())) for i, case in enumerate(cases)))
    train, rest = cohort.where(lambda case: int(case.case[1:]) % 2 == 0), cohort.where(lambda case: int(case.case[1:]) % 2)
    net = Segmenter(1, 2)
    crop = crop_size(train, net.factor, None)
    fit(SegmentationTraining(net, Training(steps=400), 0, crop), Crops(train, crop, 4, 0), None, root / "net", [], lambda line: None)
    net.eval()
    found = {True: [], False: []}
    for number, case in enumerate(rest):
        image, name = read_volume(Path(case.image)).data[0].numpy(), identity(SECRET, "segmented", number)
        for marked in found:
            shown = MARK.embed(image, key_of(SECRET, name), name) if marked else image
            label = net.probabilities(torch.from_numpy(shown)[None, None]).argmax(1)
            found[marked].append([int((label == value).sum()) for value in (1, 2)])
    before, after = np.array(found[False]).mean(0), np.array(found[True]).mean(0)
    return float(np.abs(after / before - 1).max())


def main() -> None:
    """Mark, change, look, and print the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hippocampi", type=int, default=50)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--moved", type=int, default=20, help="images of each kind that are moved")
    parser.add_argument("--keys", type=int, default=10000, help="wrong keys")
    options = parser.parse_args()
    small = sorted((options.data / "msd_hippocampus" / "images").glob("*.nii.gz"))
    large = sorted((options.data / "brains" / "ixi_hh_2mm" / "t1").glob("*.nii.gz"))
    worst, psnr = 1.0, np.inf
    for title, files, spacing in (("hippocampi", small[: options.hippocampi], 1.0), ("heads", large[: options.heads], 2.0)):
        images, names, plain = marked_cohort(options.out / title, files, spacing)
        costs = [10 * np.log10(np.ptp(x) ** 2 / np.mean((images.image(i)[0] - x) ** 2)) for i, x in enumerate(plain)]
        print(f"{title}, n={len(plain)}: PSNR {np.mean(costs):.1f} dB, least {np.min(costs):.1f}")
        worst, psnr = min(worst, *detection(images, names, options.moved).values()), min(psnr, np.min(costs))
        if title == "hippocampi":
            averaging(images, names, plain)
            wrong = [MARK.score(images.image(0)[0], key_of(b"another" * 5, k.to_bytes(8, "big")), names[0]) for k in range(options.keys)]
    hits = int((np.array(wrong) > MARK.limit(1)).sum())
    print(f"  {options.keys} wrong keys score at most {np.max(wrong):.2f} (limit for one {MARK.limit(1):.2f})")
    labels = [path.parents[1] / "labels" / path.name for path in small[:80]]
    print(f"  volumes of structures, 40 hippocampi: change by {volumes_change(small[:80], labels, options.out):.2%}")
    print(f"RESULT false_hits={hits} worst_detection={worst:.3f} psnr={psnr:.1f}")


if __name__ == "__main__":
    main()
