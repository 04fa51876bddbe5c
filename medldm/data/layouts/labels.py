"""Names of structures, in each of the ways in which sources write them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medldm.errors import UserError


def label_names(source: Path, given: Mapping[str, Any] | None) -> dict[int, str]:
    """Label value -> structure name from {"1": "name"}, {"name": 1} or nothing; background (0) is left out.

    Args:
        source: the folder, for messages.
        given: as in MSD (value -> name) or nnU-Net (name -> value).

    Raises:
        UserError: a value is no positive whole number, or two structures share a value or a name.
    """
    fix = "Give plain labels as --labels '{name: value, ...}'."
    if given is not None and not isinstance(given, Mapping):
        raise UserError(f"{source}: 'labels' is {type(given).__name__}, not names with values.", fix)
    names: dict[int, str] = {}
    for key, entry in (given or {}).items():
        name, value = (entry, key) if str(key).lstrip("-").isdigit() and isinstance(entry, str) else (key, entry)
        whole = isinstance(value, int | str) and not isinstance(value, bool) and str(value).isdigit()
        if not whole:
            raise UserError(f"{source}: the structure {name!r} has the label {value!r}; a whole number was expected.", fix)
        if int(value) == 0:
            continue
        name = clean_name(str(name))
        if not name or int(value) in names or name in names.values():
            raise UserError(f"{source}: the label {value} ({name!r}) is given twice or has no name.", fix)
        names[int(value)] = name
    return dict(sorted(names.items()))


def clean_name(name: str) -> str:
    """A structure's name of letters, digits and `_`, since it becomes part of column names."""
    return re.sub(r"\W+", "_", name).strip("_")
