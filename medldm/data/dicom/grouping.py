"""The planes of one series, as volumes: copies dropped, orientations and contrasts apart, each stack in order."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from medldm.data.dicom.geometry import FEWEST, SAME_MM, Grid, Refusal, arrange, make_grid
from medldm.data.dicom.pixels import pixel_digest
from medldm.data.dicom.planes import TELLING, Plane
from medldm.data.sources import SET_ASIDE
from medldm.files import sha256

#: Orientations and pixel spacings of one stack differ by less.
SAME_AXES, SAME_SPACING = 1e-3, 1e-4


@dataclass(frozen=True)
class Stack:
    """Planes that form a volume, or that do not.

    Args:
        planes: in order along K where they form one; a mosaic is one plane.
        grid: of the volume, or None.
        status: "ok" or a word of `series.py`.
        reason: why it is not ok.
        copies: identical planes that were left out.
        part: True where the series holds further volumes.
    """

    planes: tuple[Plane, ...]
    grid: Grid | None
    status: str = "ok"
    reason: str = ""
    copies: int = 0
    part: bool = False


def stacks_of(planes: Sequence[Plane]) -> list[Stack]:
    """The volumes of one series, in the order of size, orientation and contrast.

    Planes are put apart by size, orientation and pixel spacing. Where what is left is no regular stack, the header values of
    `TELLING` (echo, image type, contrast agent, time ...) are tried alone, then in pairs: the first that leaves only regular
    stacks divides the planes, else the one that leaves most planes in such stacks, if these are at least half of them.

    Args:
        planes: of one series, from one or many files.
    """
    kept = _without_copies(planes)
    copies = len(planes) - len(kept)
    if _is_localizer(kept):
        return [Stack(tuple(kept), None, "localizer", "is a localizer.", copies)]
    stacks = [stack for group in _same_place(kept) for stack in _resolve(group)]
    volumes = [stack for stack in stacks if stack.status != "no_volume"]
    if loose := [plane for stack in stacks if stack.status == "no_volume" for plane in stack.planes]:
        reason = f"has {len(loose)} {'slice' if len(loose) == 1 else 'slices'} outside of any stack of {FEWEST} or more."
        volumes.append(Stack(tuple(loose), None, "no_volume", reason))
    if volumes and copies:
        volumes[0] = replace(volumes[0], copies=volumes[0].copies + copies)
    return [replace(stack, part=len(volumes) > 1) for stack in volumes]


def _without_copies(planes: Sequence[Plane]) -> list[Plane]:
    """One plane of each object, frame and position; a readable one where there is a choice, and all where they are no copies."""
    same: dict[Hashable, list[Plane]] = defaultdict(list)
    for plane in planes:
        same[plane.header.sop_uid or str(plane.header.path), plane.frame, plane.position, plane.orientation, plane.size].append(plane)
    digests = {path: sha256(path) for group in same.values() if len(group) > 1 for path in {plane.header.path for plane in group}}
    return [plane for group in same.values() for plane in (_distinct(group, digests) if len(group) > 1 else group)]


def _distinct(planes: Sequence[Plane], digests: Mapping[Path, str]) -> list[Plane]:
    """Planes of one UID without those that repeat another's file, or its pixels; UIDs can be wrong."""
    readable = [plane for plane in planes if not plane.header.status] or planes[:1]
    files = {digests[plane.header.path]: plane for plane in reversed(readable)}
    if len(files) == 1:
        return list(files.values())
    return list({(pixel_digest(p.header.path, p.frame, p.size), p.slope, p.intercept): p for p in files.values()}.values())


def _is_localizer(planes: Sequence[Plane]) -> bool:
    """True where headers say so, or where slices lie in three perpendicular directions."""
    if all(plane.localizer for plane in planes):
        return True
    normals: list[np.ndarray] = []
    for orientation in {plane.orientation for plane in planes}:
        normal = np.cross(orientation[:3], orientation[3:])
        if all(abs(normal @ other) < 0.5 for other in normals):
            normals.append(normal)
    return len(normals) == 3


def _same_place(planes: Sequence[Plane]) -> list[list[Plane]]:
    """Planes by size, orientation and pixel spacing, with tolerance for rounding."""
    groups: list[list[Plane]] = []
    for plane in planes:
        for group in groups:
            one = group[0]
            if (
                (one.size, one.tiles, one.unit) == (plane.size, plane.tiles, plane.unit)
                and max(abs(a - b) for a, b in zip(one.orientation, plane.orientation, strict=True)) < SAME_AXES
                and max(abs(a - b) for a, b in zip(one.spacing, plane.spacing, strict=True)) < SAME_SPACING
            ):
                group.append(plane)
                break
        else:
            groups.append([plane])
    return groups


def _resolve(planes: list[Plane]) -> list[Stack]:
    """The stacks of planes that differ in position and contrast only."""
    if planes[0].tiles:
        return [
            _checked(_mosaic(plane)) for plane in sorted(planes, key=lambda p: (p.telling[TELLING.index("acquisition")].zfill(8), p.header.sop_uid))
        ]
    whole = _arranged(planes)
    if whole.status in ("ok", "no_volume"):
        return [_checked(whole)]
    best, most = [whole], len(planes) / 2
    for names in (*((n,) for n in range(len(TELLING))), *combinations(range(len(TELLING)), 2)):
        groups = _divided(planes, lambda plane, names=names: tuple(plane.telling[n] for n in names))
        if len(groups) < 2:
            continue
        stacks = [_arranged(group) for group in groups]
        regular = sum(len(stack.planes) for stack in stacks if stack.status == "ok")
        if regular == len(planes):
            best = stacks
            break
        if regular >= most and regular > sum(len(stack.planes) for stack in best if stack.status == "ok"):
            best = stacks
    return [_checked(_without_equals(stack)) for stack in best]


def _divided(planes: Sequence[Plane], key: Callable[[Plane], tuple[str, ...]]) -> list[list[Plane]]:
    """Planes by a key, in the order of the key, numbers as numbers."""
    groups: dict[tuple[str, ...], list[Plane]] = defaultdict(list)
    for plane in planes:
        groups[key(plane)].append(plane)
    return [groups[name] for name in sorted(groups, key=lambda names: [(0, float(n), "") if _is_number(n) else (1, 0.0, n) for n in names])]


def _is_number(value: str) -> bool:
    return value.replace(".", "", 1).replace("-", "", 1).isdigit()


def _arranged(planes: Sequence[Plane]) -> Stack:
    one = planes[0]
    found = arrange(np.array([plane.position for plane in planes]), one.orientation, one.spacing, one.size)
    if isinstance(found, Refusal):
        return Stack(tuple(planes), None, found.status, found.reason)
    return Stack(tuple(planes[n] for n in found[0]), found[1])


def _mosaic(plane: Plane) -> Stack:
    if plane.tiles < FEWEST:
        return Stack((plane,), None, "no_volume", f"has {plane.tiles} slices.")
    place = (np.array(plane.position), np.array(plane.orientation[:3]), np.array(plane.orientation[3:]), np.array(plane.step))
    return Stack((plane,), make_grid(*place, plane.spacing, (*plane.size, plane.tiles)))


def _without_equals(stack: Stack) -> Stack:
    """A stack with two images at a position, without those that are equal in every pixel."""
    if stack.status != "duplicate_slices":
        return stack
    seen: set[Hashable] = set()
    kept = []
    for plane, twins in _with_twins(stack.planes):
        place = tuple(round(x / SAME_MM / 10) for x in plane.position)
        key = (place, pixel_digest(plane.header.path, plane.frame, plane.size), plane.slope, plane.intercept) if twins else id(plane)
        if key not in seen:
            kept.append(plane)
        seen.add(key)
    again = _arranged(kept)
    return replace(again, copies=len(stack.planes) - len(kept))


def _with_twins(planes: Sequence[Plane]) -> Iterator[tuple[Plane, bool]]:
    """Planes along their normal, with whether a neighbour lies at the same place."""
    normal = np.cross(planes[0].orientation[:3], planes[0].orientation[3:])
    heights = np.array([plane.position for plane in planes]) @ normal
    order = np.argsort(heights, kind="stable")
    near = np.diff(heights[order], prepend=-np.inf, append=np.inf) < SAME_MM
    for place, n in enumerate(order):
        yield planes[n], bool(near[place] or near[place + 1])


def _checked(stack: Stack) -> Stack:
    """A stack with the status of its worst file: one damaged file spoils the volume that it belongs to."""
    bad = [plane.header for plane in stack.planes if plane.header.status]
    if not bad or stack.status in SET_ASIDE:
        return stack
    return replace(stack, grid=None, status=bad[0].status, reason=f"has {len(bad)} bad of {len(stack.planes)} planes; the first {bad[0].reason}")
