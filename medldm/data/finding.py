"""What the check of one case found, small enough to be kept, sent between processes and compared for ten thousand cases."""

from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Finding:
    """The result of checking one case.

    Args:
        case: its name.
        patient: its patient.
        file: the file that is wrong, else the image, as folder and name or as a pseudonym.
        status: "ok" or a word for what is wrong.
        reason: what is wrong.
        digest: SHA-256 of the image's voxels in RAS order; "" where they could not be read.
        content: SHA-256 of image, label map and affine.
        channels: contrasts of the image.
        label_values: foreground values in the label map.
        label_digest: SHA-256 of the label map's voxels in RAS order; "" where next to nothing is labelled.
        shape: voxels along I, J, K.
        spacing: millimetres along I, J, K.
        orientation: axis codes such as "LPS", as stored.
        low: 1st percentile of the first channel, in its unit.
        median: 50th percentile.
        high: 99th percentile.
        thumbnail: details of the first channel that copies share, from `thumbnail`.
    """

    case: str
    patient: str
    file: str
    status: str = "ok"
    reason: str = ""
    digest: str = ""
    content: str = ""
    channels: int = 0
    label_values: tuple[int, ...] = ()
    label_digest: str = ""
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    orientation: str = ""
    low: float = 0.0
    median: float = 0.0
    high: float = 0.0
    thumbnail: str = ""

    def to_plain(self) -> dict[str, Any]:
        """Names and values that JSON holds."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """The finding that `to_plain` gave, also after it was stored as JSON."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()})
