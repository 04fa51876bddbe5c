"""Words of a text in one spelling, whatever accents, scripts and codings they were written in."""

import re
import unicodedata
from collections.abc import Iterator
from functools import reduce
from itertools import pairwise

TWO_LETTERS = {"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa", "đ": "dj"}
LIGATURES = str.maketrans({"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"})
KATAKANA = {code: code + 0x60 for code in range(0x3041, 0x3097)}  # of hiragana


def fold(text: str) -> str:
    """Small letters without accents, one form of each character, and one script of kana."""
    plain = unicodedata.normalize("NFKD", text.casefold().translate(LIGATURES))
    return unicodedata.normalize("NFC", "".join(c for c in plain if not unicodedata.combining(c))).translate(KATAKANA)


def shortened(word: str) -> str:
    """A folded word with one spelling of the letters that some write with an accent and others as two letters: Mueller, Muller and Müller."""
    return re.sub("(?<=[aou])e|(?<=a)a|(?<=d)j", "", word)


def respelt(text: str) -> set[str]:
    """A text with two letters in place of each accent, and with accents in place of two letters."""
    small = text.casefold()
    return {small.translate(str.maketrans(TWO_LETTERS)), reduce(lambda t, pair: t.replace(pair[1], pair[0]), TWO_LETTERS.items(), small)}


def words_of(text: str) -> list[str]:
    """The folded words and numbers of a text."""
    return re.findall(r"[^\W_]+", fold(text))


def pieces_of(text: str) -> list[str]:
    """The same, and a new word begins where a capital follows a small letter, and between letters and digits: AnnaKoch, KochT1."""
    ends = [(a.islower() and b.isupper()) or (a.isalpha() and b.isdigit()) or (a.isdigit() and b.isalpha()) for a, b in pairwise(f"{text} ")]
    return words_of("".join(c + " " * end for c, end in zip(text, ends, strict=True)))


def garbled(text: str) -> Iterator[str]:
    """What becomes of a text whose coding was mistaken: words of UTF-8 read as Latin-1, and the letters around what was lost (M?ller)."""
    if not text.isascii():
        yield "".join(words_of(text.encode("utf-8", "ignore").decode("latin-1")))
        yield from (word for part in re.split(r"[^\x00-\x7f]+", text) for word in words_of(part) if len(word) > 2)


def is_wide(text: str) -> bool:
    """True where a text has characters of scripts that write words without spaces."""
    return any(ord(c) >= 0x2E80 for c in text)
