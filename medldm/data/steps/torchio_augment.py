"""Random changes of training images, by TorchIO (Pérez-García et al. 2021), decided by a generator alone."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medldm.errors import UserError
from medldm.types import Shape3


@dataclass(frozen=True)
class Augment:
    """What training images may look like, beside what they do. Every strength is 0, so off, by default.

    Place changes for image and label map together (linear and nearest interpolation), intensities for the image alone, in the
    order of the arguments. Bias field and gamma act on the image moved from [-1, 1] to [0, 1], where air is 0 and stays so.

    Args:
        flip: axes (0, 1, 2 for I, J, K) that are reversed in half of the cases.
        degrees: largest rotation about each axis.
        scale: largest change of size, a share: 0.1 gives sizes from 0.9 to 1.1, the same along all axes.
        shift_mm: largest shift along each axis; random crops are shifted anyway.
        elastic_mm: largest displacement of the 7 x 7 x 7 places between which a crop with its surroundings is bent smoothly.
        bias: largest coefficient of a smooth field exp(polynomial of order 3).
        gamma: largest logarithm of the exponent: 0.3 gives exponents from 0.74 to 1.35.
        noise: largest standard deviation of Gaussian noise, for intensities in [-1, 1].
        blur_mm: largest standard deviation of a Gaussian along each axis.
        probability: of each of these but flips and bending, on its own.
        elastic_probability: of bending, which takes ten times as long as the others; that of nnU-Net by default.
    """

    flip: tuple[int, ...] = ()
    degrees: float = 0.0
    scale: float = 0.0
    shift_mm: float = 0.0
    elastic_mm: float = 0.0
    bias: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0
    blur_mm: float = 0.0
    probability: float = 0.5
    elastic_probability: float = 0.2

    def __post_init__(self):
        strengths = (self.degrees, self.scale, self.shift_mm, self.elastic_mm, self.bias, self.gamma, self.noise, self.blur_mm)
        if not all(np.isfinite(s) and s >= 0 for s in strengths) or self.degrees > 180 or self.scale > 0.5 or self.shift_mm > 100:
            raise UserError("The strengths of Augment are not at least 0, degrees at most 180, scale at most 0.5 and shift_mm at most 100.")
        if not set(self.flip) <= {0, 1, 2}:
            raise UserError(f"flip {self.flip} names other axes than 0, 1 and 2.")
        if not (0 < self.probability <= 1 and 0 < self.elastic_probability <= 1):
            raise UserError(f"probability {self.probability} or elastic_probability {self.elastic_probability} is not above 0 and at most 1.")

    def reach(self, size: Shape3, spacing: tuple[float, float, float]) -> Shape3:
        """Voxels beyond each side of a crop that may be turned, shrunk or shifted into it.

        Args:
            size: voxels of the crop along I, J, K.
            spacing: mm along I, J, K.
        """
        if not (self.degrees or self.scale or self.shift_mm or self.elastic_mm):
            return (0, 0, 0)
        sine = float(np.sin(np.radians(min(self.degrees, 90))))
        off = min(1.0, sine + sine**2)  # no other entry of a product of three such rotations is larger
        half = np.array(size) * np.array(spacing) / 2
        source = half / (1 - self.scale) + self.shift_mm + self.elastic_mm  # before it is turned
        needed = (1 - off) * source + off * source.sum() - half
        return tuple(int(n) for n in np.ceil(needed / np.array(spacing)))

    def __call__(
        self, image: Tensor, label: Tensor, generator: torch.Generator, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    ) -> tuple[Tensor, Tensor]:
        """Change an image and its label map.

        Args:
            image: [C I J K] in about [-1, 1]; what is turned into it from outside has its lowest value.
            label: [1 I J K]; what is turned into it from outside is 0.
            generator: decides everything; one number is drawn from it.
            spacing: mm along I, J, K.
        """
        import torchio

        seed = int(torch.randint(1 << 62, (), generator=generator))
        affine = np.diag([*spacing, 1.0])
        with torch.random.fork_rng(devices=[]):  # TorchIO draws from torch's own generator
            torch.manual_seed(seed)
            subject = torchio.Subject(
                image=torchio.ScalarImage(tensor=(image + 1) / 2, affine=affine), label=torchio.LabelMap(tensor=label, affine=affine)
            )
            for transform in self._transforms(torchio):
                subject = transform(subject)
        changed = subject.get_images_dict(intensity_only=False)
        return changed["image"].data.float() * 2 - 1, changed["label"].data.to(label.dtype)

    def _transforms(self, torchio) -> list:
        """The transforms that are on."""
        place = self.degrees or self.scale or self.shift_mm
        chance, size = {"p": self.probability}, (1 - self.scale, 1 + self.scale)
        wanted = (
            (self.flip, lambda: torchio.RandomFlip(self.flip, flip_probability=0.5)),
            (place, lambda: torchio.RandomAffine(size, self.degrees, self.shift_mm, isotropic=True, **chance)),
            (self.elastic_mm, lambda: torchio.RandomElasticDeformation(7, self.elastic_mm, p=self.elastic_probability)),
            (self.bias, lambda: torchio.RandomBiasField(self.bias, **chance)),
            (self.gamma, lambda: torchio.RandomGamma(self.gamma, **chance)),
            (self.noise, lambda: torchio.RandomNoise(0, (0, self.noise / 2), **chance)),  # half, in the range [0, 1]
            (self.blur_mm, lambda: torchio.RandomBlur((0, self.blur_mm), **chance)),
        )
        return [make() for on, make in wanted if on]


#: Rotation, size, bending, bias field, contrast and noise as segmentation networks are usually trained with.
ORDINARY = Augment(degrees=15, scale=0.15, elastic_mm=3, bias=0.3, gamma=0.3, noise=0.05)
