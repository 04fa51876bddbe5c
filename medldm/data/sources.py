"""A source: which files form which case, before any voxel is read."""

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from medldm.cohort import Covariate
from medldm.data.itk import files_of
from medldm.errors import UserError
from medldm.volume import Volume

#: What an archive holds beside volumes: noted, never used, and no error.
SET_ASIDE = ("localizer", "secondary_capture", "no_volume", "other_modality", "other_contrast")


class Stored(ABC):
    """An image or a label map that is more than one file, such as a DICOM series.

    Implementations are small frozen dataclasses: they are sent to other processes, which read the voxels.
    """

    @property
    @abstractmethod
    def short(self) -> str:
        """What messages call it; a pseudonym where the true name could tell who it is."""

    @property
    @abstractmethod
    def files(self) -> tuple[Path, ...]:
        """All its files, for size and age."""

    @property
    def changed(self) -> dict[str, float]:
        """What reading does to the voxels, as name -> figure for the record of the case; nothing for most."""
        return {}

    @abstractmethod
    def read(self) -> Volume:
        """Voxels [C I J K] with their place in space.

        Raises:
            BadCase: the files are damaged or form no volume.
        """


@dataclass(frozen=True)
class SourceCase:
    """The files of one case and what is known of it.

    Args:
        case: unique name, from the file name or a pseudonym.
        patient: pseudonym of the person; the case where none is given.
        images: one per contrast; empty where there is a label map only.
        label: the label map, if there is one.
        split: "train", "val", "test", or "" where the source names none.
        covariates: numbers, category names, or None where unknown.
        modality: "CT", "MR", or "" where the source does not say.
        status: "ok", or what is wrong according to headers or names alone.
        reason: why the status is not "ok".
    """

    case: str
    patient: str
    images: tuple[Path | Stored, ...]
    label: Path | Stored | None = None
    split: str = ""
    covariates: dict[str, Covariate] = field(default_factory=dict)
    modality: str = ""
    status: str = "ok"
    reason: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the case."""
        parts = (*self.images, self.label) if self.label else self.images
        return tuple(file for part in parts for file in (files_of(part) if isinstance(part, Path) else part.files))


@dataclass(frozen=True)
class Source:
    """The cases of a source.

    Args:
        root: the folder, or the CSV file that lists them.
        kind: "msd", "nnunet", "bids", "table", "dicom" or "plain".
        cases: sorted by name.
        labels: label value -> structure name; empty where the source names none.
        contrasts: names of the images of a case, in order; empty where the source names none.
        unknown_rows: rows of the covariates table that belong to no case.
        missing_rows: cases without a row, where there is a table.
        notes: what the user should know of how the files were understood, one sentence each.
        key: who and what is behind the pseudonyms of an archive, a row a case; written only where the user asks for it.
    """

    root: Path
    kind: str
    cases: tuple[SourceCase, ...]
    labels: dict[int, str]
    contrasts: tuple[str, ...] = ()
    unknown_rows: int = 0
    missing_rows: int = 0
    notes: tuple[str, ...] = ()
    key: tuple[dict[str, str], ...] = field(default=(), repr=False)

    @property
    def labelled(self) -> bool:
        """True when any usable case has a label map."""
        return any(case.label for case in self.cases if case.status == "ok")

    @property
    def modality(self) -> str:
        """The modality of the usable cases, "" where the source does not say or has several."""
        found = {case.modality for case in self.cases if case.status == "ok"}
        return found.pop() if len(found) == 1 else ""

    def of_modality(self, modality: str | None) -> "Source":
        """The source with the cases of other modalities set aside, and with this one for cases whose modality is not known.

        Args:
            modality: "CT", "MR", or None where there is but one.

        Raises:
            UserError: there are several, and none was chosen.
        """
        counts = Counter(case.modality for case in self.cases if case.modality and case.status == "ok")
        if modality is None and len(counts) > 1:
            found = " and ".join(f"{count} of {name}" for name, count in sorted(counts.items()))
            raise UserError(f"{self.root} holds {found}; one model sees one modality.", f"Choose with --modality {min(counts)}")
        chosen = modality or next(iter(counts), "")
        return replace(self, cases=tuple(_as_modality(case, chosen) for case in self.cases))


def _as_modality(case: SourceCase, modality: str) -> SourceCase:
    if case.status == "ok" and case.modality not in ("", modality):
        return replace(case, status="other_modality", reason=f"is {case.modality}, not {modality}.")
    return case if case.modality else replace(case, modality=modality)


class BadCase(Exception):
    """A case that cannot be used.

    Args:
        file: which file, as folder and name, or a pseudonym.
        status: one word, see `data/check.py` and `data/dicom`.
        reason: what is wrong with it, without the path.
    """

    def __init__(self, file: str, status: str, reason: str):
        super().__init__(f"{file}: {reason}")
        self.file, self.status, self.reason = file, status, reason
