"""From files that belong together to cases, and the simplest way to find them: one folder in which names pair up."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medldm.data.covariates import case_name
from medldm.data.layouts.names import BY_TABLE, CONTRASTS, channels, choose, is_label, modality_of, pair, words
from medldm.data.sources import Source, SourceCase
from medldm.errors import UserError


@dataclass
class Parts:
    """The files of one case.

    Args:
        patient: who it is of; "" where nothing but the case's name tells.
        images: contrast -> image; the contrast is "" where names do not tell one.
        label: its label map.
        reason: why the image of the label map is not known.
    """

    patient: str = ""
    images: dict[str, Path] = field(default_factory=dict)
    label: Path | None = None
    reason: str = ""


@dataclass(frozen=True)
class Found:
    """Cases and how they were understood.

    Args:
        parts: case -> its files.
        note: one sentence for the user; "" where there is nothing to say.
    """

    parts: dict[str, Parts]
    note: str = ""


def assemble(source: Path, found: Found, labels: dict[int, str], contrasts: Sequence[str] | None) -> Source:
    """The source of these cases, with the contrasts that were asked for.

    Raises:
        UserError: names tell a contrast of some images only, or as in `choose`.
    """
    counts = Counter(contrast for part in found.parts.values() for contrast in part.images)
    if set(counts) <= {""}:
        if contrasts:
            raise UserError(
                f"{source}: the names of its files tell no contrasts.", "Leave --contrasts away, or name the files in a CSV: image_T1w ..."
            )
        names: tuple[str, ...] = tuple(counts)
    elif "" in counts:
        named = ", ".join(sorted(set(counts) - {""}))
        raise UserError(f"{source}: {counts['']} images tell no contrast by their names, others do ({named}).", BY_TABLE)
    else:
        names = choose(counts, contrasts, source)
    cases = [_case(case, part, names) for case, part in sorted(found.parts.items())]
    unclear = sum(bool(part.reason) for part in found.parts.values())
    notes = [found.note, f"{unclear} label maps are of no image that their names tell. {BY_TABLE}" if unclear else ""]
    return Source(source, "plain", tuple(cases), labels, tuple(n for n in names if n), notes=tuple(note for note in notes if note))


def one_folder(source: Path, files: Mapping[str, Path], contrasts: Sequence[str] | None = None) -> Found:
    """Each image is a case, with the label map that its name tells; `x_t1` and `x_t2` are contrasts of x.

    Args:
        source: the folder, for messages.
        files: name without ending -> file.
        contrasts: words at the end of names that are contrasts; by default those in common use.

    Raises:
        UserError: a case has two label maps.
    """
    images = {name: path for name, path in files.items() if not is_label(name)} or dict(files)
    parts = _grouped(images, {name.lower() for name in contrasts} if contrasts else None)
    maps = {name: path for name, path in files.items() if name not in images}
    paired, unclear = pair(maps, list(parts), source)
    for case, path in paired.items():
        parts[case].label = path
    for name, candidates in unclear.items():
        parts[name] = Parts(label=maps[name], reason=no_image(candidates))
    return Found(parts, f"{len(paired)} of {len(parts) - len(unclear)} images have a label map, by name." if maps else "")


def no_image(candidates: Sequence[str]) -> str:
    """Why the image of a label map is not known.

    Args:
        candidates: the images that it could be of.
    """
    if not candidates:
        return "is a label map without an image."
    more = f" and {len(candidates) - 3} others" if len(candidates) > 3 else ""
    return f"is a label map whose name does not tell of which image: {', '.join(candidates[:3])}{more} fit."


def _grouped(images: Mapping[str, Path], known: set[str] | None) -> dict[str, Parts]:
    """One case an image, or one a stem where some stem has two contrasts (or contrasts were asked for)."""
    ends = {name: words(name)[-1] for name in images if len(words(name)) > 1 and words(name)[-1].lower() in (known or CONTRASTS)}
    stems: dict[str, dict[str, str]] = defaultdict(dict)
    for name, end in ends.items():
        stems[name[: -len(end) - 1]][end] = name
    if not known and max(map(len, stems.values()), default=0) < 2:
        stems = {}
    parts = {stem: Parts(images={end: images[name] for end, name in same.items()}) for stem, same in stems.items()}
    grouped = {name for same in stems.values() for name in same.values()}
    return parts | {name: Parts(images={"": path}) for name, path in images.items() if name not in grouped}


def _case(case: str, part: Parts, contrasts: Sequence[str]) -> SourceCase:
    """One case; its modality is what the contrasts, or else words of the files' names, imply."""
    known = channels(contrasts, part.images)
    if not part.images:
        known = {"images": (), "status": "no_image", "reason": part.reason or "is a label map without an image."}
    named = {CONTRASTS.get(word.lower(), "") for path in known["images"] for word in words(case_name(path.name))} - {""}
    modality = modality_of(contrasts) or (named.pop() if len(named) == 1 else "")
    return SourceCase(case, part.patient or case, label=part.label, modality=modality, **known)
