"""Which released case a volume goes back to, when nothing but its voxels is left."""

from dataclasses import dataclass

import numpy as np
import torch

from medldm.diffusion.model import LatentDiffusion, place
from medldm.metrics.base import Images
from medldm.models.autoencoder import pad_to_multiple
from medldm.privacy.copies import CopySearch, Pose
from medldm.provenance import latent_mark
from medldm.provenance.code import key_of, threshold
from medldm.provenance.image_mark import ImageMark
from medldm.volume import Volume

UNMOVED = Pose((1, 1, 1), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))


@dataclass(frozen=True)
class Trace:
    """A watermark that was looked for.

    Args:
        index: of the released case whose watermark is the clearest.
        score: how clear it is.
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

    A volume is put where the released case lies that it is most like. There the watermark of its voxels is read and, with the model, that of the
    noise it was made from: the image alone is encoded, without its label map, and the flow run backwards without conditions, so that nothing
    has to be known of the case.

    Args:
        released: the marked images.
        names: of each released case, the 8 bytes that its key follows from.
        secret: of whoever signed.
        mark: how the images were marked, or None.
        model: that made them, or None.
    """

    def __init__(self, released: Images, names: list[bytes], secret: bytes, mark: ImageMark | None, model: LatentDiffusion | None = None):
        self.released, self.mark, self.model = released, mark, model
        self.keys = {name: key_of(secret, name) for name in names}
        self.search = CopySearch(released)

    def __call__(self, volume: Volume) -> dict[str, Trace]:
        """What was found in "voxels" and in "noise", as far as either is looked for."""
        shown = volume.data[0].numpy(), volume.spacing
        match = self.search.unmirrored(*shown, self.search.nearest(*shown))
        original, spacing = self.released.image(match.index), self.released.spacing(match.index)
        moved = [[pose.applied(c.numpy(), volume.spacing, original.shape[1:], spacing) for c in volume.data] for pose in (match.pose, UNMOVED)]
        tried = [*np.array(moved, np.float32), *([volume.data.numpy()] if volume.data.shape == original.shape else [])]
        found = {}
        if self.mark:
            name, key = list(self.keys.items())[match.index]
            score = max(self.mark.score(image[0], key, name) for image in tried)
            found["voxels"] = Trace(match.index, score, self.mark.limit(3 * len(self.keys)))
        if self.model:
            found["noise"] = max((self._noise(self.model, image) for image in tried), key=lambda trace: trace.score)
        return found

    def _noise(self, model: LatentDiffusion, image: np.ndarray) -> Trace:
        """The clearest watermark in the noise that leads to an image [C I J K]."""
        noise, known = noise_in(model, torch.from_numpy(image))
        scores = [latent_mark.score(noise, key, name, known) for name, key in self.keys.items()]
        return Trace(int(np.argmax(scores)), max(scores), threshold(3 * len(self.keys)))


@torch.no_grad()
def noise_in(model: LatentDiffusion, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The noise [c i j k] that a model would make an image of, and where it is known [1 i j k].

    Args:
        model: with which the image may have been generated.
        image: [C I J K], in any intensities; its field of view is cut to the model's grid.
    """
    auto = model.autoencoder
    low, high = float(image.min()), float(image.max())
    cut = image[(slice(None), *(slice(0, n * auto.factor) for n in model.grid))]
    scaled = (2 * (cut - low) / max(high - low, 1e-12) - 1).to(auto.latent_mean.device)
    label = torch.zeros_like(scaled[None, :1]) if auto.label_count else None
    mean, _ = auto.encode(pad_to_multiple(auto.join(scaled[None], label), auto.factor)[0])
    placed, valid = place(auto.whiten(mean)[0], model.grid)
    i, j, k = mean.shape[2:]
    noise = model.noise_of(placed[None], [{}], [(i, j, k)])[0]
    return noise.cpu(), valid.cpu()
