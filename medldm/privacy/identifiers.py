"""Traces of a person: what files say of them, as words, strings and bytes to look for in what is left."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property, reduce
from itertools import product
from typing import Any

from medldm.privacy.profile import Profile
from medldm.privacy.rules import names_a_kind, rule_of
from medldm.privacy.vocabulary import NOBODY

VOID = {"anonymized", "anonymous", "none", "unknown", "na"}
LETTERS, DIGITS = 5, 6  # characters from which a trace is found inside of longer words
NUMBER = 8  # digits from which it is found in bytes that are no text
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
KINDS = {"PatientBirthDate": "birth", **dict.fromkeys(("PatientID", "OtherPatientIDs", "AccessionNumber", "AdmissionID"), "id")}
TWO_LETTERS = {"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa"}
LIGATURES = str.maketrans({"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th"})
TEXT = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UI", "UR", "UT", "DA", "AS", "DT", "TM", "DS", "IS")


def fold(text: str) -> str:
    """Small letters without accents, and one form of each character."""
    plain = unicodedata.normalize("NFKD", text.casefold().translate(LIGATURES))
    return unicodedata.normalize("NFC", "".join(c for c in plain if not unicodedata.combining(c)))


def shortened(word: str) -> str:
    """A folded word with one spelling of the letters that some write with an accent and others as two letters: Mueller, Muller and Müller."""
    return re.sub("(?<=[aou])e|(?<=a)a", "", word)


def respelt(text: str) -> set[str]:
    """A text with two letters in place of each accent, and with accents in place of two letters."""
    small = text.casefold()
    return {small.translate(str.maketrans(TWO_LETTERS)), reduce(lambda t, pair: t.replace(pair[1], pair[0]), TWO_LETTERS.items(), small)}


def words_of(text: str) -> list[str]:
    """The folded words and numbers of a text."""
    return re.findall(r"[^\W_]+", fold(text))


def dates_of(value: str) -> Iterator[str]:
    """A date YYYYMMDD as people write it, without what separates its parts."""
    match = re.match(r"(\d{4})\.?(\d\d)\.?(\d\d)", value.strip())
    if match and 1 <= int(match[2]) <= 12:
        year, month, day = match[1], match[2], match[3]
        name = MONTHS[int(month) - 1]
        yield from (year + month + day, day + month + year, month + day + year, day + name + year, name + day + year)
        yield from (f"{int(day)}{name}{year}", f"{name}{int(day)}{year}", f"{year}{name}{day}")


@dataclass
class Identifiers:
    """What identifies one patient; grows while files are read and is then searched for.

    Args:
        names: words of persons' names, from two letters.
        values: whole names, numbers and dates without separators.
        words: words of places and institutions, from four letters.
        paths: words of the names of files and folders, which are not sought in codes.
        births: dates of birth as people write them, without separators.
        uids: UIDs.
        spelt: names and values as they stand in the files, for bytes that are no text.
        encodings: of the files, as Python calls them.
    """

    names: set[str] = field(default_factory=set)
    values: set[str] = field(default_factory=set)
    words: set[str] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)
    births: set[str] = field(default_factory=set)
    uids: set[str] = field(default_factory=set)
    spelt: set[str] = field(default_factory=set)
    encodings: set[str] = field(default_factory=set)

    def add(self, kind: str, text: str) -> None:
        """Take one value.

        Args:
            kind: as `seek` of a rule, or "id" of a patient, "birth" or "path".
            text: as it stands in the file, one value.
        """
        text = text.strip(" \0")
        found = words_of(text)
        whole = "".join(found)
        if not whole or whole in VOID or (kind == "words" and NOBODY.issuperset(found)):
            return
        if kind == "uid":
            self.uids |= {text} if len(text) >= 10 and not text.startswith("1.2.840.10008.") else set()
        elif kind in ("date", "birth"):
            self.values |= set(dates_of(text))
            self.births |= set(dates_of(text)) if kind == "birth" else set()
        elif kind == "path":
            self.paths |= {w for w in found if w not in NOBODY and len(w) >= (DIGITS if w.isdigit() else LETTERS)}
        elif kind != "value" or len(whole) > 2:  # a study or a step is often called 1
            self.values.add(whole)
            self.spelt.add(text)
            least = 2 if kind == "name" else 4
            if kind in ("name", "words"):
                kept = [w for w in found if w not in NOBODY and (len(w) >= least or _is_wide(w))]
                (self.names if kind == "name" else self.words).update(kept, (w for w in map(shortened, kept) if len(w) >= least and w not in NOBODY))
                self.spelt |= {w for w in re.split(r"[\s^=,;]+", text) if fold(w) not in NOBODY}

    def merge(self, other: "Identifiers") -> None:
        """Take all of another file of the same patient."""
        for part in fields(self):
            getattr(self, part.name).update(getattr(other, part.name))

    @cached_property
    def _short(self) -> set[str]:
        """Traces that count only as whole words."""
        return {t for t in self.names | self.words | self.values if not _is_long(t)} - self._bare

    @cached_property
    def _bare(self) -> set[str]:
        """IDs of one or two characters: an ID 7 is one where it is all that a value says."""
        return {t for t in self.values - self.names if len(t) <= 2 and not _is_wide(t)}

    @cached_property
    def _numbers(self) -> set[str]:
        return {value.lstrip("0") for value in self.values if value.isdigit()}

    @cached_property
    def _long(self) -> re.Pattern[str]:
        """Traces that count inside of words too."""
        return _any({t for t in self.names | self.words | self.values if _is_long(t)})

    @cached_property
    def _path(self) -> re.Pattern[str]:
        return _any(self.paths)

    @cached_property
    def _uid(self) -> re.Pattern[str]:
        return re.compile(rf"(?<![\d.])(?:{_any(self.uids).pattern})(?![\d.])")

    @cached_property
    def _birth(self) -> re.Pattern[str]:
        return _any(self.births)

    @cached_property
    def _codes(self) -> tuple[list[bytes], re.Pattern[bytes]]:
        """Traces as bytes, in every encoding of the files and in those that programs use; those of digits with what may not stand beside them."""
        encodings = {"latin-1", "utf-8", "utf-16-le", "utf-16-be", *self.encodings}
        letters: set[bytes] = set()
        digits: set[bytes] = set()
        days = self.values - self.births - {"".join(words_of(text)) for text in self.spelt}  # another study may be moved to the same day
        for text in self.spelt | self.uids | self.births | self.names:
            plain = "".join(words_of(text))
            numeric = plain.isdigit()  # UIDs too
            enough = 2 if _is_wide(plain) else NUMBER if numeric else LETTERS
            if len(plain) < enough or plain in NOBODY or plain in days:
                continue
            forms = {form for one in {text, *respelt(text)} for form in (one, one.lower(), one.upper())}
            for form, encoding in product(forms, encodings):
                if len(code := form.encode(encoding, "ignore").lower()) >= min(LETTERS, 2 * enough):
                    (digits if numeric else letters).add(code)
        return sorted(letters), re.compile(rb"(?<![\d.])(?:%s)(?![\d.])" % b"|".join(map(re.escape, sorted(digits))) if digits else rb"(?!)")

    def in_text(self, text: str, code: bool = False) -> bool:
        """True where a text holds a trace.

        Args:
            text: one value.
            code: it is a code of the standard (CS), in which short traces and words of paths mean nothing.
        """
        found = words_of(text)
        return self._among(text, found, code) or self._among(text, [shortened(word) for word in found], code)

    def _among(self, text: str, found: list[str], code: bool) -> bool:
        """Whether one spelling of a text's words holds a trace."""
        whole = "".join(found)
        if not whole:
            return False
        if self._long.search(whole) or self._uid.search(text):
            return True
        if code:
            return bool({w for w in found if len(w) > 3} & self._short)
        joined = whole in self._short and not whole.isdigit()
        return whole in self._bare or joined or bool(set(found) & self._short) or bool(self._path.search(whole))

    def in_number(self, text: str) -> bool:
        """True where a number in text (DS, IS) is as a whole an ID or a date of birth of six digits or more."""
        digits = re.sub(r"^[+\-0]+", "", text.strip(" \0"))
        return len(digits) >= DIGITS and digits in self._numbers

    def is_birth(self, text: str) -> bool:
        """True where a date is the date of birth."""
        return bool(self._birth.match(text))

    def in_bytes(self, data: bytes) -> bool:
        """True where bytes of any kind hold a trace of five letters, eight digits or more, in any usual encoding."""
        letters, digits = self._codes
        small = data.lower()
        return any(code in small for code in letters) or bool(digits.search(small))


def collect(dataset: Any, into: Identifiers, profile: Profile) -> None:
    """Take every identifying value of a data set, of its sequences and its private attributes, except what is kept.

    Args:
        dataset: as read, not yet changed.
        into: the identifiers of its patient.
        profile: says what is kept.
    """
    for tag in list(dataset.keys()):
        raw = dataset.get_item(tag)
        rule = rule_of(int(tag))
        if raw.VR in ("OB", "OW", "OF", "OD", "OL", "OV") or not (rule or raw.VR in ("SQ", "PN", "UI", "UN", None)):
            continue
        element = dataset[tag]
        if element.VR == "SQ":
            for item in element.value or []:
                collect(item, into, profile)
            continue
        kind = "name" if element.VR == "PN" else "uid" if element.VR == "UI" else rule.seek if rule else ""
        if not kind or element.VR not in TEXT or element.value is None:
            continue
        kind = KINDS.get(rule.keyword, kind) if rule else kind
        if (kind == "uid" and (profile.uids or names_a_kind(int(tag)))) or (rule and rule.option == "device" and profile.device):
            continue
        for value in element.value if element.VM > 1 else [element.value]:
            into.add(kind, str(value))


def collect_path(parts: Iterable[str], into: Identifiers) -> None:
    """Take the words of the names of a file and its folders."""
    for part in parts:
        into.add("path", part)


def _is_wide(text: str) -> bool:
    """True where a text has characters of scripts that write words without spaces."""
    return any(ord(c) >= 0x2E80 for c in text)


def _is_long(text: str) -> bool:
    return _is_wide(text) or len(text) >= (DIGITS if text.isdigit() else LETTERS)


def _any(texts: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(texts)))) if texts else re.compile(r"(?!)")
