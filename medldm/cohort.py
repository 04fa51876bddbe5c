"""A cohort: a folder of cases with their patients, splits and covariates. What every journey reads and writes.

`cohort.csv` has one row a case, `cohort.json` what is true of all of them. Paths are relative to the folder. The split
belongs to the patient, is stored, and is never computed again.
"""

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

from medldm.errors import UserError
from medldm.files import read_json, sha256, sha256_of, write_csv, write_json

FORMAT = 1
COLUMNS = ("case", "patient", "split", "image", "label", "sha256", "shape", "spacing", "status", "reason")
SPLITS = ("train", "val", "test", "")
SHOWN_PAIRS = 5

Covariate = float | str | None


@dataclass(frozen=True)
class Case:
    """One image, with its label map if there is one.

    Args:
        case: unique name within the cohort.
        patient: pseudonym of the person; cases of one patient share a split.
        split: "train", "val", "test", or "" where no split applies.
        image: path of the image, relative to the cohort's folder.
        label: path of the label map, or "".
        sha256: of the image file's bytes followed by the label file's.
        shape: voxels along I, J, K.
        spacing: millimetres along I, J, K.
        status: "ok", or a word for what is wrong.
        reason: why the status is not "ok".
        covariates: numbers, category names, or None where unknown.
    """

    case: str
    patient: str
    split: str
    image: str
    label: str = ""
    sha256: str = ""
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    status: str = "ok"
    reason: str = ""
    covariates: dict[str, Covariate] = field(default_factory=dict)

    @property
    def person(self) -> str:
        """Whose image it is; a case without a patient stands for itself."""
        return self.patient or self.case


@dataclass(frozen=True)
class Cohort:
    """Cases in a folder.

    Args:
        root: the folder.
        cases: one per row of `cohort.csv`.
        unit: "a.u.", "HU" or "latent".
        labels: label value -> structure name, background left out.
        covariates: covariate name -> unit ("" where it is a category or has none).
        parents: role -> fingerprint or sha256 of what the cohort was made from.
        synthetic: True where a model made the images.
        facts: further facts of the command that wrote it (plain values).
    """

    root: Path
    cases: tuple[Case, ...]
    unit: str = "a.u."
    labels: dict[int, str] = field(default_factory=dict)
    covariates: dict[str, str] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    synthetic: bool = False
    facts: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    @property
    def people(self) -> list[str]:
        """Everyone whose images it holds, once and in order."""
        return sorted({case.person for case in self})

    def where(self, keep: Callable[[Case], bool]) -> "Cohort":
        """The cases for which `keep` is true."""
        return replace(self, cases=tuple(case for case in self.cases if keep(case)))

    def split(self, name: str) -> "Cohort":
        """The usable cases of one split ("train", "val" or "test")."""
        return self.where(lambda case: case.split == name and case.status == "ok")

    def path(self, relative: str) -> Path:
        """An absolute path inside the cohort's folder."""
        return self.root / relative

    def check_files(self, progress: Callable[[Iterable, str], Iterable] = lambda cases, title: cases) -> None:
        """Compare the files of usable cases with the sha256 that was recorded when they were written.

        Args:
            progress: takes cases and a title, and gives the cases one after the other.

        Raises:
            UserError: a file is missing or another one.
        """
        for case in progress([case for case in self if case.status == "ok" and case.sha256], f"checking the files of {self.root.name}"):
            paths = [self.path(path) for path in (case.image, case.label) if path]
            if missing := next((path for path in paths if not path.is_file()), None):
                raise UserError(f"{missing} is missing, which {self.root}/cohort.csv lists.", "Restore it, or make the cohort again in a new folder.")
            if sha256(*paths) != case.sha256:
                found = f"{' or '.join(map(str, paths))} is not the file that was written (its sha256 differs)"
                raise UserError(f"{found}.", "Restore it from a copy, or make the cohort again in a new folder.")

    def fingerprint(self) -> str:
        """SHA-256 over content, patients, splits and covariates; independent of folder and order of rows."""
        names = sorted(self.covariates)
        rows = sorted([c.case, c.patient, c.split, c.sha256, c.status, [[name, c.covariates.get(name)] for name in names]] for c in self.cases)
        return sha256_of([self.unit, sorted(self.labels.items()), rows])

    def save(self) -> None:
        """Write `cohort.csv`, then `cohort.json`, each atomically; the second makes the folder a cohort."""
        self._refuse_leaks()
        names = sorted(self.covariates)
        rows: list[tuple[object, ...]] = [(*COLUMNS, *names)]
        for c in self.cases:
            shape, spacing = "x".join(map(str, c.shape)), "x".join(f"{s:g}" for s in c.spacing)
            row = (c.case, c.patient, c.split, c.image, c.label, c.sha256, shape, spacing, c.status, c.reason)
            rows.append((*row, *map(c.covariates.get, names)))
        write_csv(self.root / "cohort.csv", rows)
        about = {
            "format": FORMAT, "unit": self.unit, "synthetic": self.synthetic, "cases": len(self.cases),
            "spacing": _common([c.spacing for c in self.cases]), "labels": {str(k): v for k, v in self.labels.items()},
            "covariates": self.covariates, "parents": self.parents, "fingerprint": self.fingerprint(), "facts": self.facts,
        }  # fmt: skip
        write_json(self.root / "cohort.json", about)

    @classmethod
    def load(cls, root: Path) -> "Cohort":
        """Read a cohort.

        Raises:
            UserError: the folder is no cohort, a row is malformed, a path leaves the folder, or a patient or an image
                stands in two splits.
        """
        root = Path(root)
        if not root.is_dir():
            raise UserError(f"{root} does not exist." if not root.exists() else f"{root} is a file and is not a cohort.")
        if not (root / "cohort.json").is_file():
            raise UserError(f"{root} is not a cohort: it has no cohort.json.", "Make one with: medldm prepare --source DIR --out DIR")
        about = read_json(root / "cohort.json")
        if about.get("format") != FORMAT:
            raise UserError(f"{root}/cohort.json has format {about.get('format')!r}; this version reads {FORMAT}.", "Prepare the cohort again.")
        with open(root / "cohort.csv", newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        if rows and not set(COLUMNS) <= set(rows[0]):
            raise UserError(f"{root}/cohort.csv lacks the columns {sorted(set(COLUMNS) - set(rows[0]))}.", "Prepare the cohort again.")
        cases = tuple(_case(row, about["covariates"], root) for row in rows)
        labels = {int(value): name for value, name in about["labels"].items()}
        cohort = cls(root, cases, about["unit"], labels, about["covariates"], about["parents"], about["synthetic"], about["facts"])
        cohort._refuse_leaks()
        if about["fingerprint"] != cohort.fingerprint():
            raise UserError(f"{root}/cohort.csv is not as it was written (its fingerprint differs).", "Restore it, or prepare the cohort again.")
        return cohort

    def _refuse_leaks(self) -> None:
        """Refuse a patient or identical files in two splits."""
        for what, key in (("patient", lambda c: c.patient), ("image", lambda c: c.sha256)):
            groups: dict[str, list[Case]] = {}
            for case in self.cases:
                if key(case) and case.split:
                    groups.setdefault(key(case), []).append(case)
            pairs = [(a, b) for group in groups.values() for a, b in combinations(group, 2) if a.split != b.split]
            if pairs:
                named = "; ".join(f"case {a.case!r} in {a.split!r} and case {b.case!r} in {b.split!r}" for a, b in pairs[:SHOWN_PAIRS])
                more = f"; {len(pairs)} pairs in all" if len(pairs) > SHOWN_PAIRS else ""
                raise UserError(
                    f"{self.root}/cohort.csv: the same {what} is in two splits: {named}{more}.", "Give all cases of one patient one split."
                )


def _common(values: list) -> list | None:
    return list(values[0]) if values and all(v == values[0] for v in values) else None


def _case(row: dict[str, str], units: dict[str, str], root: Path) -> Case:
    where = f"{root}/cohort.csv, case {row['case']!r}"
    for name in ("image", "label"):
        if row[name] and not (root / row[name]).resolve().is_relative_to(root.resolve()):
            raise UserError(f"{where}: the path {row[name]!r} leaves the cohort's folder.", "Paths must be relative to it.")
    if row["split"] not in SPLITS:
        raise UserError(f"{where}: split {row['split']!r} is none of train, val, test.")
    try:
        shape = tuple(int(n) for n in row["shape"].split("x")) if row["shape"] else ()
        spacing = tuple(float(s) for s in row["spacing"].split("x")) if row["spacing"] else ()
    except ValueError as error:
        raise UserError(f"{where}: shape or spacing is malformed ({error}).") from error
    covariates = {name: covariate(row.get(name, "")) for name in units}
    fixed = {name: row[name] for name in COLUMNS if name not in ("shape", "spacing")}
    return Case(**fixed, shape=shape, spacing=spacing, covariates=covariates)


def covariate(text: str | None) -> Covariate:
    """A cell of a table as a number, a category name, or None where it is empty or says n/a."""
    text = (text or "").strip()
    if text.lower() in ("", "n/a", "na", "nan", "none"):
        return None
    try:
        return float(text)
    except ValueError:
        return text
