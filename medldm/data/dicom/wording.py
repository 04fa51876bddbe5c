"""Words by which a user names series of a DICOM archive.

A word is looked for among the words of a series' description, whatever stands between them (`t1` is in "AX T1 fs" and in
"t1_mprage", not in "T1W" or "3DT1"); `t1 mprage` are two that follow each other. With `*` or `?` it is a pattern of the whole
description (`*t1*`). Case does not matter. Protocol names count for series without description, and for all where no description of
the archive has the word; then names of sequences, in the same way: scanners exist that call every series of an exam by one protocol.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from medldm.errors import UserError


def names(word: str, text: str) -> bool:
    """True where a word or pattern, as above, names a series of this description."""
    if "*" in word or "?" in word:
        pattern = re.escape(word.casefold()).replace(r"\*", ".*").replace(r"\?", ".")
        return re.fullmatch(pattern, text.casefold(), re.DOTALL) is not None
    return f" {plain(word)} " in f" {plain(text)} "


def plain(text: str) -> str:
    """A text as words in small letters with one space between them."""
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def refuse_wrong(contrasts: Sequence[str]) -> None:
    """Refuse words that name nothing.

    Raises:
        UserError: a word is empty or given twice, or there is none.
    """
    if not contrasts or not all(plain(word) for word in contrasts):
        raise UserError("--contrasts has an empty word.", "Give words of the descriptions of series: --contrasts '[t1, flair]'")
    if twice := [word for word, count in Counter(word.casefold() for word in contrasts).items() if count > 1]:
        raise UserError(f"--contrasts names {twice[0]!r} twice.", "Name each contrast once.")


def matched_texts(texts: Mapping[str, Sequence[str]], word: str) -> dict[str, str]:
    """The text of each case that a word is held against: of the first kind in which any case has it, or the next where a case lacks that.

    Args:
        texts: case -> its description, protocol name and sequence name.
        word: as in `names`.
    """
    for start in range(3):
        found = {case: next((text for text in its[start:] if text), "") for case, its in texts.items()}
        if any(text and names(word, text) for text in found.values()):
            return {case: text for case, text in found.items() if text}
    return {}
