"""Traces of a person: what files say of them, as words, strings and bytes to look for in what is left."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import accumulate, permutations, product
from typing import Any
from urllib.parse import unquote

from medldm.privacy.dates import Day, days_in, months_in, spellings
from medldm.privacy.profile import Profile
from medldm.privacy.rules import names_a_kind, rule_of
from medldm.privacy.spelling import fold, garbled, is_wide, pieces_of, respelt, shortened, words_of
from medldm.privacy.vocabulary import NOBODY, PLACEHOLDERS, TERMS

VOID = {"anonymized", "anonymous", "none", "unknown", "na"}
LETTERS, DIGITS = 5, 6  # characters from which a trace is found inside of longer words
NUMBER = 8  # digits from which it is found in bytes that are no text
MOST_WORDS = 6  # of a name, that are put together in any order
CORE = 4  # digits of a number of a patient that are one without its letters and leading zeros
KINDS = {"PatientBirthDate": "birth", **dict.fromkeys(("PatientID", "OtherPatientIDs", "AccessionNumber", "AdmissionID"), "id")}
RUN = re.compile(rb"(?:[\d.]\0){8,}|(?:\0[\d.]){8,}|[\d.]{8,}")  # of digits and dots, in one byte or two
TEXT = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UI", "UR", "UT", "DA", "AS", "DT", "TM", "DS", "IS")


@dataclass
class Identifiers:
    """What identifies one patient; grows while files are read and is then searched for.

    Args:
        names: words of persons' names, from two letters.
        common: words of persons' names that others use too, such as White; not sought in codes.
        values: whole names, numbers and dates without separators.
        cores: digits of a patient's numbers without leading zeros.
        days: dates; `born` those of birth.
        words: words of places and institutions, from four letters.
        paths: words of the names of files and folders, which are not sought in codes.
        births: dates of birth as people write them, without separators.
        uids: UIDs.
        spelt: names and values as they stand in the files, for bytes that are no text.
        encodings: of the files, as Python calls them.
    """

    names: set[str] = field(default_factory=set)
    common: set[str] = field(default_factory=set)
    values: set[str] = field(default_factory=set)
    cores: set[str] = field(default_factory=set)
    days: set[Day] = field(default_factory=set)
    born: set[Day] = field(default_factory=set)
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
            self._add_date(text, kind == "birth")
        elif kind == "path":
            self.paths |= {w for w in found if w not in NOBODY and len(w) >= (DIGITS if w.isdigit() else LETTERS)}
        elif kind != "value" or len(whole) > 2:  # a study or a step is often called 1
            self.values.add(whole)
            self.spelt.add(text)
            if kind == "id":
                self.cores |= {core for core in _cores(text) if len(core) >= CORE}
            if kind == "words":
                kept = [w for w in found if w not in NOBODY and (len(w) >= 4 or is_wide(w))]
                self.words.update(kept, (w for w in map(shortened, kept) if len(w) >= 4 and w not in NOBODY))
            if kind == "name":
                self._add_name(text, found)
            if kind in ("name", "words"):
                self.spelt |= {w for w in _parts(text) if fold(w) not in NOBODY}

    def _add_date(self, text: str, birth: bool) -> None:
        begin = re.match(r"\d{8}", text)
        days = days_in(begin[0] if begin else text)
        written = {form for day in days for form in spellings(day)}
        self.days |= days
        self.values |= written
        if birth:
            self.born |= days
            self.births |= written

    def _add_name(self, text: str, found: list[str]) -> None:
        """The words of a name, those joined by apostrophes and hyphens, first and last name together, and what mistaken codings make of them."""
        joined = ["".join(words_of(part)) for part in _parts(text)]
        lost = [word for part in _parts(text) for word in garbled(part)]
        kept = [w for w in [*found, *joined, *lost] if w not in NOBODY and (len(w) >= 2 or is_wide(w))]
        self.names.update(kept, (w for w in map(shortened, kept) if len(w) >= 2 and w not in NOBODY))
        if PLACEHOLDERS.isdisjoint(found):
            self.common |= {w for w in found if w in NOBODY and len(w) > 2}
        for a, b in permutations(filter(None, joined[:MOST_WORDS]), 2):
            self.values |= {a + b} if len(a + b) > 3 else set()
            self.names |= {a + b[0], b[0] + a} if len(a) > 2 else set()  # as names of users are made

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
        return {t for t in self.values - self.names if len(t) <= 2 and not is_wide(t)}

    @cached_property
    def _numbers(self) -> set[str]:
        return {value.lstrip("0") for value in self.values if value.isdigit()} | self.cores

    @cached_property
    def _long(self) -> re.Pattern[str]:
        """Traces that count inside of words too."""
        return _any({t for t in self.names | self.words | self.values if _is_long(t)})

    @cached_property
    def _path(self) -> re.Pattern[str]:
        return _any(self.paths)

    @cached_property
    def _birth(self) -> re.Pattern[str]:
        return _any(self.births)

    @cached_property
    def _codes(self) -> tuple[list[bytes], set[bytes]]:
        """Traces as bytes, in every encoding of the files and in those that programs use; numbers of digits and dots apart."""
        encodings = {"latin-1", "utf-8", "utf-16-le", "utf-16-be", *self.encodings}
        letters: set[bytes] = set()
        digits: set[bytes] = set()
        days = {form for day in self.days for form in spellings(day)} - self.births  # another study may be moved to the same day
        for text in self.spelt | self.uids | self.births | self.names:
            plain = "".join(words_of(text))
            numeric = plain.isdigit()  # UIDs too
            enough = 2 if is_wide(plain) else NUMBER if numeric else LETTERS
            if len(plain) < enough or plain in NOBODY or plain in days:
                continue
            forms = {form for one in {text, *respelt(text)} for form in (one, one.lower(), one.upper())}
            for form, encoding in product(forms, encodings):
                if len(code := form.encode(encoding, "ignore").lower()) >= min(LETTERS, 2 * enough):
                    (digits if RUN.fullmatch(code) else letters).add(code)
        return sorted(letters), digits

    @cached_property
    def _nobodys(self) -> list[bytes]:
        """Terms and words that are nobody's and hold a trace in passing."""
        words = {word.lower().encode() for word in TERMS | NOBODY}
        return sorted((word for word in words if any(code in word and code != word for code in self._codes[0])), key=len, reverse=True)

    def in_text(self, text: str, code: bool = False) -> bool:
        """True where a text holds a trace.

        Args:
            text: one value.
            code: it is a code of the standard (CS), in which short traces and words of paths mean nothing.
        """
        if text.strip(" \0").upper() in TERMS:
            return False
        found = words_of(text)
        forms = (found, words_of(unquote(text)), [shortened(word) for word in found], pieces_of(text))
        return any(self._among(text, words, code) for words in forms) or not self.cores.isdisjoint(_cores(text)) or self._dated(text)

    def _among(self, text: str, found: list[str], code: bool) -> bool:
        """Whether one spelling of a text's words holds a trace."""
        whole = "".join(found)
        if not whole:
            return False
        if self._in_words(found) or not self.uids.isdisjoint(re.findall(r"[\d.]{10,}", text)):
            return True
        if code:
            return bool({w for w in found if len(w) > 2} & self._short)
        joined = whole in self._short and not whole.isdigit()
        return whole in self._bare or joined or bool(set(found) & (self._short | self.common)) or bool(self._path.search(whole))

    def _in_words(self, found: list[str]) -> bool:
        """Whether words that are put together hold a long trace, other than a part of one word that is nobody's: Philip in Philips."""
        ends = list(accumulate(map(len, found)))
        inside = [(end - len(word), end) for word, end in zip(found, ends, strict=True) if word in NOBODY]
        matches = (match.span() for match in self._long.finditer("".join(found)))
        return any(not any(low <= a and b <= high and (a, b) != (low, high) for low, high in inside) for a, b in matches)

    def _dated(self, text: str) -> bool:
        """Whether a text holds a date of the patient in any order and language, or the month of birth."""
        if not self.days or not any(c.isdigit() for c in text):
            return False
        if not self.days.isdisjoint(days_in(text)):
            return True
        return bool(self.born) and not (self.born.isdisjoint(days_in(text, six=True)) and {day[:2] for day in self.born}.isdisjoint(months_in(text)))

    def in_number(self, text: str) -> bool:
        """True where a number in text (DS, IS) is as a whole an ID or a date of birth of six digits or more."""
        digits = re.sub(r"^[+\-0]+|\.0*$", "", text.strip(" \0"))
        return len(digits) >= DIGITS and digits in self._numbers

    def is_birth(self, text: str) -> bool:
        """True where a date is the date of birth."""
        return bool(self._birth.match(text))

    def in_bytes(self, data: bytes) -> bool:
        """True where bytes of any kind hold a trace of five letters, eight digits or more, in any usual encoding."""
        letters, digits = self._codes
        small = data.lower()
        for term in self._nobodys:
            small = small.replace(term, b" ")
        return any(code in small for code in letters) or not digits.isdisjoint(RUN.findall(small))


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
        if raw.VR in ("OB", "OW", "OF", "OD", "OL", "OV") or not (rule or raw.VR in ("SQ", "PN", "UI", "DA", "DT", "UN", None)):
            continue
        element = dataset[tag]
        if element.VR == "SQ":
            for item in element.value or []:
                collect(item, into, profile)
            continue
        kind = kind_of(int(tag), element.VR)
        if not kind or element.VR not in TEXT or element.value is None:
            continue
        if (kind == "uid" and (profile.uids or names_a_kind(int(tag)))) or (rule and rule.option == "device" and profile.device):
            continue
        for value in element.value if element.VM > 1 else [element.value]:
            into.add(kind, str(value))


def kind_of(tag: int, vr: str) -> str:
    """As what the values of an attribute are sought (see `Identifiers.add`), or ""."""
    rule = rule_of(tag)
    kind = {"PN": "name", "UI": "uid"}.get(vr) or (rule.seek if rule else "") or ("date" if vr in ("DA", "DT") else "")
    return KINDS.get(rule.keyword, kind) if rule and kind else kind


def collect_path(parts: Iterable[str], into: Identifiers) -> None:
    """Take the words of the names of a file and its folders."""
    for part in parts:
        into.add("path", part)


def _parts(text: str) -> list[str]:
    """A name between what separates names: "O'Shea" is one part."""
    return re.split(r"[\s^=,;]+", text)


def _cores(text: str) -> set[str]:
    """The digits in a row of a text, without leading zeros."""
    return {run.lstrip("0") for run in re.findall(r"\d+", fold(text))}


def _is_long(text: str) -> bool:
    return is_wide(text) or len(text) >= (DIGITS if text.isdigit() else LETTERS)


def _any(texts: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(texts)))) if texts else re.compile(r"(?!)")
