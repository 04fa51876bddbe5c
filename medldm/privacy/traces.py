"""Which released case a volume goes back to, when nothing but its voxels is left."""

from dataclasses import dataclass

import numpy as np

from medldm.metrics.base import Images
from medldm.privacy.copies import CopySearch, Pose
from medldm.provenance.code import key_of, threshold
from medldm.provenance.image_mark import ImageMark
from medldm.volume import Volume

UNMOVED = Pose((1, 1, 1), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))


@dataclass(frozen=True)
class Trace:
    """A watermark that was looked for.

    Args:
        index: of the released case that the volume is most like.
        score: how clearly it carries that case's watermark.
        limit: what wrong keys exceed in less than one of a million searches.
    """

    index: int
    score: float
    limit: float

    @property
    def found(self) -> bool:
        """True where the volume carries the watermark."""
        return self.score > self.limit


class Tracer:
    """Looks for the watermarks of released cases in volumes that were mirrored, turned, shifted, cut or resampled.

    Args:
        released: the marked images.
        names: of each released case, the 8 bytes that its key follows from.
        secret: of whoever signed.
        mark: how the images were marked.
    """

    def __init__(self, released: Images, names: list[bytes], secret: bytes, mark: ImageMark):
        self.released, self.names, self.secret, self.mark = released, names, secret, mark
        self.search = CopySearch(released)

    def __call__(self, volume: Volume) -> Trace:
        """The trace of the released case that a volume is most like, once as the volume lies and once put where the case lies."""
        image = volume.data[0].numpy()
        match = self.search.nearest(image, volume.spacing)
        original, spacing = self.released.image(match.index)[0], self.released.spacing(match.index)
        tried = [pose.applied(image, volume.spacing, original.shape, spacing) for pose in (match.pose, UNMOVED)]
        tried += [image] if image.shape == original.shape else []
        name = self.names[match.index]
        score = max(self.mark.score(np.asarray(x, np.float32), key_of(self.secret, name), name) for x in tried)
        return Trace(match.index, score, threshold(3 * len(self.released)))
