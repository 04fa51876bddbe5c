"""What a score is, the images it is made from, and what every metric of a generated cohort looks like."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medldm.cohort import Case, Cohort
from medldm.errors import UserError
from medldm.files import write_csv
from medldm.volume import read_volume

KEEP_BYTES = 1 << 30


@dataclass(frozen=True)
class Score:
    """One figure with its 95 % interval.

    Args:
        name: such as "psnr" or "fidelity_r_volume_total".
        value: the figure.
        low: lower end of the interval, nan where fewer than two patients leave none.
        high: upper end.
        n: patients (generated cases count as one each).
        unit: "dB", "%", ... or "" for a pure number.
        on: what it was computed with, such as a network and its sha256, or why it could not be.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    unit: str = ""
    on: str = ""

    def renamed(self, name: str) -> "Score":
        """The same figure under another name."""
        return replace(self, name=name)

    def computed(self, on: str) -> "Score":
        """The same figure, with what it was computed on."""
        return replace(self, on=on)

    def also_on(self, what: str) -> "Score":
        """The same figure, with more of what it was computed on."""
        return replace(self, on="; ".join(filter(None, (self.on, what))))


def not_computable(name: str, images: "Images", reason: str) -> Score:
    """A row without a figure, which says why: never a number that means nothing."""
    return Score(name, math.nan, math.nan, math.nan, len(set(images.patients)), on=f"not computable: {reason}")


def sizes(*groups: "Images") -> tuple[int, str]:
    """Patients of the smallest of some groups, which bounds what a comparison can tell, and those of all in words."""
    counts = [len(set(images.patients)) for images in groups]
    return min(counts), f"{' against '.join(map(str, counts))} patients"


class Images:
    """The usable cases of a cohort; each file is read at its first use and kept while `keep_bytes` allow.

    Args:
        cohort: its cases with status "ok" are taken, in the cohort's order.
        keep_bytes: memory for voxels that were read.
    """

    def __init__(self, cohort: Cohort, keep_bytes: int = KEEP_BYTES):
        self.cohort = cohort.where(lambda case: case.status == "ok")
        self.cases: tuple[Case, ...] = self.cohort.cases
        self.keep_bytes = keep_bytes
        self._kept: dict[str, np.ndarray] = {}
        self.features: dict[str, list] = {}  # by name, see `Features.of`
        self.part_of: tuple[Images, np.ndarray] | None = None  # the images that this is a part of, and its cases' positions there

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def patients(self) -> list[str]:
        """The patient of each case; a case without one stands for itself."""
        return [case.person for case in self.cases]

    @property
    def labelled(self) -> bool:
        """True when there are cases and each has a label map."""
        return bool(self.cases) and all(case.label for case in self.cases)

    def image(self, index: int) -> np.ndarray:
        """Voxels [C I J K] of a case, float32."""
        return self._read(self.cases[index].image, self.cohort.unit)

    def label(self, index: int) -> np.ndarray | None:
        """Label map [I J K] of a case, float32 whole numbers, or None where it has none."""
        case, names = self.cases[index], self.cohort.labels
        if not case.label:
            return None
        known, label = case.label in self._kept, self._read(case.label, "label")[0]
        if not known:
            path, strange = self.cohort.path(case.label), sorted(set(np.unique(label).tolist()) - {0.0, *names})
            if case.shape and label.shape != tuple(case.shape):
                raise UserError(f"{path} has {label.shape} voxels, its image {tuple(case.shape)}.", "Prepare or generate the cohort again.")
            if names and strange:
                raise UserError(f"{path} has the value {strange[0]:g}; {self.cohort.root} names 0 and {sorted(names)}.", "Mend the label map.")
        return label

    def spacing(self, index: int) -> tuple[float, ...]:
        """Millimetres along I, J, K."""
        return self.cases[index].spacing or (1.0, 1.0, 1.0)

    def take(self, count: int, seed: int = 0) -> "Images":
        """A random part of `count` cases, in the cohort's order; all of them where there are no more. It shares what was read and worked out."""
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        names = {self.cases[i].case for i in chosen}
        part = Images(self.cohort.where(lambda case: case.case in names), self.keep_bytes)
        part._kept, part.part_of = self._kept, (self, chosen)
        return part

    def _read(self, relative: str, unit: str) -> np.ndarray:
        if relative in self._kept:
            return self._kept[relative]
        voxels = read_volume(self.cohort.path(relative), unit).data.numpy()
        if sum(kept.nbytes for kept in self._kept.values()) + voxels.nbytes <= self.keep_bytes:
            self._kept[relative] = voxels
        return voxels


class Metric(ABC):
    """Compares a generated cohort with a real one."""

    @abstractmethod
    def __call__(self, generated: Images, reference: Images) -> list[Score]:
        """Scores of `generated` (the cohort under test) beside `reference` (real cases); empty where they do not apply."""


def write_scores(path: Path, scores: Sequence[Score], on: str = "") -> None:
    """Write `metrics.csv` (`name,value,low,high,n,unit,on`) atomically, every figure with all its digits; `on` is added to each row's own."""
    rows = [(s.name, *(repr(float(n)) for n in (s.value, s.low, s.high)), s.n, s.unit, s.also_on(on).on) for s in scores]
    write_csv(path, [("name", "value", "low", "high", "n", "unit", "on"), *rows])


def centre_crop(voxels: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """The middle `sizes` voxels of the last axes."""
    cuts = []
    for have, want in zip(voxels.shape[-len(sizes) :], sizes, strict=True):
        start = (have - want) // 2
        cuts.append(slice(start, start + want))
    return voxels[(..., *cuts)]


def block_means(voxels: np.ndarray, block: int) -> np.ndarray:
    """Means over blocks of `block` voxels along each of the last three axes; the last block of an axis may be smaller."""
    if block == 1:
        return voxels
    for axis in range(voxels.ndim - 3, voxels.ndim):
        starts = np.arange(0, voxels.shape[axis], block)
        widths = np.diff([*starts, voxels.shape[axis]]).reshape([-1 if a == axis else 1 for a in range(voxels.ndim)])
        voxels = np.add.reduceat(voxels, starts, axis=axis) / widths.astype(np.float32)
    return voxels


def common_size(*groups: Images) -> tuple[int, ...]:
    """The largest box [I J K] that fits into every image of the groups."""
    return tuple(np.min([group.image(i).shape[1:] for group in groups for i in range(len(group))], axis=0).tolist())
