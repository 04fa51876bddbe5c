"""Computed tomography with a cone of rays, projected by RTK (Rit et al. 2014)."""

import math

import numpy as np
import torch
from torch import Tensor

from medldm.errors import UserError
from medldm.operators.base import check_fits
from medldm.operators.ct import diagonal, outside, positive, radians
from medldm.operators.opaque import Opaque
from medldm.optional import require
from medldm.types import Shape3


class ConeCT(Opaque):
    """Line integrals from one point per view to a flat detector, of images [B C I J K]: [B C views bins rows] (Joseph 1982).

    The source circles around the axis K as in `FanCT`, whose rays are those of the middle row. Runs on the CPU, in double precision
    where it is asked for, and needs the extra "cone". The border is half a voxel inside of the image.

    Args:
        shape: voxels I, J, K.
        angles: of the views, in radians [views].
        source: millimetres from the source to the axis of rotation.
        detector: millimetres from the source to the detector.
        spacing: millimetres along I, J, K.
        bins, rows: of the detector, across the axis and along it.
        pixel: millimetres across the axis and along it.

    Raises:
        UserError: angles look like degrees, the source lies in the image, a number is out of range, or RTK is not installed.
    """

    def __init__(
        self,
        shape: Shape3,
        angles: Tensor,
        source: float,
        detector: float,
        spacing: tuple[float, float, float],
        bins: int,
        rows: int,
        pixel: tuple[float, float],
    ):
        super().__init__()
        angles = radians(angles)
        positive(bins=bins, rows=rows, **{f"spacing_{axis}": s for axis, s in zip("ijk", spacing, strict=True)})
        positive(pixel_across=pixel[0], pixel_along=pixel[1])
        outside(diagonal(shape, spacing) / 2, source, detector)
        if min(shape) < 2:
            raise UserError(f"A cone goes through at least 2 voxels along each axis, not {tuple(shape)}.", "Use FanCT for a single slice.")
        self.itk = require("itk", "cone")
        if not hasattr(self.itk, "RTK"):
            raise UserError("The package 'itk-rtk' is not installed.", "Install it with: pip install 'medldm[cone]'")
        self.shape, self.spacing, self.detector_shape, self.pixel = tuple(shape), tuple(spacing), (len(angles), bins, rows), tuple(pixel)
        self.geometry = self.itk.RTK.ThreeDCircularProjectionGeometry.New()
        for angle in angles:
            self.geometry.AddProjection(float(source), float(detector), 180 - math.degrees(float(angle)))  # RTK turns the other way, from J

    def there(self, x: Tensor) -> Tensor:
        """See `Opaque`."""
        check_fits(x, (x.shape[1], *self.shape), "images")
        return self._each(
            x, self.detector_shape, lambda a: self._run("Forward", self._projections(np.zeros(self.detector_shape, a.dtype)), self._volume(a))
        )

    def back(self, y: Tensor) -> Tensor:
        """See `Opaque`."""
        check_fits(y, (y.shape[1], *self.detector_shape), "measurements")
        return self._each(y, self.shape, lambda a: self._run("Back", self._volume(np.zeros(self.shape, a.dtype)), self._projections(a)))

    def _each(self, x: Tensor, shape: Shape3, product) -> Tensor:
        """A product for every image of a batch [B C ...]."""
        made = [torch.from_numpy(product(one.detach().cpu().numpy())) for one in x.flatten(0, 1)]
        return torch.stack(made).reshape(*x.shape[:2], *shape).to(x)

    def _run(self, name: str, onto, of) -> np.ndarray:
        """One of RTK's products; both of its images are in the order (z, y, x) of numpy."""
        kind = type(onto)
        run = getattr(self.itk.RTK, f"Joseph{name}ProjectionImageFilter")[kind, kind].New()
        run.SetGeometry(self.geometry)
        run.SetInput(0, onto)
        run.SetInput(1, of)
        run.Update()
        found = self.itk.array_from_image(run.GetOutput())
        return found.transpose(0, 2, 1)[:, ::-1].copy() if name == "Forward" else found.transpose(2, 0, 1)

    def _volume(self, a: np.ndarray):
        """I, J, K as RTK's x, z and y: its axis of rotation is y."""
        i, j, k = self.spacing
        return self._image(a.transpose(1, 2, 0), (i, k, j))

    def _projections(self, a: np.ndarray):
        """Views, bins and rows as RTK's z, x and y; its detector runs from the last bin to the first."""
        return self._image(a[:, ::-1].transpose(0, 2, 1), (*self.pixel, 1.0))

    def _image(self, a: np.ndarray, spacing: tuple[float, float, float]):
        """An image of RTK around the origin, from an array in the order (z, y, x)."""
        image = self.itk.image_from_array(np.ascontiguousarray(a))
        image.SetSpacing(spacing)
        image.SetOrigin([-(n - 1) / 2 * s for n, s in zip(a.shape[::-1], spacing, strict=True)])
        return image
