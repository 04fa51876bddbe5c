"""What is known of a person is found however it is written, and what others write is not."""

import pytest

from medldm.privacy.dates import days_in, months_in
from medldm.privacy.identifiers import Identifiers
from medldm.privacy.spelling import pieces_of


def known(**of: str) -> Identifiers:
    result = Identifiers()
    for kind, text in of.items():
        result.add(kind, text)
    return result


BIRTHS = ["19700302", "1970.03.02", "1970-03-02", "02.03.1970", "2/3/1970"]
WRITTEN = [
    "2.3.1970", "*2.3.1970", "2/3/1970", "1970-3-2", "1970/3/2", "02.03.70", "02/03/70", "700302", "030270", "2 March 1970", "2nd March 1970",
    "March 2, 1970", "2. März 1970", "2 de marzo de 1970", "2 mars 1970", "MARCH 1970", "2-Mar-1970", "geb 02 03 70 t1", "02_03_1970", "x19700302y",
    "19700302T101500", "2Mar1970", "02. Mrz 1970", "1970年3月2日", "2.III.1970", "03/1970", "1970-03", "1970   3    2",
]  # fmt: skip


@pytest.mark.parametrize("birth", BIRTHS)
def test_a_date_of_birth_is_found_in_every_form(birth):
    one = known(birth=birth)
    assert [text for text in WRITTEN if not one.in_text(text)] == []
    others = ["3.3.1970", "2.4.70", "1971-03-02", "B30s 70 03", "2 March 1975", "April 1970", "700303", "marrow 70"]
    assert [text for text in others if one.in_text(text)] == []


def test_other_dates_are_found_with_their_separators_but_not_in_six_digits():
    one = known(date="20240102")
    assert all(one.in_text(text) for text in ("2.1.2024", "1/2/24", "2 Jan 2024", "20240102", "on 2024-01-02", "2. Jänner 2024"))
    assert not any(one.in_text(text) for text in ("240102", "January 2024", "3.1.2024"))


def test_days_and_months():
    assert days_in("31.12.1999 31.2.1999 12.31.99") == {(99, 12, 31)}
    assert days_in("1.2.3 4.5") == set() and days_in("01.02.03") == {(1, 2, 3), (3, 2, 1), (3, 1, 2)}
    assert days_in("20011112", six=True) == {(1, 11, 12)} == days_in("011112", six=True) & {(1, 11, 12)} and days_in("011112") == set()
    assert months_in("sept. 1950") == {(50, 9)} and months_in("Okt 51") == months_in("1950") == set()


NUMBERS = [
    ("00123456", "123456"), ("0004821", "4821 head"), ("0048217", "ID 48217"), ("MRN-1234567", "1234567"), ("H1234567", "no 1234567"),
    ("PAT-482177", "482177"), ("4711", "ID4711"), ("12345", "MR12345"), ("AB/12-34", "AB1234"),
]  # fmt: skip


@pytest.mark.parametrize(("number", "text"), NUMBERS)
def test_a_number_is_found_without_its_zeros_and_letters(number, text):
    assert known(id=number).in_text(text)
    assert not known(id=number).in_text("B30 12 48 99 7")


def test_numbers_that_are_numbers():
    one = known(id="0-7654321")
    assert all(one.in_number(text) for text in ("7654321", "+7654321", "7654321.0", " 07654321 "))
    assert not any(one.in_number(text) for text in ("765432", "76543210", "7654321.5"))


NAMES = [
    ("YILDIZ^Ali", "Yıldız"), ("Yıldız^Ali", "YILDIZ"), ("KIRMIZI^X", "Kırmızı"), ("D'Arcy^Ann", "Darcy"), ("O'Shea^Pat", "GTV_OShea"),
    ("N'Dri^Yao", "NDRI"), ("Al-Ali^Omar", "ALALI"), ("Koch^Anna", "AnnaKoch"), ("Koch^Anna", "KochT1"),
    ("Koch^Anna", "ANNAKOCH2"), ("Wu^Li", "LiWu"),
    ("Ma^Yo", "YoMa"), ("KIM^Bo", "T1Kim"), ("Đorđević^Ana", "Djordjevic"), ("Djordjevic^Ana", "Đorđević"), ("Đinh^An", "Djinh"),
    ("やまだ^たろう", "ヤマダ"), ("ヤマダ^タロウ", "やまだ"), ("Müller^Jan", "M?ller"), ("Müller^Jan", "MÃ¼ller"), ("WHITE^John", "White"),
    ("LONG^Ivy", "Long 3"), ("WEST^Ada", "West, A."), ("Bravo^Juan", "bravo"),
    ("White^Tim", "Tim White coil"), ("White^Tim", "White"), ("West^Pat", "Pat West"), ("Koch^Anna", "AKoch"),
    ("Koch^Anna", "KOCHA"), ("King^Tim", "TKing"), ("Müller^Jan", "M%C3%BCller"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text"), NAMES)
def test_a_name_is_found_in_every_spelling(name, text):
    assert known(name=name).in_text(text)
    assert not any(known(name=name).in_text(other) for other in ("B30 kernel", "T2 FLAIR 3D", "Siemens Skyra", "syngo MR E11", "head coil 32"))


def test_names_that_are_words_are_no_trace_in_codes_nor_where_all_are_words():
    assert not known(name="Hand^John").in_text("HAND", code=True) and known(name="Hand^John").in_text("HAND")
    assert known(name="Quill^Zoe").in_text("ZOE", code=True)
    assert not known(name="HEAD^PHANTOM").in_text("head coil") and known(name="HEAD^PHANTOM").in_text("HeadPhantom")


@pytest.mark.parametrize(("name", "text", "code"), [
    ("Mustermann^Max", "MAX", True), ("Kim^Min", "MIN IP", True), ("Smith^Norm", "NORM", True), ("Putri^Prima", "PRIMARY", True),
    ("Hu^Jin", "HU", False),
    ("Smith^Philip", "Philips Medical Systems", False), ("Smith^Philip", "for Philips", False), ("Lung^Ka", "LUNG", False),
])  # fmt: skip
def test_terms_of_the_standard_and_names_of_makers_are_nobodys(name, text, code):
    assert not known(name=name).in_text(text, code)


def test_bytes_hold_whole_numbers_and_no_parts_of_them():
    one = known(id="12345678", uid="1.2.826.0.1.3680043")
    for text in ("id 12345678 x", "uid 1.2.826.0.1.3680043!"):
        assert all(one.in_bytes(text.encode(coding)) for coding in ("ascii", "utf-16-le", "utf-16-be"))
    assert not one.in_bytes(b"912345678 1.2.826.0.1.36800431 1.12345678")
    assert known(id="12-34-56-78").in_bytes(b"(12-34-56-78)")


def test_pieces():
    assert pieces_of("AnnaKochT1_x2 MÜLLERsB") == ["anna", "koch", "t", "1", "x", "2", "mullers", "b"]
