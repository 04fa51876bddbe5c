"""Whether faces that a model draws can be linked to those of the patients, and whether they are found to be faces.

    python benchmarks/reface.py --cohort HEADS --run DIFFUSION --out out/reface [--split test]

Before: faces of copies of the heads as a second scan would give them (other noise, bias field, position by up to 5 degrees and 2 voxels) are
compared with those of all heads, after both were laid over the average head: correlation of what is left of the face region when the mean face is
taken away. After: faces that were drawn are. Pictures of heads are written to --out alone; they show recognisable people.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from identity import scanned_again
from scipy import ndimage

from medldm.cohort import Cohort
from medldm.diffusion.model import load_diffusion
from medldm.metrics.base import Images
from medldm.metrics.bootstrap import share_interval
from medldm.privacy.deface import emptied, judge, region
from medldm.privacy.head_position import find_head
from medldm.privacy.head_template import in_face
from medldm.privacy.linkage import Linkage
from medldm.privacy.reface import refaced
from medldm.volume import Volume

STEP_MM, SIDES = 4.0, ((-90.0, 90.0), (0.0, 130.0), (-150.0, 60.0))  # of the average head


def face(volume: Volume, matrix: np.ndarray) -> np.ndarray:
    """Intensities in the face region of the average head [n], -1 outside of the field of view."""
    x, y, z = np.meshgrid(*(np.arange(*side, STEP_MM) for side in SIDES), indexing="ij")
    places = np.stack([x, y, z, np.ones_like(x)])[:, in_face(x, y, z)]
    index = np.linalg.solve(volume.affine, matrix @ places)[:3]
    return ndimage.map_coordinates(volume.data[0].numpy(), index, order=1, mode="constant", cval=-1.0)


def linked(gallery: np.ndarray, probes: np.ndarray) -> Linkage:
    """Correlations of what sets faces apart [probes, gallery]."""
    one, other = (rows - gallery.mean(0) for rows in (probes, gallery))
    one, other = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (one, other))
    return Linkage(one @ other.T, np.arange(len(probes)))


def main() -> None:
    """Look, draw, compare, and print the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", default="test")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    images, model = Images(Cohort.load(options.cohort).split(options.split)), load_diffusion(options.run).eval()
    rows, touched, found, seconds, shown = [], [], [], [], []
    for index in range(len(images)):
        affine = np.diag([*images.spacing(index), 1.0])
        volume = Volume(torch.from_numpy(images.image(index)), affine)
        report = judge(volume, find_head(volume))
        if not report.defaced:
            print(f"  case {index}: {report.status}")
            continue
        matrix = np.array(report.matrix)
        mask = region(volume.shape, affine, matrix)
        begun = time.process_time()
        drawn = refaced(volume, mask, model, index, Volume(torch.from_numpy(images.label(index))[None], affine, "label"))
        seconds.append(time.process_time() - begun)
        second = Volume(torch.from_numpy(scanned_again(volume.data[0].numpy(), np.random.default_rng(index)))[None], affine)
        again = judge(second, find_head(second))
        rows.append((face(volume, matrix), face(second, np.array(again.matrix)), face(drawn, matrix)))
        touched.append(float((mask & (images.label(index) > 0)).sum() / max((images.label(index) > 0).sum(), 1)))
        found.append(judge(drawn, find_head(drawn)).status == "removed")
        shown.append(np.concatenate([middle(v) for v in (volume, emptied(volume, mask), drawn)], axis=1))
    _picture(shown[:6], options.out / "faces.png")
    gallery, second, drawn = (np.stack(part) for part in zip(*rows, strict=True))
    ranks = {}
    for title, probes in (("second scan", second), ("drawn", drawn)):
        linkage = linked(gallery, probes)
        rank1, _, auc, _ = linkage.scores("face")
        ranks[title] = rank1.value, auc.value
        print(f"{title:12s} rank 1 {rank1.value:.3f} [{rank1.low:.3f}, {rank1.high:.3f}]  AUC {auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]")
    share = float(np.mean(found))
    low, high = share_interval(share, len(found))
    print(f"{len(rows)} heads: {share:.1%} [{low:.1%}, {high:.1%}] have a face again; {np.mean(seconds):.1f} s a face on one processor")
    print(f"RESULT rank1_before={ranks['second scan'][0]:.3f} rank1_after={ranks['drawn'][0]:.3f} auc_after={ranks['drawn'][1]:.3f} "
          f"brain_touched={np.mean(touched):.5f} faces_found={share:.3f} seconds={np.mean(seconds):.1f}")  # fmt: skip


def middle(volume: Volume) -> np.ndarray:
    """The sagittal plane in the middle, nose to the left, in [0, 1]."""
    return (np.flip(volume.data[0, volume.shape[0] // 2].numpy().T, (0, 1)) + 1) / 2


def _picture(rows: list[np.ndarray], path: Path) -> None:
    from PIL import Image

    picture = np.concatenate(rows, axis=0).clip(0, 1)
    Image.fromarray((picture * 255).astype(np.uint8)).resize((picture.shape[1] * 3, picture.shape[0] * 3)).save(path)


if __name__ == "__main__":
    main()
