"""The table of DICOM PS3.15 Annex E as data, and what it means for an attribute.

Combined actions (X/Z/D: remove, unless the kind of object needs the attribute empty or with a value) are decided without the tables of all
kinds of objects: an attribute that is present gets the last action named, which fits every kind but for `NEVER_EMPTY`. A dummy reveals as little
as nothing does.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).parent / "tables" / "ps3.15-2026c.json"
#: Last letter of an action in the table -> what is done.
ACTIONS = {"X": "remove", "Z": "empty", "D": "dummy", "U": "uid", "U*": "descend"}
#: May be lacking in every image and must have items where it is there (PS3.3 C.7.2.1), so that of X/Z the first is done.
NEVER_EMPTY = ("ReferencedStudySequence",)
#: Option of a row -> what is done where it is taken.
TAKEN = {"dates": "shift", "patient": "characteristic", "device": "keep", "uids": "keep", "descriptors": "clean"}
LONG_TEXT = ("LT", "ST", "UT", "UC", "UR", "PN", "AE")
SHORT_TEXT = ("LO", "SH")
#: Groups of patients, studies, visits, orders, reports and media: what the table does not list there is no property of an image either.
ADMINISTRATIVE = {0x0010, 0x0012, 0x0014, 0x0032, 0x0038, 0x0040, 0x0044, 0x0074, 0x0088, 0x0100, 0x2100, 0x2200, 0x4008, 0x4010}
#: UIDs that name kinds of things, not things.
KINDS = ("Class", "TransferSyntax", "CodingScheme", "ContextUID", "MappingResource", "ContextGroupExtension", "SegmentationTemplate")
LUT_LABEL = 0x00409210  # names a mapping of values, which must have one


@dataclass(frozen=True)
class Rule:
    """A row of the table.

    Args:
        keyword: the attribute.
        action: as in the table, such as "X/Z/D".
        option: "" or the option of `Profile` under which something else is done.
        seek: "" or how its values are sought in what is left: "name", "words", "value", "uid" or "date".
    """

    keyword: str
    action: str
    option: str = ""
    seek: str = ""

    @property
    def basic(self) -> str:
        """What the Basic Profile does."""
        return "remove" if self.keyword in NEVER_EMPTY else ACTIONS[self.action.rpartition("/")[2]]


@cache
def table() -> dict[str, Rule]:
    """Tag as 8 hexadecimal digits, "x" for any, -> rule."""
    content = json.loads(TABLE.read_text(encoding="utf-8"))
    names = ("keyword", "action", "option", "seek")
    return {row["tag"]: Rule(*(row.get(name, "") for name in names)) for row in [*content["rows"], *content["own"]]}


@cache
def safe_private() -> frozenset[tuple[str, int, int]]:
    """Private attributes that hold numbers of the acquisition only: creator in capitals, group, last byte of the element."""
    rows = json.loads(TABLE.read_text(encoding="utf-8"))["private"]
    return frozenset((row["creator"], int(row["group"], 16), int(row["element"], 16)) for row in rows)


@cache
def rule_of(tag: int) -> Rule | None:
    """The row of a tag, also of the repeating groups 50xx and 60xx; None where the table has none."""
    name = f"{tag:08X}"
    repeating = f"{name[:2]}xx"
    return table().get(name) or table().get(repeating + name[4:]) or table().get(repeating + "xxxx")


def names_a_kind(tag: int) -> bool:
    """True for an attribute whose UID names a kind of things, also one of a manufacturer; the table lists none that must be kept."""
    from pydicom.datadict import keyword_for_tag

    return rule_of(tag) is None and any(word in keyword_for_tag(tag) for word in KINDS)


def unlisted(tag: int, vr: str) -> str:
    """What is done with a standard attribute that the table does not list, by its value representation.

    Text without form may hold anything and becomes a dummy, except short texts of the image and its acquisition, which are searched.
    """
    from pydicom.datadict import dictionary_has_tag, repeater_has_tag

    group = tag >> 16
    if group == 0x0002 or tag & 0xFFFF == 0:
        return "remove"
    if not (dictionary_has_tag(tag) or repeater_has_tag(tag)) or vr == "UN":
        return "remove"
    if vr in LONG_TEXT or (vr in SHORT_TEXT and group in ADMINISTRATIVE and tag != LUT_LABEL):
        return "dummy"
    return {"SQ": "descend", "UI": "uid", "DA": "shift", "DT": "shift", "TM": "shift"}.get(vr, "keep")
