"""Values in place of others: dates some days away, ages up to a limit, words of a vocabulary, dummies."""

import re
from datetime import date, timedelta
from typing import Any

from medldm.privacy.vocabulary import WORDS

OLDEST = 90  # years; older people are too few (45 CFR 164.514)
DUMMY = "ANONYMIZED"
DUMMIES: dict[str, Any] = {
    **dict.fromkeys(("LO", "SH", "ST", "LT", "UT", "UC", "PN", "AE", "CS"), DUMMY),
    "DA": "19000101", "DT": "19000101000000", "TM": "000000", "AS": "000Y", "DS": "0", "IS": "0", "UR": "http://anonymized.invalid", "AT": 0,
    **dict.fromkeys(("FD", "FL"), 0.0),
    **dict.fromkeys(("US", "SS", "UL", "SL", "UV", "SV"), 0),
}  # fmt: skip


def dummy(vr: str) -> Any:
    """A value of a representation that says nothing; bytes where it is none of text or numbers."""
    return DUMMIES.get(vr, b"\0" * 8)


def shifted(value: str, days: int) -> str:
    """A DICOM date or date and time, moved; "" where it is no full date of a year from 1 to 9999.

    A date of less than a day's precision cannot be moved by days, and an impossible one may be anything. The offset from UTC, which tells where
    somebody is, goes, as (0008,0201) does.

    Args:
        value: DA (also in the old form 1960.02.29) or DT; the time of day stays.
        days: how far.
    """
    match = re.fullmatch(r"(\d{4})(\.?)(\d\d)\2(\d\d)((?:\d{2}){0,3}(?:\.\d{1,6})?)(?:[+-]\d{4})?", value.strip(" \0"))
    if not match or (match[2] and match[5]):
        return ""
    try:
        moved = date(int(match[1]), int(match[3]), int(match[4])) + timedelta(days)
    except (ValueError, OverflowError):
        return ""
    return f"{moved.year:04d}{moved.month:02d}{moved.day:02d}{match[5]}"


def time_of_day(value: str) -> str:
    """A DICOM time, or "" where it is none."""
    value = value.strip(" \0")
    return value if re.fullmatch(r"\d\d(:?[0-5]\d(:?[0-6]\d(\.\d{1,6})?)?)?", value) else ""


def capped(value: str) -> str:
    """An age of at most 90 years; "" where it is none."""
    match = re.fullmatch(r"(\d{3})([DWMY])", value.strip(" \0").upper())
    if not match:
        return ""
    return f"{OLDEST:03d}Y" if match[2] == "Y" and int(match[1]) >= OLDEST else match[0]


def vocabulary_only(value: str) -> str:
    """The words of a description that are of the vocabulary of body parts and sequences, and numbers of up to two digits."""
    words = re.findall(r"[^\W_]+", value)
    return " ".join(word for word in words if word.casefold() in WORDS or (word.isascii() and word.isdigit() and len(word) <= 2))


def is_number(value: str, whole: bool) -> bool:
    """True for text that is a number of DICOM's DS, or of IS; also with several values."""
    form = r"\s*[+-]?\d*\s*" if whole else r"\s*([+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)?\s*"
    return all(re.fullmatch(form, part.strip("\0")) for part in value.split("\\"))
