"""The private header of Siemens MR images (CSA), as far as a mosaic needs it: how many images it holds and which way they run."""

import struct
from math import isfinite

LIMIT_TAGS, LIMIT_ITEMS = 1000, 10000


def read_csa(data: bytes, wanted: frozenset[str]) -> dict[str, tuple[float, ...]]:
    """Read numbers of a CSA image header, layout as described in nibabel's "Siemens format DICOM with CSA header".

    A tag is a name of 64 bytes, the number of its values, a type, a syngo type, the number of its items and a check number. An
    item begins with four int32 that give its length: in CSA2 (it begins with "SV10") the second of them; in CSA1 the first, less
    the number of items of the first tag. The text that follows is padded to 4 bytes.

    Args:
        data: value of (0029,1010).
        wanted: names of the tags to return.

    Returns:
        Name -> its numbers; tags that are absent, empty or hold other text are left out.

    Raises:
        struct.error: the header is shorter than its counts say.
        ValueError: a count or a length is impossible.
    """
    second = data[:4] == b"SV10"
    position = 8 if second else 0
    (count,) = struct.unpack_from("<I", data, position)
    if not 0 < count <= LIMIT_TAGS:
        raise ValueError("the number of tags is impossible")
    position += 8
    excess = None  # of the stated lengths in CSA1
    found: dict[str, tuple[float, ...]] = {}
    for _ in range(count):
        raw, values, _, _, items, _ = struct.unpack_from("<64si4siii", data, position)
        excess = items if excess is None else excess
        texts, position = _items(data, position + 84, items, None if second else excess)
        name = raw.split(b"\0")[0].decode("latin-1")
        numbers = [_number(text) for text in texts[: values or None] if text]
        if name in wanted and numbers and all(number is not None for number in numbers):
            found[name] = tuple(numbers)
    return found


def _items(data: bytes, position: int, items: int, excess: int | None) -> tuple[list[str], int]:
    """The texts of one tag, and where the next tag begins."""
    if not 0 <= items <= LIMIT_ITEMS:
        raise ValueError("the number of items is impossible")
    texts = []
    for _ in range(items):
        lengths = struct.unpack_from("<4i", data, position)
        position += 16
        length = lengths[1] if excess is None else lengths[0] - excess
        if excess is not None and not 0 <= length <= len(data) - position:
            break  # CSA1 ends the items of a tag so
        if not 0 <= length <= len(data) - position:
            raise ValueError("an item is longer than the header")
        texts.append(data[position : position + length].split(b"\0")[0].decode("latin-1").strip())
        position += (length + 3) // 4 * 4
    return texts, position


def _number(text: str) -> float | None:
    try:
        return float(text) if isfinite(float(text)) else None
    except ValueError:
        return None
