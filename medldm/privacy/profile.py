"""What de-identification keeps beyond the Basic Profile of DICOM PS3.15 Annex E, and how it says so in a file."""

from dataclasses import dataclass
from typing import Any, Literal

from medldm.errors import UserError
from medldm.privacy.rules import safe_private

#: CID 7050, coding scheme DCM.
MEANINGS = {
    "113100": "Basic Application Confidentiality Profile",
    "113101": "Clean Pixel Data Option",
    "113102": "Clean Recognizable Visual Features Option",
    "113105": "Clean Descriptors Option",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113108": "Retain Patient Characteristics Option",
    "113109": "Retain Device Identity Option",
    "113110": "Retain UIDs Option",
    "113111": "Retain Safe Private Option",
}
#: Elements that `mark` writes, whatever they held.
MARKS = (0x00120062, 0x00120063, 0x00120064, 0x00280303)
METHOD = "medldm: PS3.15 Annex E 2026c, search for known identifiers"


@dataclass(frozen=True)
class Profile:
    """The options of Annex E that are taken.

    Args:
        dates: "shift" moves dates by a number of whole days of the patient and keeps times of day; "remove" does without either.
        characteristics: keep age (90 at most), sex, size and weight.
        device: keep serial numbers and names of devices.
        uids: keep UIDs.
        descriptors: of descriptions, keep the words that are of the vocabulary.
        private: private attributes that are kept, as (creator in capitals, group, last byte of the element).
        pixels: "refuse" files whose pixels may show text; "accept" them as they are; or rectangles to blank in all pixels of the source,
            each (first row, first column, rows, columns).
        faces: "refuse" volumes that show a face, or may; "remove" what is known to be one, and refuse the others that may; or "accept" all.
    """

    dates: Literal["shift", "remove"] = "shift"
    characteristics: bool = True
    device: bool = False
    uids: bool = False
    descriptors: bool = False
    private: frozenset[tuple[str, int, int]] = frozenset()
    pixels: Literal["refuse", "accept"] | tuple[tuple[int, int, int, int], ...] = "refuse"
    faces: Literal["refuse", "remove", "accept"] = "refuse"

    def __post_init__(self) -> None:
        if not isinstance(self.pixels, str) and (not self.pixels or any(min(box[:2]) < 0 or min(box[2:]) < 1 for box in self.pixels)):
            raise UserError("--pixels has no rectangle, or one without pixels.", "Give [[first row, first column, rows, columns], ...].")

    def keeps(self, option: str) -> bool:
        """True where the option of a row of the table is taken."""
        taken = {
            "dates": self.dates == "shift",
            "patient": self.characteristics,
            "device": self.device,
            "uids": self.uids,
            "descriptors": self.descriptors,
        }
        return taken.get(option, False)

    @property
    def blanks(self) -> bool:
        """True where rectangles of the pixels are blanked."""
        return not isinstance(self.pixels, str)

    def codes(self, blanked: bool, faceless: bool) -> list[str]:
        """The codes of CID 7050 for a file.

        Args:
            blanked: rectangles of its pixels were blanked.
            faceless: the face was taken out of the volume that it is of, here or earlier.
        """
        taken = {
            "113100": True,
            "113101": blanked,
            "113102": faceless,
            "113105": self.descriptors,
            "113107": self.dates == "shift",
            "113108": self.characteristics,
            "113109": self.device,
            "113110": self.uids,
            "113111": bool(self.private),
        }
        return [code for code, applies in taken.items() if applies]


def private_list(entries: list[str] | None) -> frozenset[tuple[str, int, int]]:
    """The private attributes that a user names.

    Args:
        entries: each "CREATOR,gggg,ee" with group and last byte of the element in hexadecimal digits, or "standard" for those of our table:
            diffusion weighting, mosaics and scaling of values, all of them numbers.

    Raises:
        UserError: an entry is neither.
    """
    found: set[tuple[str, int, int]] = set()
    for entry in entries or []:
        if entry == "standard":
            found |= safe_private()
            continue
        creator, _, rest = entry.rpartition(",")[0].rpartition(",")[0], "", entry.split(",")[-2:]
        try:
            group, element = (int(part, 16) for part in rest)
        except ValueError:
            group = element = -1
        if not creator.strip() or group % 2 == 0 or not 0 <= element <= 0xFF or not 0 < group <= 0xFFFF:
            raise UserError(f"--private: {entry!r} names no private attribute.", "Give 'SIEMENS MR HEADER,0019,0C' and the like, or standard.")
        found.add((creator.strip().upper(), group, element))
    return frozenset(found)


def mark(dataset: Any, profile: Profile, blanked: bool, faceless: bool) -> None:
    """Write into a file that and how it was de-identified; codes of earlier de-identification stay.

    Args:
        dataset: changed in place.
        profile: what was done.
        blanked: rectangles of its pixels were blanked, after which no text is burned in.
        faceless: the face was taken out of the volume that it is of.
    """
    from pydicom import Dataset
    from pydicom.sequence import Sequence

    earlier = [str(item.get("CodeValue", "")) for item in dataset.get("DeidentificationMethodCodeSequence") or []]
    items = []
    for code in profile.codes(blanked, faceless or "113102" in earlier):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "DCM", MEANINGS[code]
        items.append(item)
    dataset.PatientIdentityRemoved, dataset.DeidentificationMethod = "YES", METHOD
    dataset.DeidentificationMethodCodeSequence = Sequence(items)
    dataset.LongitudinalTemporalInformationModified = "MODIFIED" if profile.dates == "shift" else "REMOVED"
    if blanked:
        dataset.BurnedInAnnotation = "NO"
    if faceless:
        dataset.RecognizableVisualFeatures = "NO"
