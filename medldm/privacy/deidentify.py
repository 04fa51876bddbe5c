"""One DICOM data set, de-identified in place: the rules of Annex E in every sequence and frame, then a search for what is known of the patient.

What is done to each element is returned as rows (keyword path, action). They never hold a value.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from medldm.data.sources import BadCase
from medldm.privacy.identifiers import Identifiers
from medldm.privacy.profile import Profile
from medldm.privacy.pseudonyms import Secret
from medldm.privacy.rules import TAKEN, names_a_kind, rule_of, unlisted
from medldm.privacy.values import DUMMY, capped, dummy, is_number, shifted, time_of_day, vocabulary_only

PIXELS = 0x7FE0
BYTES = ("OB", "OW", "OF", "OD", "OL", "OV", "UN")
STRINGS = ("LO", "SH", "ST", "LT", "UT", "UC")
CODES = ("CS", "AE", "AS", "UR", "PN", "UI")
PRINTABLE = re.compile(rb"[ -~]{4,}|(?:[ -~]\0){4,}|(?:\0[ -~]){4,}")  # texts in one byte or two
LONG = 8  # letters of them in palettes and other numbers, among which shorter ones come by chance
TEXTS = (*STRINGS, "CS", "AE", "UR", "PN")
#: What a private attribute may be to be kept.
PLAIN = ("CS", "DS", "IS", "FD", "FL", "US", "SS", "UL", "SL", "OB", "UN")
#: Without these an object is none, or lies elsewhere.
ESSENTIAL = ("SOPClassUID", "Modality", "ImageType", "PhotometricInterpretation", "SpecificCharacterSet")

Action = tuple[str, str]


@dataclass
class Deidentifier:
    """De-identifies the files of one patient.

    Args:
        profile: what is kept.
        secret: makes UIDs.
        pseudonym: stands for the patient.
        days: by which dates move.
        known: what is sought in what is left.
    """

    profile: Profile
    secret: Secret
    pseudonym: str
    days: int
    known: Identifiers = field(repr=False)

    def apply(self, dataset: Any) -> list[Action]:
        """Both passes.

        Args:
            dataset: changed in place; file meta information is the caller's.

        Returns:
            What was done, to which element.

        Raises:
            BadCase: an element that the object needs holds a trace of the patient.
        """
        done = list(self._clean(dataset, ""))
        dataset.PatientName = dataset.PatientID = self.pseudonym
        done += [("PatientName", "pseudonym"), ("PatientID", "pseudonym")]
        return done + list(self._search(dataset, ""))

    def _clean(self, dataset: Any, where: str) -> Iterator[Action]:
        """The rules, for one data set and all below it."""
        for tag in list(dataset.keys()):
            if tag.is_private:
                if not self._is_safe(dataset, tag):
                    del dataset[tag]
                    yield f"{where}{_name(tag)}", "removed: private"
                continue
            vr = _representation(dataset, tag)
            for path, action in self._act(dataset, tag, vr, self._action(tag, vr)):
                yield f"{where}{path}", action

    def _action(self, tag: Any, vr: str) -> str:
        rule = rule_of(int(tag))
        if rule:
            action = TAKEN[rule.option] if self.profile.keeps(rule.option) else rule.basic
        else:
            action = unlisted(int(tag), vr)
            action = "remove" if action == "shift" and self.profile.dates == "remove" else action
            action = "keep" if action == "uid" and (self.profile.uids or names_a_kind(int(tag))) else action
        action = "uid" if (action, vr) == ("dummy", "UI") else action
        if (action == "descend" and vr != "SQ") or (action in ("keep", "characteristic") and _is_text_in_disguise(tag, vr)):
            return "remove"
        return action

    def _act(self, dataset: Any, tag: Any, vr: str, action: str) -> Iterator[Action]:
        """Do one thing to one element."""
        name = _name(tag)
        if vr == "SQ" and action in ("descend", "keep", "clean", "shift", "uid", "characteristic"):
            for number, item in enumerate(dataset[tag].value or []):
                for path, done in self._clean(item, ""):
                    yield f"{name}[{number}].{path}", done
        elif action == "remove":
            del dataset[tag]
            yield name, "removed"
        elif action == "keep":
            yield from _well_formed(dataset, tag, vr)
        elif (element := dataset[tag]).is_empty:
            return
        elif action == "dummy" and vr == "SQ":
            for item in element.value:
                _blank(item, self.secret)
            yield name, "dummy"
        elif action in ("empty", "dummy") or vr not in (*STRINGS, *CODES, "DA", "DT", "TM", "DS", "IS", "US"):
            element.value = _emptied(vr) if action == "empty" else dummy(vr)
            yield name, "emptied" if action == "empty" else "dummy"
        else:
            yield from self._changed(dataset, element, action)

    def _changed(self, dataset: Any, element: Any, action: str) -> Iterator[Action]:
        """Values that become others, one by one."""
        name, before = _name(element.tag), _texts(element)
        if action == "uid":
            element.value = _one_or_many([self.secret.uid(value.strip(" \0")) for value in before])
            yield name, "uid"
        elif action == "shift":
            after = [self._moved(value, element.VR) for value in before]
            element.value = _one_or_many(after) if all(after) else ""
            if element.VR != "TM" or not all(after):
                yield name, "shifted" if all(after) else "emptied: no full date or time"
        elif action == "clean":
            if after := " ".join(filter(None, map(vocabulary_only, before))):
                element.value = after
                yield name, "cleaned"
            else:
                yield from self._act(dataset, element.tag, element.VR, rule_of(int(element.tag)).basic)
        elif action == "characteristic":
            yield from self._characteristic(element, name, before)

    def _moved(self, value: str, vr: str) -> str:
        after = time_of_day(value) if vr == "TM" else shifted(value, self.days)
        return "" if vr != "TM" and self.known.is_birth(after) else after  # by chance the day of birth

    def _characteristic(self, element: Any, name: str, before: list[str]) -> Iterator[Action]:
        if element.VR == "AS":
            after = capped(before[0])
            if after != before[0]:
                element.value = after
                yield name, "capped" if after else "emptied: no age"
        elif (element.VR == "CS" and before[0].strip() not in ("M", "F", "O", "ALTERED", "UNALTERED")) or not _is_form(element.VR, before):
            element.value = ""
            yield name, "emptied: malformed"

    def _is_safe(self, dataset: Any, tag: Any) -> bool:
        """True for a private attribute that shall be kept, and for the creator of one, as the creator in this very data set says."""
        creator_at = tag.element if 0x10 <= tag.element <= 0xFF else tag.element >> 8
        creator = dataset.get((tag.group, creator_at)) if creator_at >= 0x10 else None
        owner = creator.value.strip(" \0").upper() if creator is not None and isinstance(creator.value, str) else ""
        if tag.element == creator_at:
            return any((owner, tag.group, other.element & 0xFF) in self.profile.private for other in _owned(dataset, tag))
        return (owner, tag.group, tag.element & 0xFF) in self.profile.private and _representation(dataset, tag) in PLAIN

    def _search(self, dataset: Any, where: str) -> Iterator[Action]:
        """What is known of the patient, sought in every element that is left; what holds it goes.

        Raises:
            BadCase: it cannot go.
        """
        for tag in list(dataset.keys()):
            if tag not in dataset:
                continue
            raw = dataset.get_item(tag)
            vr, path = raw.VR or dataset[tag].VR, f"{where}{_name(tag)}"
            if tag.group == PIXELS or _name(tag) == "SpecificCharacterSet" or (where == "" and _name(tag) in ("PatientName", "PatientID")):
                continue
            if vr == "SQ":
                for number, item in enumerate(dataset[tag].value or []):
                    yield from self._search(item, f"{path}[{number}].")
            elif self._holds(dataset, tag, vr, raw):
                if _name(tag) in ESSENTIAL or vr not in (*STRINGS, *CODES, "DA", "DT", *BYTES):
                    raise BadCase("", "identifier", f"holds a trace of the patient in {path}, which the object needs.")
                if tag.is_private and 0x10 <= tag.element <= 0xFF:  # without its creator a private element is nobody's
                    for other in _owned(dataset, tag):
                        del dataset[other]
                if vr in BYTES or tag.is_private:
                    del dataset[tag]
                else:
                    dataset[tag].value = DUMMY if vr in STRINGS else ""
                yield path, "identifier found: " + ("removed" if tag not in dataset else "dummy" if vr in STRINGS else "emptied")

    def _holds(self, dataset: Any, tag: Any, vr: str, raw: Any) -> bool:
        """True where an element holds a trace, as text or as bytes."""
        value = raw.value
        if value is None or len(value if hasattr(value, "__len__") else "") == 0:
            return False
        if isinstance(value, bytes) and (vr in BYTES or tag.is_private) and self.known.in_bytes(value):
            return True  # in numbers and texts, such traces are left to the search of the whole file, which refuses it
        if isinstance(value, bytes) and vr in BYTES:
            runs = (run.replace(b"\0", b"").decode("ascii") for run in PRINTABLE.findall(value))
            if any(self.known.in_text(run) for run in runs if vr in ("OB", "UN") or len(run) >= LONG):
                return True
        if tag.is_private and vr in ("FD", "FL") and any(self.known.in_number(f"{float(x):.15g}") for x in _texts(dataset[tag])):
            return True
        if vr in (*STRINGS, "CS", "AE", "AS", "UR", "PN") or (tag.is_private and vr == "UN"):
            readings = [*_texts(dataset[tag]), *([value.decode("utf-8", "ignore"), value.decode("latin-1")] if isinstance(value, bytes) else [])]
            return any(self.known.in_text(text, vr in ("CS", "AS")) for text in readings if text != DUMMY)
        if vr in ("DA", "DT"):
            return any(self.known.is_birth(text) for text in _texts(dataset[tag]))
        return vr in ("DS", "IS") and any(self.known.in_number(text) for text in _texts(dataset[tag]))


def _name(tag: Any) -> str:
    """An element for the audit: keyword, or numbers where there is none."""
    from pydicom.datadict import keyword_for_tag

    return ("" if tag.is_private else keyword_for_tag(tag)) or f"({tag.group:04X},{tag.element:04X})"


def _owned(dataset: Any, creator: Any) -> list[Any]:
    """Tags of the private elements whose block a creator names."""
    return [tag for tag in list(dataset.keys()) if (tag.group, tag.element >> 8) == (creator.group, creator.element)]


def _representation(dataset: Any, tag: Any) -> str:
    """How an element's value is to be read; of an unknown one, what the dictionary says."""
    vr = dataset.get_item(tag).VR
    return dataset[tag].VR if vr in ("UN", None) else vr


def _is_text_in_disguise(tag: Any, vr: str) -> bool:
    """True where an element holds text and the dictionary knows its attribute as something else."""
    from pydicom.datadict import dictionary_VR

    try:
        expected = dictionary_VR(tag)
    except KeyError:
        return True
    return vr in TEXTS and expected not in TEXTS


def _texts(element: Any) -> list[str]:
    """The values of an element as text."""
    value = element.value
    if value is None:
        return []
    return [str(v) for v in value] if hasattr(value, "__iter__") and not isinstance(value, str | bytes) and element.VR != "PN" else [str(value)]


def _one_or_many(values: list[str]) -> Any:
    return values[0] if len(values) == 1 else values


def _emptied(vr: str) -> Any:
    return [] if vr == "SQ" else b"" if vr in BYTES else None


def _is_form(vr: str, values: list[str]) -> bool:
    return vr not in ("DS", "IS") or all(is_number(value, vr == "IS") for value in values)


def _well_formed(dataset: Any, tag: Any, vr: str) -> Iterator[Action]:
    """Remove an element of numbers, ages or UIDs in text that holds something else."""
    raw = dataset.get_item(tag)
    if vr == "UI":
        good = all(re.fullmatch(r"[\d.]*", text.strip(" \0")) for text in _texts(dataset[tag]))
    elif vr in ("DS", "IS") and isinstance(raw.value, bytes):
        good = is_number(raw.value.decode("latin-1"), vr == "IS")
    elif vr == "AS":
        good = all(not text or capped(text) == text.strip(" \0") for text in _texts(dataset[tag]))
    else:
        return
    if not good:
        del dataset[tag]
        yield _name(tag), "removed: malformed"


def _blank(item: Any, secret: Secret) -> None:
    """Give every value of an item a dummy; UIDs become others."""
    for tag in list(item.keys()):
        if tag.is_private:
            del item[tag]
            continue
        element = item[tag]
        if element.VR == "SQ":
            for inner in element.value or []:
                _blank(inner, secret)
        elif element.VR == "UI":
            element.value = _one_or_many([secret.uid(value) for value in _texts(element)]) if element.value else ""
        elif not element.is_empty:
            element.value = dummy(element.VR)
