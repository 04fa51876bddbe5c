"""Volumes to step through in a report: three planes and a rendering, with labels, by NiiVue (Hanayik et al.; BSD-2), which is in the page."""

import gzip
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from medldm.metrics.base import block_means
from medldm.report.mosaic import Picture, colour

LONGEST = 128  # voxels along an axis; more are averaged in blocks
GREYS = 255
BUNDLE = Path(__file__).parent / "vendor" / "niivue" / "niivue.umd.js"
SCRIPT = Path(__file__).parent / "templates" / "viewer.js"


@dataclass(frozen=True)
class Viewer:
    """Volumes, one at a time.

    Args:
        title: above the viewer.
        volumes: name -> what is shown under it, such as "generated c0001"; values in [-1, 1].
        caption: below it.
        legend: structure -> colour "#rrggbb", by ascending label value.
    """

    title: str
    volumes: Mapping[str, Picture]
    caption: str = ""
    legend: Mapping[str, str] | None = None

    @property
    def data(self) -> dict:
        """What the page's script reads: names, volumes as gzipped NIfTI in base64, and colours of labels."""
        values = sorted({int(v) for p in self.volumes.values() if p.label is not None for v in np.unique(p.label)} - {0})
        return {
            "names": list(self.volumes),
            "images": [_nifti(_averaged(p.image), p) for p in self.volumes.values()],
            "labels": [None if p.label is None else _nifti(_picked(p.label), p) for p in self.volumes.values()],
            "colours": {value: colour(value) for value in values},
        }


@cache
def bundle() -> str:
    """NiiVue and what drives it here, to stand in a page."""
    return f"{BUNDLE.read_text(encoding='utf-8')}\n{SCRIPT.read_text(encoding='utf-8')}"


def block(shape: Sequence[int]) -> int:
    """Voxels along an axis that become one."""
    return -(-max(shape) // LONGEST)


def _averaged(image: np.ndarray) -> np.ndarray:
    """Values of [-1, 1] as 0 to 255, means of blocks."""
    return np.rint((block_means(image, block(image.shape)).clip(-1, 1) + 1) / 2 * GREYS).astype(np.uint8)


def _picked(label: np.ndarray) -> np.ndarray:
    """The label in the middle of each block."""
    step = block(label.shape)
    middles = (np.minimum(np.arange(0, n, step) + step // 2, n - 1) for n in label.shape)
    return label[np.ix_(*middles)].astype(np.uint8)


def _nifti(voxels: np.ndarray, picture: Picture) -> str:
    import nibabel

    affine = np.diag([*(s * block(picture.image.shape) for s in picture.spacing), 1.0])
    return b64encode(gzip.compress(nibabel.Nifti1Image(voxels, affine).to_bytes(), mtime=0)).decode("ascii")
