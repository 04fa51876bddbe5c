"""Does defacing remove the face, leave the brain, and recognise what it must not touch?

    python benchmarks/deface.py --data ../shared/data [--heads 30]

On every third of the 90 heads of IXI Hammersmith (the constants of the region were chosen on 30 of the others). A brain frame per head comes from
its DLMUSE label map alone: forward from occipital to frontal poles, right from the left to the right of these. Face voxels (eyes, nose, cheeks,
mouth, chin), by that and the image, not by the mask that is tested: head (above half of Otsu's threshold, largest part), at most 25 mm behind the
skin met from the front, more than 10 mm in front of the temporal poles, and lower than the brain above: within 15 mm of the midline, than 99 % of
the gyri recti, at its sides 5 mm (the roof of the orbit) lower than 99 % of the anterior and lateral orbital gyri. `all` is everything in front of
the temporal poles and lower than 99 % of these, with brows, frontal sinus and ethmoid close to the brain. Brain: every labelled voxel. `setback` is
how far the first tissue met from the front moves back, in columns of 2 x 2 mm that met face voxels before; where nothing is left in the column, it
is its whole depth.

Then: every third of them with its axes labelled wrongly (front to back, upside down, front and top exchanged), all once more after defacing, heads
defaced by others, bodies, and two contrasts of one session, which have to give the same region. Seconds are the processor's, one thread.
"""

import argparse
import statistics
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from skimage.filters import threshold_otsu

from medldm.data.dicom.archive import find_series
from medldm.data.itk import read_image
from medldm.privacy.deface import FaceReport, deface, face_mask, region
from medldm.volume import Volume, read_volume

FRONTAL, OCCIPITAL, TEMPORAL, ORBITAL = (120, 121), (156, 157), (202, 203), (104, 105, 136, 137)  # right is even
RECTUS = (124, 125)
OTHERS = (
    "head_mri/*/*.nii.gz",
    "brains/open_ms_mni_1mm/*brain*.nii.gz",
    "ct/*/*small.mha",
    "ct/totalsegmentator/example_ct*.nii.gz",
    "ct/totalsegmentator/example_mr_sm.nii.gz",
    "ct/totalsegmentator/*ct_cropped.nii.gz",
    "msd_hippocampus/images/hippocampus_001.nii.gz",
)


def head_of(image: np.ndarray) -> np.ndarray:
    """The largest part above half of Otsu's threshold."""
    parts, _ = ndimage.label(image > threshold_otsu(image) / 2)
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])


def frame(label: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right, forward and up as rows [3 3], and the coordinates of every voxel along them in mm [3 I J K]."""
    position = np.moveaxis(np.indices(label.shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    centre = {value: position[label == value].mean(0) for value in (*FRONTAL, *OCCIPITAL)}
    forward = centre[120] + centre[121] - centre[156] - centre[157]
    forward /= np.linalg.norm(forward)
    right = centre[120] - centre[121] + centre[156] - centre[157]
    right -= forward * (right @ forward)
    right /= np.linalg.norm(right)
    axes = np.stack([right, forward, np.cross(right, forward)])
    return axes, np.moveaxis(position @ axes.T, -1, 0)


def face_voxels(head: np.ndarray, label: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The face as stated above, and all of the head before the temporal poles and below the lateral orbital gyri [I J K] each."""
    right, forward, up = along
    before = head & (forward > forward[np.isin(label, TEMPORAL)].max() + 10)
    orbits, nose = (np.percentile(up[np.isin(label, which)], 1) for which in (ORBITAL, RECTUS))
    middle = np.abs(right - right[np.isin(label, RECTUS)].mean()) < 15
    below = up < np.where(middle, nose, orbits - 5)
    names = columns(along)
    skin = first(names, forward, head)[names]
    return before & below & (forward > skin - 25), before & (up < orbits)


def columns(along: np.ndarray) -> np.ndarray:
    """A number for each column of 2 x 2 mm seen from the front [I J K]."""
    right, _, up = along
    _, names = np.unique(np.rint(right / 2).astype(int) * 10000 + np.rint(up / 2).astype(int), return_inverse=True)
    return names.reshape(right.shape)


def first(names: np.ndarray, forward: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The foremost coordinate of what is met in each column, -inf where nothing is."""
    result = np.full(names.max() + 1, -np.inf)
    np.maximum.at(result, names[where], forward[where])
    return result


def setback(head: np.ndarray, face: np.ndarray, mask: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Millimetres by which the first tissue from the front moves back, one for each column that met face [n]."""
    forward, names = along[1], columns(along)
    before, after, hindmost = first(names, forward, head), first(names, forward, head & ~mask), -first(names, -forward, head)
    met = (first(names, forward, face) == before) & np.isfinite(before)
    return before[met] - np.maximum(after, hindmost)[met]


def wrong(volume: Volume) -> dict[str, Volume]:
    """The head with its affine kept and its voxels moved: front to back, upside down, front and top exchanged."""
    codes = [{"L": "R", "P": "A", "I": "S"}.get(code, code) for code in volume.orientation]
    front, top = 1 + codes.index("A"), 1 + codes.index("S")
    moved = {"front to back": volume.data.flip(front), "upside down": volume.data.flip(top), "exchanged": volume.data.transpose(front, top)}
    return {name: volume.with_data(data.contiguous()) for name, data in moved.items()}


def line(name: str, report: FaceReport) -> None:
    """One row of the table."""
    print(
        f"{name[:44]:44s} {report.status:18s} similarity {report.similarity:.3f} rival {report.rival:.3f} in view {report.in_view:.2f} "
        f"front {report.front:.2f} removed {report.removed:.3f}",
        flush=True,
    )


def heads(folder: Path, count: int) -> dict[str, list[float]]:
    """Measure the heads, their wrong labellings and their second defacing."""
    images, labels = sorted((folder / "t1").iterdir())[::3][:count], sorted((folder / "dlmuse_seg").iterdir())[::3][:count]
    found: dict[str, list[float]] = {name: [] for name in ("removed", "face", "all", "brain", "least", "median", "seconds", "similarity", "share")}
    statuses: dict[str, Counter] = {}
    for image, segmented in zip(images, labels, strict=True):
        volume, label = read_volume(image), read_volume(segmented, unit="label").data[0].numpy()
        began = time.process_time()
        result, report = deface(volume)
        found["seconds"].append(time.process_time() - began)
        mask = region(volume.shape, volume.affine, np.array(report.matrix)) if report.defaced else np.zeros(volume.shape, bool)
        head = head_of(volume.data[0].numpy())
        _, along = frame(label, volume.affine)
        face, everything = face_voxels(head, label, along)
        back = setback(head, face, mask, along)
        found["removed"].append(float(report.defaced))
        found["face"].append(float(mask[face].mean()))
        found["all"].append(float(mask[everything].mean()))
        found["brain"].append(float((result.data[0].numpy() != volume.data[0].numpy())[label > 0].mean()))
        found["least"].append(float(np.percentile(back, 1)))
        found["median"].append(float(np.median(back)))
        found["similarity"].append(report.similarity)
        found["share"].append(report.removed)
        for name, other in {"again": result, **(wrong(volume) if len(found["face"]) % 3 == 1 else {})}.items():
            statuses.setdefault(name, Counter())[deface(other)[1].status] += 1
    for name, values in found.items():
        print(f"{name:12s} mean {statistics.fmean(values):.5f} lowest {min(values):.5f} highest {max(values):.5f} n={len(values)}")
    for name, counts in statuses.items():
        print(f"{name:14s} {dict(counts)}")
    right = sum(counts["already defaced" if name == "again" else "wrong orientation"] for name, counts in statuses.items())
    found["recognised"] = [right, sum(counts.total() for counts in statuses.values())]
    return found


def main() -> None:
    """Print the tables and the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--heads", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = heads(options.data / "brains/ixi_hh_2mm", options.heads)
    for pattern in OTHERS:
        for path in sorted(options.data.glob(pattern)):
            line(path.name, deface(read_image(path, "HU" if "ct" in path.parts and "_mr_" not in path.name else "a.u."))[1])
    masks = []
    for series in ("mr_siemens_xa30_enhanced_t1_face", "ct_ge_head_gantry_tilt"):
        for case in find_series(options.data / "dicom" / series).cases:
            mask, report = face_mask(case.images[0].read())
            masks.append(mask)
            line(f"{series} {case.case}", report)
    overlap = 2 * (masks[0] & masks[1]).sum() / max(masks[0].sum() + masks[1].sum(), 1)
    print(f"Dice of the regions of two contrasts of one session: {overlap:.4f}")
    mean, right = {name: statistics.fmean(values) for name, values in found.items()}, found["recognised"]
    print(
        f"RESULT face_removed={mean['face']:.5f} brain_touched={mean['brain']:.6f} seconds={mean['seconds']:.2f} "
        f"face_worst={min(found['face']):.5f} brain_worst={max(found['brain']):.6f} setback_p1={min(found['least']):.1f}mm "
        f"recognised={right[0]:.0f}/{right[1]:.0f} n={len(found['face'])}"
    )


if __name__ == "__main__":
    main()
