"""What is done about a face in the volumes of `anonymize`: which are searched, what was found, and what follows; in doubt the files are refused."""

from collections.abc import Sequence
from dataclasses import dataclass

from medldm.errors import UserError
from medldm.privacy.deface import air, judge
from medldm.privacy.head_position import find_head
from medldm.volume import Volume

# A face is about 120 mm high and 140 mm wide, so that less than 100 mm shows a part of one; thinner than 60 mm, a volume holds less of a head than
# the search needs, and most are localizers and single slices.
THIN_MM, WIDE_MM = 60.0, 100.0
# The same where nobody knows how large it is: slices are at most 10 mm apart, and in fewer pixels than these a face is a blur.
FEW_SLICES, FEW_PIXELS = 6, 16
SMALL, UNKNOWN, UNSCALED = "too small to show one", "not readable as a volume", "a head, if its voxels were of another unit of length"
NO_FACE = (SMALL, "already defaced", "no face found", "cut off", "not a head")


@dataclass(frozen=True)
class Finding:
    """What a search for a face found in a volume.

    Args:
        status: of `FaceReport`; `SMALL`; `UNKNOWN`, where the volume could not be judged; or `UNSCALED`.
        share: of the head's voxels in the face.
        matrix: mm of the average head -> RAS+ mm, as in `FaceReport`; empty where nothing was registered.
        air: the intensity of air.
        unit: of the intensities, as they were read.
    """

    status: str
    share: float = 0.0
    matrix: tuple[tuple[float, ...], ...] = ()
    air: float = 0.0
    unit: str = "a.u."

    @property
    def face(self) -> bool:
        """True where there is a face, and it is known where."""
        return self.status == "removed"

    @property
    def doubt(self) -> str:
        """What is to be said where it cannot be told whether there is a face, or ""."""
        return "" if self.face or self.status in NO_FACE else f"may show a face, which cannot be told ({self.status})"

    @property
    def action(self) -> tuple[str, str]:
        """A row of the audit."""
        return "face", f"removed: {self.share:.1%} of the head's voxels" if self.face else self.status

    def refusal(self, remove: bool) -> str:
        """Why a file with it is refused, or "".

        Args:
            remove: faces are taken out where it is known where they are.
        """
        if self.face:
            return "" if remove else "shows a face; --faces remove takes it out, --faces accept keeps it."
        return f"{self.doubt}; --faces accept keeps it." if self.doubt else ""


def may_show_face(shape: Sequence[int], extent: Sequence[float]) -> bool:
    """False for a volume so small that nobody could be recognised: localizers, single slices, crops.

    Args:
        shape: voxels along three axes.
        extent: mm along the same.
    """
    (few, many, _), (thin, wide, _) = sorted(shape), sorted(extent)
    return few >= FEW_SLICES and many >= FEW_PIXELS and thin >= THIN_MM and wide >= WIDE_MM


def look(volume: Volume) -> Finding:
    """Search a volume for a face.

    Where the intensities settle nothing, the outline decides, as for label maps: what is above the lowest value, where that fills the background.

    Args:
        volume: one channel [1 I J K].
    """
    low = volume.data.amin()
    if low == volume.data.amax():
        return Finding("not a head")
    try:
        report = judge(volume, find_head(volume))
        if report.status == "poor registration":
            outline = Volume((volume.data > low).float(), volume.affine)
            other = judge(outline, find_head(outline))
            report = other if other.faceless else report
    except UserError:  # too large; what it says names sizes of one volume
        return Finding(UNKNOWN)
    return Finding(report.status, report.removed, report.matrix, float(air(volume.data[0], volume.unit).median()), volume.unit)
