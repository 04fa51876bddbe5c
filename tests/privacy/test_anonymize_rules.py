"""The table of the standard, and what each of its actions does to a value."""

from collections import Counter

import pytest
from pydicom import Dataset
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.sequence import Sequence

from medldm.errors import UserError
from medldm.privacy.deidentify import Deidentifier
from medldm.privacy.identifiers import Identifiers
from medldm.privacy.profile import Profile, private_list
from medldm.privacy.pseudonyms import Secret
from medldm.privacy.rules import ACTIONS, TAKEN, rule_of, safe_private, table
from medldm.privacy.values import capped, is_number, shifted, time_of_day, vocabulary_only

SECRET = Secret(bytes(range(32)))
VALUES = {
    "DA": "20200229", "DT": "20200229101500.5+0100", "TM": "101500", "AS": "093Y", "DS": "3.5", "IS": "12", "UI": "1.2.3.44", "UR": "http://canary.example",
    "US": 7, "SS": -7, "UL": 7, "FD": 1.5, "FL": 1.5, "OB": b"canary!!", "UN": b"canary!!", "CS": "CANARY",
}  # fmt: skip
PLAIN_TAGS = [name for name in table() if "x" not in name and dictionary_has_tag(int(name, 16)) and not name.startswith(("0000", "0002"))]


def deidentifier(**options) -> Deidentifier:
    return Deidentifier(Profile(**options), SECRET, "p001", -400, Identifiers())


def value_of(vr: str):
    return Sequence([inner()]) if vr == "SQ" else VALUES.get(vr, "CANARY")


def inner() -> Dataset:
    found = Dataset()
    found.PatientName, found.CodeMeaning, found.ReferencedSOPInstanceUID = "CANARY", "CANARY", "1.2.3.44"
    return found


def test_the_table_is_whole_and_every_action_is_done():
    standard = Counter(rule.action for rule in list(table().values()))
    assert standard["X"] >= 415 and sum(standard.values()) == 655 + 9
    assert set(standard) == {"X", "Z", "D", "U", "Z/D", "X/Z", "X/D", "X/Z/D", "X/Z/U*"}
    assert {rule.basic for rule in table().values()} == set(ACTIONS.values())
    assert {rule.option for rule in table().values()} == {"", *TAKEN}
    for name, rule in table().items():
        if "x" not in name and dictionary_has_tag(int(name, 16)):
            assert rule.keyword == keyword_for_tag(int(name, 16))


@pytest.mark.parametrize("name", PLAIN_TAGS)
def test_the_basic_profile_does_what_the_table_says(name):
    tag, dataset = int(name, 16), Dataset()
    vr, rule = dictionary_VR(tag), rule_of(tag)
    dataset.add_new(tag, vr, value_of(vr))
    deidentifier(dates="remove", characteristics=False).apply(dataset)
    if rule.keyword in ("PatientName", "PatientID"):
        assert dataset[tag].value == "p001"
        return
    if rule.basic == "remove":
        assert tag not in dataset
    elif rule.basic == "empty":
        assert dataset[tag].is_empty
    elif rule.basic == "uid" or vr == "UI":
        assert dataset[tag].value == SECRET.uid("1.2.3.44")
    elif rule.basic == "descend":
        assert dataset[tag].value[0].ReferencedSOPInstanceUID == SECRET.uid("1.2.3.44") and dataset[tag].value[0]["PatientName"].is_empty
    else:  # a dummy, or a sequence that is cleaned
        assert not dataset[tag].is_empty and "CANARY" not in str(dataset).upper() and "1.2.3.44" not in str(dataset)
        if vr == "SQ":
            assert dataset[tag].value[0].ReferencedSOPInstanceUID == SECRET.uid("1.2.3.44")


@pytest.mark.parametrize("name", [name for name in PLAIN_TAGS if rule_of(int(name, 16)).option])
def test_an_option_keeps_what_it_says_and_only_that(name):
    tag, rule = int(name, 16), rule_of(int(name, 16))
    vr = dictionary_VR(tag)
    value = {"descriptors": "T1 axial for CANARY", "patient": {"AS": "089Y", "CS": "M", "DS": "70.5"}.get(vr, "M")}.get(rule.option, value_of(vr))
    dataset = Dataset()
    dataset.add_new(tag, vr, value)
    deidentifier(dates="shift", device=True, uids=True, descriptors=True).apply(dataset)
    expected = {
        "dates": {"DA": "20190125", "DT": "20190125101500.5", "TM": "101500"}.get(vr),
        "descriptors": "T1 axial for".replace(" for", ""),
    }.get(rule.option, value)
    assert str(dataset[tag].value) == str(expected)


def test_an_attribute_that_is_not_in_the_table():
    dataset = Dataset()
    dataset.add_new(0x00080070, "LO", "MAKER")
    dataset.add_new(0x00420099, "LO", "no such attribute")
    dataset.add_new(0x00100000, "UL", 12)
    dataset.add_new(0x0040A160, "UT", "free text")
    dataset.add_new(0x00102201, "LO", "Canis")
    dataset.add_new(0x00181151, "LO", "text in place of a number")
    dataset.add_new(0x00181152, "IS", 5)
    dataset.add_new(0x60000022, "LO", "overlay")
    dataset.add_new(0x601E1500, "LO", "overlay")
    dataset.add_new(0x50100022, "LO", "curve")
    dataset.add_new(0x00081155, "UI", "1.2.3.44")
    dataset.add_new(0x00081150, "UI", "1.2.840.10008.5.1.4.1.1.2")
    deidentifier().apply(dataset)
    assert {keyword_for_tag(tag) for tag in list(dataset.keys())} == {
        "Manufacturer", "TextValue", "PatientSpeciesDescription", "Exposure",
        "ReferencedSOPInstanceUID", "ReferencedSOPClassUID", "PatientName", "PatientID",
    }  # fmt: skip
    assert dataset.TextValue == dataset.PatientSpeciesDescription == "ANONYMIZED"
    assert dataset.ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2" and dataset.ReferencedSOPInstanceUID == SECRET.uid("1.2.3.44")


def test_an_empty_element_stays_empty():
    dataset = Dataset()
    dataset.ContentDate, dataset.StudyDate, dataset.ProtocolName = "", None, ""
    deidentifier(dates="remove").apply(dataset)
    assert all(dataset[name].is_empty for name in ("ContentDate", "StudyDate", "ProtocolName"))


@pytest.mark.parametrize(("before", "after"), [
    ("20200301", "20200229"), ("2020.03.01", "20200229"), ("20210301", "20210228"), ("20200301101500.25+0100", "20200229101500.25"),
    ("202003", ""), ("2020", ""), ("20200230", ""), ("-0010101", ""), ("00010101", ""), ("CANARY", ""), ("20200301CANARY", ""), ("", ""),
    ("20200301-20200401", ""), ("99991231", "99991230"),
])  # fmt: skip
def test_dates_move_by_a_day_or_go(before, after):
    assert shifted(before, -1) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [("089Y", "089Y"), ("090Y", "090Y"), ("093Y", "090Y"), ("120Y", "090Y"), ("007D", "007D"), ("999M", "999M"), ("93", ""), ("CANARY", "")],
)
def test_ages_end_at_90(before, after):
    assert capped(before) == after


def test_a_sequence_that_must_have_items_goes_and_one_that_may_be_empty_stays():
    dataset = Dataset()
    dataset.ReferencedStudySequence, dataset.AcquisitionContextSequence = Sequence([inner()]), Sequence([inner()])
    deidentifier().apply(dataset)
    assert "ReferencedStudySequence" not in dataset and dataset["AcquisitionContextSequence"].is_empty


def test_small_forms():
    assert time_of_day("101500.123456") and time_of_day("10:15:00") and not time_of_day("CANARY") and not time_of_day("101500 CANARY")
    assert is_number("1.5\\-2e3\\", False) and is_number("12", True) and not is_number("CANARY", False) and not is_number("1.5", True)
    assert vocabulary_only("t1_mprage_sag for Dr. Smith 20200229 p2 3 mm") == "t1 mprage sag 3"


def test_private_lists():
    assert private_list(["standard"]) == safe_private() and ("SIEMENS MR HEADER", 0x19, 0x0C) in safe_private()
    assert private_list(["ACME, LTD,0019,0c"]) == {("ACME, LTD", 0x19, 0x0C)}
    for wrong in ("ACME", "ACME,0018,0C", "ACME,0019,1000", ",0019,0C", "ACME,19xx,0C"):
        with pytest.raises(UserError, match="--private"):
            private_list([wrong])
    with pytest.raises(UserError, match="--pixels"):
        Profile(pixels=())
    with pytest.raises(UserError, match="--pixels"):
        Profile(pixels=((0, 0, 0, 5),))


def test_uids_and_days_depend_on_the_secret_alone():
    other = Secret(bytes(32))
    assert SECRET.uid("1.2.3") == Secret(bytes(range(32))).uid("1.2.3") != other.uid("1.2.3")
    made = {SECRET.uid(f"1.2.{n}") for n in range(500)}
    assert len(made) == 500 and all(uid.startswith("2.25.") and len(uid) <= 44 and int(uid[5:]) < 2**128 and uid[5] != "0" for uid in made)
    days = [SECRET.days(str(n)) for n in range(500)]
    assert max(days) <= -366 and min(days) >= -3653 and len(set(days)) > 400 and SECRET.uid("") == ""
