"""Words that identify nobody: of anatomy, sequences, scanners, hospitals and file names.

A word of these is no trace of a person on its own, even where it is part of a name or an address; a whole name is one all the same.
"""

import json
from pathlib import Path

_CONTENT = json.loads((Path(__file__).parent / "tables" / "words.json").read_text(encoding="utf-8"))


def _set(name: str) -> frozenset[str]:
    return frozenset(word for line in _CONTENT[name] for word in line.split())


WORDS = _set("vocabulary")  # what descriptions are made of; kept by the option `descriptors`
NOBODY = WORDS | _set("common")
SIDECAR = _set("sidecar")  # names in BIDS sidecars whose values say how an image was acquired
TERMS = frozenset(term for line in _CONTENT["terms"] for term in line.split("|"))  # whole values that are nobody's
PLACEHOLDERS = _set("placeholders")  # a name of a person with one of these is none
