"""Label maps of BIDS: which belongs to which image, and the names of its labels."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from medldm.data.layouts.bids_names import MAPPED, Name
from medldm.data.layouts.labels import clean_name
from medldm.data.layouts.names import BY_TABLE
from medldm.data.tables import read_lines
from medldm.errors import UserError


def choose_maps(maps: Mapping[str, Sequence[Name]], wanted: Sequence[str], source: Path) -> dict[str, Name]:
    """One label map a case: of the kind that is asked for, else the only kind there is, or the only one called dseg.

    Args:
        maps: case -> the label maps that could be its own.
        wanted: the kind that the user asks for, such as `desc-aseg_dseg`; at most one.
        source: the folder, for messages.

    Raises:
        UserError: there are several kinds, or a case has two label maps of one kind.
    """
    counts = Counter(kind for names in maps.values() for kind in sorted({name.kind for name in names}))
    kinds = [kind for kind in counts if not wanted or wanted[0].lower() in (kind.lower(), kind.split("/")[-1].lower())]
    kinds = [kind for kind in kinds if kind.endswith("dseg")] if len(kinds) > 1 and not wanted else kinds
    if len(wanted) > 1 or len(kinds) != 1:
        if not counts and not wanted:
            return {}
        listed = ", ".join(f"{kind} ({count})" for kind, count in counts.most_common()) or "none"
        fix = f"Name one beside the image: --contrasts '[T1w, {counts.most_common(1)[0][0]}]'" if counts else "Leave it away."
        raise UserError(f"{source}: one kind of label maps was expected; it holds {listed}.", f"{fix} Or: {BY_TABLE}")
    chosen: dict[str, Name] = {}
    for case, names in maps.items():
        fitting = [name for name in names if name.kind == kinds[0]]
        if len(fitting) > 1:
            raise UserError(f"{fitting[0].path.name} and {fitting[1].path.name} in {source} are both label maps of case {case!r}.", BY_TABLE)
        chosen.update(dict.fromkeys([case], fitting[0]) if fitting else {})
    return chosen


def belongs(label: Name, image: Name) -> bool:
    """True where a label map can be that of an image: of one session, and no entity of the map's contradicts the image's.

    A map in another space, such as a template's, is on another grid.
    """
    other = {key: value for key, value in label.entities.items() if key not in MAPPED}
    if other.get("space") in ("orig", "individual", "scanner", image.suffix) and "space" not in image.entities:
        del other["space"]
    if label.of and label.of.lower() != image.suffix.lower():
        return False
    return label.session == image.session and all(image.entities.get(key) == value for key, value in other.items())


def structure_names(maps: Sequence[Name], source: Path) -> dict[int, str]:
    """Label value -> name: from the tables beside the maps (columns index and name), or 1 for the one structure of a mask.

    Raises:
        UserError: two tables, or two rows, contradict each other.
    """
    names: dict[int, str] = {}
    folders = {folder for name in maps for folder in name.path.parents if folder == source or source in folder.parents}
    beside = {folder: sorted(folder.glob("*.tsv")) for folder in folders}
    tables = {table for name in maps for folder in name.path.parents for table in beside.get(folder, ()) if _holds_for(table, name)}
    for table in sorted(tables):
        for value, structure in _read_names(table).items():
            if names.setdefault(value, structure) != structure:
                raise UserError(f"{table}: label {value} is {structure!r} here and {names[value]!r} elsewhere.", "Give the names as --labels.")
    masks = {name.entities.get("label") or name.entities.get("desc") for name in maps if name.suffix == "mask"}
    if not names and len(masks) == 1 and (only := masks.pop()):
        return {1: clean_name(only)}
    return dict(sorted(names.items()))


def _holds_for(table: Path, name: Name) -> bool:
    """True for a table of the label map's suffix with no entity that the map has not; masks have none."""
    *entities, suffix = table.stem.split("_")
    return suffix == name.suffix != "mask" and set(entities) <= {f"{key}-{value}" for key, value in name.entities.items()}


def _read_names(table: Path) -> dict[int, str]:
    lines, titles = read_lines(table)
    if not {"index", "name"} <= set(titles):
        raise UserError(f"{table} lacks the columns index and name.", "Correct it, or give the names as --labels.")
    if strange := [line["index"] for line in lines if not line["index"].isdigit()]:
        raise UserError(f"{table}: the index {strange[0]!r} is no label value.", "Correct it, or give the names as --labels.")
    names = {int(line["index"]): clean_name(line["name"]) for line in lines if int(line["index"])}
    if len(set(names.values())) < len(names) or "" in names.values():
        raise UserError(f"{table}: two labels have one name, or one has none.", "Correct it, or give the names as --labels.")
    return names
