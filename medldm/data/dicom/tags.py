"""Values of DICOM attributes as plain Python values: a malformed one is an absent one."""

import re
from collections.abc import Sequence
from datetime import date
from math import isfinite
from typing import Any

from medldm.cohort import Covariate

#: Attributes that name persons.
PERSONS = (
    "PatientName", "PatientID", "PatientBirthName", "PatientMotherBirthName", "OtherPatientNames", "OtherPatientIDs", "AccessionNumber",
    "ReferringPhysicianName", "PerformingPhysicianName", "NameOfPhysiciansReadingStudy", "OperatorsName", "ContentCreatorName",
)  # fmt: skip
DAYS = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}


def text(dataset: Any, keyword: str) -> str:
    """An attribute as text without padding; "" where it is absent."""
    value = dataset.get(keyword) if dataset is not None else None
    return "" if value is None else str(value).strip(" \0")


def words(dataset: Any, keyword: str) -> tuple[str, ...]:
    """All values of an attribute of text, in capitals."""
    value = dataset.get(keyword) if dataset is not None else None
    values = [] if value is None else [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) else [value]
    return tuple(str(word).strip().upper() for word in values)


def numbers(dataset: Any, keyword: str, count: int) -> tuple[float, ...] | None:
    """An attribute of `count` finite numbers, or None."""
    value = dataset.get(keyword) if dataset is not None else None
    if value is None:
        return None
    values = [value] if isinstance(value, str | int | float) or not hasattr(value, "__len__") else list(value)
    try:
        found = tuple(float(v) for v in values)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if len(found) == count and all(isfinite(v) for v in found) else None


def number(dataset: Any, keyword: str) -> float | None:
    """An attribute of one finite number, or None."""
    found = numbers(dataset, keyword, 1)
    return found[0] if found else None


def whole(dataset: Any, keyword: str, default: int = 0) -> int:
    """An attribute of one whole number."""
    found = number(dataset, keyword)
    return int(found) if found is not None and found == int(found) else default


def items(dataset: Any, keyword: str) -> list[Any]:
    """The items of a sequence; none where it is absent or empty."""
    value = dataset.get(keyword) if dataset is not None else None
    return list(value) if value is not None and not isinstance(value, str | bytes | int | float) else []


def first(dataset: Any, keyword: str) -> Any:
    """The first item of a sequence, or None."""
    return next(iter(items(dataset, keyword)), None)


def who(dataset: Any) -> dict[str, Covariate]:
    """Age in years (PatientAge, else the time from birth to the study) and sex ("M", "F", "O"); None where unknown."""
    sex = text(dataset, "PatientSex").upper()
    return {"age": _age(dataset), "sex": sex if sex in ("M", "F", "O") else None}


def identifying(dataset: Any) -> frozenset[str]:
    """Values, their words, also those joined by apostrophes and hyphens, of three characters and more, in small letters, that tell who the
    patient is or who examined them."""
    found = [str(dataset.get(keyword) or "").casefold() for keyword in PERSONS]
    words = (word for value in found for part in value.split("^") for word in (value, re.sub(r"[\W_]+", "", part), *re.split(r"[\W_]+", part)))
    return frozenset(word for word in words if len(word) >= 3)


def _age(dataset: Any) -> float | None:
    match = re.fullmatch(r"(\d{1,3})([DWMY])", text(dataset, "PatientAge").upper())
    if match and int(match[1]):  # 000Y is how absence is written
        return round(int(match[1]) * DAYS[match[2]] / DAYS["Y"], 2)
    study, birth = _date(text(dataset, "StudyDate")), _date(text(dataset, "PatientBirthDate"))
    if study is None or birth is None or not 0 <= (study - birth).days <= 130 * DAYS["Y"]:
        return None
    return round((study - birth).days / DAYS["Y"], 2)


def _date(value: str) -> date | None:
    try:
        return date(int(value[:4]), int(value[4:6]), int(value[6:8])) if len(value) == 8 else None
    except ValueError:
        return None
