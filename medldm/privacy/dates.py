"""Dates as people write them, in the numbers and words of a text."""

import re
import unicodedata
from collections.abc import Iterator
from datetime import date

#: First letters of months in English, German, French, Spanish, Italian, Portuguese and Dutch, without accents.
MONTHS = {
    1: "jan ene gen", 2: "feb fev", 3: "mar mrt mrz maa mae", 4: "apr abr avr", 5: "may mai mei mag", 6: "jun juin giu",
    7: "jul juil lug", 8: "aug aou ago", 9: "sep set", 10: "oct okt ott out", 11: "nov", 12: "dec dez dic",
}  # fmt: skip
MONTH_OF = {start: month for month, starts in MONTHS.items() for start in starts.split()}
ROMAN = {name: month for month, name in enumerate(["i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii"], start=1)}
FIRST_YEAR, LAST_YEAR = 1850, 2150
THREE = re.compile(r"(?<!\d)(?=(\d{1,4})[\W_年月]{1,5}(\d{1,2})[\W_年月]{1,5}(\d{1,4})(?!\d))")  # numbers in a row; they may overlap
APART = 3  # words between the day, the month's name and the year

Day = tuple[int, int, int]


def days_in(text: str, six: bool = False) -> set[Day]:
    """Every day (year modulo 100, month, day) that a text may mean: in any order of its parts, with any separators, months as numbers or names.

    Args:
        text: of any kind.
        six: six digits in a row are dates too.
    """
    plain = _plain(text)
    found = {day for match in THREE.finditer(plain) for day in _orders(*match.groups())}
    for run in re.findall(r"(?<!\d)\d{8}(?!\d)", plain):
        found |= {*_orders(run[:4], run[4:6], run[6:]), *_orders(run[:2], run[2:4], run[4:])}
    for run in re.findall(r"(?<!\d)\d{6}(?!\d)", plain) if six else ():
        found |= set(_orders(run[:2], run[2:4], run[4:]))
    return found | {day for month, numbers in _named(plain) for day in _with_name(month, numbers)}


def months_in(text: str) -> set[tuple[int, int]]:
    """Every (year modulo 100, month) of which a text gives the month, as a name or a number beside it, and the year in four digits."""
    plain = _plain(text)
    found = {(y, month) for month, numbers in _named(plain) for y in numbers if len(y) == 4}
    found |= {(y, int(m)) for m, y in re.findall(r"(?<!\d)(?<!\d[\W_])(0?[1-9]|1[0-2])[\W_年月]{1,3}(\d{4})(?!\d)", plain)}
    found |= {(y, int(m)) for y, m in re.findall(r"(?<!\d)(\d{4})[\W_年月]{1,3}(0?[1-9]|1[0-2])(?!\d|[\W_月]{1,3}\d)", plain)}
    return {(int(y) % 100, month) for y, month in found if FIRST_YEAR <= int(y) <= LAST_YEAR}


def spellings(day: Day) -> Iterator[str]:
    """A day of either century in the forms that stand within longer words and bytes: all parts together, the month as a number or in English."""
    for century in ("19", "20"):
        year, month, number = f"{century}{day[0]:02d}", f"{day[1]:02d}", f"{day[2]:02d}"
        name = MONTHS[day[1]][:3]
        yield from (year + month + number, number + month + year, month + number + year, number + name + year, name + number + year)
        yield from (f"{day[2]}{name}{year}", f"{name}{day[2]}{year}", f"{year}{name}{number}")


def _plain(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c))


def _orders(a: str, b: str, c: str) -> Iterator[Day]:
    """What three numbers in a row may mean: year, month, day; day, month, year; month, day, year."""
    for year, month, day in ((a, b, c), (c, b, a), (c, a, b)):
        if len(year) in (2, 4) and len(month) <= 2 and len(day) <= 2:
            yield from _day(int(year), int(month), int(day), len(year))


def _day(year: int, month: int, day: int, digits: int) -> Iterator[Day]:
    if digits == 4 and not FIRST_YEAR <= year <= LAST_YEAR:
        return
    try:
        date(year if digits == 4 else 2000 + year, month, day)
    except ValueError:
        return
    yield year % 100, month, day


def _named(plain: str) -> Iterator[tuple[int, list[str]]]:
    """Each name of a month, and the numbers near it."""
    words = re.findall(r"\d+|[^\W\d_]+", plain)
    for place, word in enumerate(words):
        between = 0 < place < len(words) - 1 and words[place - 1].isdigit() and words[place + 1].isdigit()
        if month := MONTH_OF.get(word[:4]) or MONTH_OF.get(word[:3]) or (between and ROMAN.get(word)):
            yield month, [w for w in words[max(0, place - APART) : place + APART + 1] if w.isdigit() and len(w) <= 4]


def _with_name(month: int, numbers: list[str]) -> Iterator[Day]:
    for place, day in enumerate(numbers):
        for year in numbers[:place] + numbers[place + 1 :]:
            if len(day) <= 2 and len(year) in (2, 4):
                yield from _day(int(year), month, int(day), len(year))
