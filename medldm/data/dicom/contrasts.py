"""Which series of a study become the channels of a case: each is named by a word of its description (`wording.py`)."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medldm.data.dicom.geometry import Grid
from medldm.data.dicom.wording import matched_texts, names, plain, refuse_wrong
from medldm.errors import UserError

SAME_GRID_MM = 1e-3
REFORMATTED = {"MPR", "REFORMATTED", "CSA MPR", "MIP", "MAX_IP", "MIN_IP", "PROJECTION IMAGE", "CSA RESAMPLED", "CURVED MPR"}
KEY_ADVICE = "`medldm check --key key.csv` writes the descriptions to a file of your own."

Found = dict[str, list["Candidate"]]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A series, or a volume of one that holds several.

    Args:
        case: its pseudonym.
        study: tells studies apart.
        series: tells series apart.
        texts: its description, protocol name and sequence name; private.
        image_type: values of ImageType.
        component: "M", "P", "R", "I" (magnitude, phase, real, imaginary) or "".
        frame: frame of reference.
        grid: of the volume; None where it is none.
    """

    case: str
    study: tuple[str, ...]
    series: str
    texts: tuple[str, ...] = field(repr=False)
    image_type: tuple[str, ...] = ()
    component: str = ""
    frame: str = ""
    grid: Grid | None = None


@dataclass(frozen=True)
class Choice:
    """What becomes of a study.

    Args:
        members: pseudonym and word of its series, in the order of the words; the first gives the case its name.
        status: "ok", "no_image" (a word names none), "channels" (a word names several) or "grid_mismatch".
        reason: why it is not ok.
    """

    members: tuple[tuple[str, str], ...]
    status: str = "ok"
    reason: str = ""


@dataclass(frozen=True)
class Choices:
    """What becomes of the studies of an archive.

    Args:
        cases: one for each study in which a word names a volume.
        others: pseudonyms of what is not among the chosen: volumes, and what is no volume and named by no word.
        notes: one sentence each.
    """

    cases: tuple[Choice, ...]
    others: frozenset[str]
    notes: tuple[str, ...]


def choose(candidates: Sequence[Candidate], contrasts: Sequence[str], root: Path) -> Choices:
    """Find the series that each word names, one a study.

    Of several the one is taken whose description is nothing but the word, else the only original (not derived) one, else the only
    one that is no reformatted stack, else the only one that is no phase image. What one word names alone is no choice for the others:
    with `[t2, flair]` the series "T2" and "T2 FLAIR" are told apart.

    Args:
        candidates: volumes, and series that are meant to be volumes.
        contrasts: the words.
        root: the archive, for messages.

    Raises:
        UserError: a word is empty, given twice, or names no volume of the archive.
    """
    refuse_wrong(contrasts)
    described = {one.case: one.texts for one in candidates}
    texts = {word: matched_texts(described, word) for word in contrasts}
    named = {word: {case for case, text in texts[word].items() if names(word, text)} for word in contrasts}
    volumes = {one.case for one in candidates if one.grid}
    for word in contrasts:
        if not named[word] & volumes:
            fix = f"A part of a word is found by a pattern such as '*{plain(word).split()[0]}*'. {KEY_ADVICE}"
            raise UserError(f"{root}: no series that is a volume has {word!r} in its description, protocol or sequence name.", fix)
    studies: dict[tuple[str, ...], list[Candidate]] = defaultdict(list)
    for one in candidates:
        if one.grid:
            studies[one.study].append(one)
    cases, preferred = [], 0
    for own in studies.values():
        found = {word: [one for one in own if one.case in named[word]] for word in contrasts}
        if any(found.values()):
            choice, by_preference = _of_study(found, texts)
            cases.append(choice)
            preferred += by_preference and choice.status == "ok"
    taken = {case for choice in cases for case, _ in choice.members}
    wanted = {one.case for one in candidates if not one.grid and not any(one.texts)}.union(*named.values()) - volumes
    others = frozenset(one.case for one in candidates) - taken - wanted
    return Choices(tuple(cases), others, tuple(_notes(len(studies), len(cases), preferred)))


def _of_study(found: Found, texts: Mapping[str, Mapping[str, str]]) -> tuple[Choice, bool]:
    """One study, and whether a preference decided anything in it.

    Args:
        found: word -> the volumes that it names.
        texts: word -> case -> the text that it was found in.
    """
    chosen, left, preferred = _assign(found, texts)
    parts = {word: [chosen[word]] if word in chosen else left[word] or found[word] for word in found}
    first: dict[str, str] = {}
    for word, ones in parts.items():
        first |= {one.case: word for one in ones if one.case not in first}
    members = tuple(first.items())
    if lacking := [word for word in found if not found[word]]:
        listed = " and none ".join(f"that matches {word!r}" for word in lacking)
        return Choice(members, "no_image", f"has no series {listed} (or none that is a volume)."), preferred
    if open_word := next((word for word in found if word not in chosen), ""):
        return Choice(members, "channels", _ambiguous(open_word, found, left, texts[open_word])), preferred
    one, *others = chosen.values()
    if len({part.frame for part in chosen.values()}) > 1 and not all(_same_grid(one.grid, other.grid) for other in others):
        reason = "has series of different frames of reference, so that their positions cannot be compared, and their grids are not equal."
        return Choice(members, "grid_mismatch", reason), preferred
    return Choice(members), preferred


def _assign(found: Found, texts: Mapping[str, Mapping[str, str]]) -> tuple[dict[str, Candidate], Found, bool]:
    """Word -> its volume where that is certain, in the order of the words; what is left for the others; whether a preference decided.

    In each round words with one volume left are settled, where no other word claims it; only when there is none, preferences count.
    So the result does not depend on the order of the words.
    """
    chosen: dict[str, Candidate] = {}
    left, preferred = dict(found), False
    while True:
        for prefer in (False, True):
            picks = {}
            for word in left.keys() - chosen.keys():
                best = _best(word, left[word], texts[word]) if prefer else left[word]
                if len(best) == 1:
                    picks[word] = best[0]
            claims = Counter(picks.values())
            settled = {word: one for word, one in picks.items() if claims[one] == 1}
            if settled:
                break
        if not settled:
            return {word: chosen[word] for word in found if word in chosen}, left, preferred
        chosen |= settled
        preferred = preferred or prefer
        gone = set(settled.values())
        left = {word: ones if word in chosen else [one for one in ones if one not in gone] for word, ones in left.items()}


def _best(word: str, ones: Sequence[Candidate], texts: Mapping[str, str]) -> Sequence[Candidate]:
    """Those that are preferred, as in `choose`."""
    for wanted in (
        lambda one: plain(texts[one.case]) == plain(word),
        lambda one: one.image_type[:2] == ("ORIGINAL", "PRIMARY"),
        lambda one: not REFORMATTED & set(one.image_type),
        lambda one: one.component in ("", "M"),
    ):
        ones = _filtered(wanted, ones)
    return ones


def _filtered(wanted: Callable[[Candidate], bool], ones: Sequence[Candidate]) -> Sequence[Candidate]:
    return [one for one in ones if wanted(one)] or ones


def _ambiguous(word: str, found: Found, left: Found, texts: Mapping[str, str]) -> str:
    """Why a word settles on no volume of a study."""
    ones = left[word]
    rivals = [other for other in found if other != word and any(one in found[other] for one in found[word])]
    if len(ones) < 2 and rivals:
        return f"has no series for {word!r} alone: what matches it also matches {rivals[0]!r}."
    best = _best(word, ones, texts)
    if len({one.series for one in best}) == 1:
        return f"has a series that matches {word!r} and holds {len(best)} volumes (echoes, phases, times ...)."
    if len({texts[one.case] for one in best}) == 1:
        return f"has {len(best)} series that match {word!r} and have one description; no word tells them apart."
    return f"has {len(best)} series that match {word!r}; say it more closely."


def _same_grid(one: Grid | None, other: Grid | None) -> bool:
    return bool(one and other and one.shape == other.shape and float(np.abs(one.matrix - other.matrix).max()) <= SAME_GRID_MM)


def _notes(studies: int, found: int, preferred: int) -> Iterator[str]:
    if studies > found:
        yield f"{studies - found} of {studies} studies have no volume that --contrasts names; their series are set aside."
    if preferred:
        yield f"In {preferred} studies several series match a word; the original or the plainly named one is taken."
