"""Cases of a source held against each other.

duplicate             the same voxels as another case               near_duplicate   *  a copy of another case but for intensities or noise
duplicate_label    *  the label map of another patient              channels            another number of contrasts than most cases
spacing_outlier    *  voxels unlike those of nearly all cases       size_outlier     *  a field of view unlike that of nearly all cases
orientation_outlier * stored with axes like few other cases

Those with a star a user may vouch for. Two groups of cases, say of 1 mm and of 5 mm, are no outliers of each other: an outlier is one
of at most 5 % of the cases, far from a group of at least half of them.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from medldm.data.finding import Finding
from medldm.data.thumbnail import first_copies

# Correlation of thumbnails from which on an image is a copy; see thumbnail.py for what was measured. Repeat scans of one patient are
# alike and leak nothing, since they share a split.
COPY_OF_OTHER, COPY_OF_SAME = 0.85, 0.98

FAR = 3.0  # factor between an outlier and the nearest case of another group
FEW = 0.05  # of the cases, or a single one
LEAST_CASES = 10  # from which on a single case can be an outlier
LEAST_ORIENTED = 20  # the same for axes, which say less


def compare(findings: Sequence[Finding], assume: Collection[str] = ()) -> list[Finding]:
    """Check the cases against each other.

    Of equal images the first keeps its status, so that the others can be left out.

    Args:
        findings: of `check_case`, one a case; those that are not "ok" stay as they are.
        assume: words of ASSUMABLE that are known to be in order.
    """
    usable = [finding for finding in findings if finding.status == "ok"]
    verdicts = _equal(usable)
    rest = [finding for finding in usable if finding.case not in verdicts]
    for status, found in (
        ("near_duplicate", _near_equal), ("duplicate_label", _equal_labels), ("channels", _other_channels),
        ("spacing_outlier", _spacing_outliers), ("orientation_outlier", _orientation_outliers), ("size_outlier", _size_outliers),
    ):  # fmt: skip
        for case, reason in {} if status in assume else found(rest).items():
            verdicts.setdefault(case, (status, reason))
    return [replace(f, status=verdicts[f.case][0], reason=verdicts[f.case][1]) if f.status == "ok" and f.case in verdicts else f for f in findings]


def _equal(findings: Sequence[Finding]) -> dict[str, tuple[str, str]]:
    first: dict[str, Finding] = {}
    verdicts = {}
    for finding in findings:
        other = first.setdefault(finding.digest, finding)
        if other is not finding:
            verdicts[finding.case] = ("duplicate", f"has the same voxels as case {other.case!r} of {_whose(finding, other)}.")
    return verdicts


def _near_equal(findings: Sequence[Finding]) -> dict[str, str]:
    shown = [finding for finding in findings if finding.thumbnail]
    copies = first_copies([f.thumbnail for f in shown], [f.patient for f in shown], COPY_OF_OTHER, COPY_OF_SAME)
    return {
        shown[i].case: f"is almost a copy of case {shown[j].case!r} of {_whose(shown[i], shown[j])} (their details correlate by {r:.3f})."
        for i, (j, r) in sorted(copies.items())
    }


def _equal_labels(findings: Sequence[Finding]) -> dict[str, str]:
    first: dict[str, Finding] = {}
    verdicts = {}
    for finding in findings:
        other = first.setdefault(finding.label_digest, finding) if finding.label_digest else finding
        if other.patient != finding.patient:
            verdicts[finding.case] = f"has the same label map as case {other.case!r} of another patient, but another image."
    return verdicts


def _whose(finding: Finding, other: Finding) -> str:
    return "the same patient" if finding.patient == other.patient else "another patient"


def _other_channels(findings: Sequence[Finding]) -> dict[str, str]:
    usual = Counter(finding.channels for finding in findings).most_common(1)
    return {f.case: f"has {f.channels} contrasts; most cases have {usual[0][0]}." for f in findings if f.channels != usual[0][0]}


def _spacing_outliers(findings: Sequence[Finding]) -> dict[str, str]:
    return _far_off(findings, "voxels of {:.3g} mm", {f.case: _along_axes(f, f.spacing) for f in findings})


def _size_outliers(findings: Sequence[Finding]) -> dict[str, str]:
    extents = {f.case: _along_axes(f, [n * s for n, s in zip(f.shape, f.spacing, strict=True)]) for f in findings}
    return _far_off(findings, "a field of view of {:.3g} mm", extents)


def _orientation_outliers(findings: Sequence[Finding]) -> dict[str, str]:
    axes = {f.case: f.orientation for f in findings if f.orientation}
    usual, rare = _rare(axes, LEAST_ORIENTED)
    return {case: f"is stored with axes {axes[case]}; {_most(axes, usual)} have {usual}. Is its left on the left?" for case in rare}


def _far_off(findings: Sequence[Finding], words: str, lengths: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Cases whose length along an axis is far from that of the usual cases.

    Args:
        findings: what to judge.
        words: names the length, with a place for the number.
        lengths: case -> axis -> mm.
    """
    verdicts: dict[str, str] = {}
    for axis, name in (("R", "from left to right"), ("A", "from back to front"), ("S", "from foot to head")):
        values = {f.case: lengths[f.case][axis] for f in findings if axis in lengths[f.case]}
        groups = _groups(values)
        usual, rare = _rare(groups, LEAST_CASES)
        inside = [values[case] for case in groups if groups[case] == usual]
        for case in rare:
            reason = f"has {words.format(values[case])} {name}; {_most(groups, usual)} have {min(inside):.3g} to {max(inside):.3g} mm."
            verdicts.setdefault(case, reason)
    return verdicts


def _along_axes(finding: Finding, lengths: Sequence[float]) -> dict[str, float]:
    """Lengths by the axis that they run along, whichever way the image is stored."""
    return {"RAS"["RLAPSI".index(code) // 2]: length for code, length in zip(finding.orientation, lengths, strict=bool(finding.orientation))}


def _groups(values: Mapping[str, float]) -> dict[str, int]:
    """Case -> number of its group; between two groups the values jump by more than FAR."""
    groups: dict[str, int] = {}
    number, before = 0, math.inf
    for case, value in sorted(values.items(), key=lambda item: (item[1], item[0])):
        number += value > FAR * before
        groups[case], before = number, value
    return groups


def _rare(kinds: Mapping[str, str] | Mapping[str, int], least: int) -> tuple[str | int, list[str]]:
    """The kind of at least half of the cases, and the cases of rare kinds; none where the cases are few or mixed."""
    counts = Counter(kinds.values())
    (usual, most), *_ = counts.most_common(1) or [("", 0)]
    if len(kinds) < least or most < len(kinds) / 2:
        return usual, []
    few = max(1, int(FEW * len(kinds)))
    return usual, [case for case, kind in kinds.items() if counts[kind] <= few]


def _most(kinds: Mapping[str, str] | Mapping[str, int], usual: str | int) -> str:
    return f"{sum(kind == usual for kind in kinds.values())} of {len(kinds)} cases"
