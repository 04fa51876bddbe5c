"""A DICOM series, or a part of one, as a volume.

What becomes of what an archive holds; words with * are set aside (`medldm.data.sources.SET_ASIDE`) and no error:

    ok                  a volume
    localizer *         said so by ImageType or description, or slices in three perpendicular directions
    secondary_capture * a picture of a screen
    no_volume *         fewer than 3 slices, colours, no pixels, other objects (reports, dose, ultrasound ...), structures without images
    other_contrast *    a volume that --contrasts does not ask for (`contrasts.py`)
    missing_slices      gaps that are multiples of the usual one
    unequal_gaps        other gaps that differ by more than 0.01 mm and 1 %
    shifted_slices      slices that are shifted within their planes, not as by a tilted gantry
    duplicate_slices    different images at one position that no header tells apart
    no_position         position, orientation or pixel spacing are absent or impossible
    no_decoder          compressed in a way for which no decoder is installed
    unsupported         MONOCHROME1, floating point pixels, lookup tables, deflated files ...
    unreadable          damaged, truncated, or more pixels announced than the file can hold
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medldm.data.dicom.geometry import Grid, straighten
from medldm.data.dicom.pixels import read_planes
from medldm.data.sources import BadCase, Stored
from medldm.volume import Volume


@dataclass(frozen=True)
class Series(Stored):
    """The slices of a volume in order along K.

    Args:
        name: pseudonym.
        paths: its files; these may tell who it is.
        slices: for each slice the number of its file in `paths` and of its frame in the file, or for a mosaic the tile.
        scales: for each slice slope and intercept: intensity = slope * stored value + intercept.
        grid: where the slices lie.
        unit: "HU" or "a.u.".
        padding: intensity of pixels that hold no measurement, or None.
        mosaic: tiles along a side of the mosaic; 0 where the file is none.
    """

    name: str
    paths: tuple[Path, ...]
    slices: tuple[tuple[int, int], ...]
    scales: tuple[tuple[float, float], ...]
    grid: Grid
    unit: str = "a.u."
    padding: float | None = None
    mosaic: int = 0

    @property
    def short(self) -> str:
        """The pseudonym."""
        return self.name

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files."""
        return self.paths

    @property
    def tilt_degrees(self) -> float:
        """By how much the gantry was tilted; other than 0, `read` moves the slices to an upright grid."""
        return self.grid.tilt_degrees

    @property
    def changed(self) -> dict[str, float]:
        """The tilt, where there was one."""
        return {"tilt_degrees": round(self.tilt_degrees, 4)} if self.tilt_degrees else {}

    def read(self) -> Volume:
        """Intensities [1 I J K] in RAS+; exact, save for a tilted gantry.

        Then slices are shifted within their planes by linear interpolation onto an upright grid large enough for all of them. What
        lies outside a slice gets the stated padding value, else the smallest intensity of the series (air in CT, 0 in MR); padding is
        never averaged with measurements.
        """
        stack = self.stack()
        if not self.tilt_degrees:
            return Volume(torch.from_numpy(stack[None]), self.grid.matrix, self.unit)
        upright, starts = self.grid.straight()
        fill = float(stack.min()) if self.padding is None else self.padding
        voxels = straighten(stack, starts, upright.shape, fill, self.padding)
        return Volume(torch.from_numpy(voxels[None]), upright.matrix, self.unit)

    def stack(self) -> np.ndarray:
        """Intensities [I J K] of the slices as they were taken, float32, on `grid`.

        Raises:
            BadCase: a file is damaged, or not as it was when the series was found.
        """
        voxels = np.empty(self.grid.shape, np.float32)
        columns, rows, _ = self.grid.shape
        side = self.mosaic or 1
        for number, path in enumerate(self.paths):
            places = [k for k, (file, _) in enumerate(self.slices) if file == number]
            frames = [0] if self.mosaic else [self.slices[k][1] for k in places]
            planes = read_planes(path, frames, (rows * side, columns * side), self.name)
            for n, k in enumerate(places):
                plane = _tile(planes[0], self.slices[k][1], (rows, columns)) if self.mosaic else planes[n]
                slope, intercept = self.scales[k]
                with np.errstate(over="ignore"):  # found below
                    voxels[:, :, k] = plane.T.astype(np.float64) * slope + intercept
        if not np.isfinite(voxels).all():
            raise BadCase(self.name, "unreadable", "has intensities beyond all bounds (its rescale slope is damaged).")
        return voxels


def _tile(mosaic: np.ndarray, number: int, size: tuple[int, int]) -> np.ndarray:
    """One image [rows columns] of a mosaic; they are laid out like text."""
    row, column = divmod(number, mosaic.shape[1] // size[1])
    return mosaic[row * size[0] : (row + 1) * size[0], column * size[1] : (column + 1) * size[1]]
