"""Pictures of volumes: axial, coronal and sagittal slices side by side, structures outlined, all at one scale.

Radiological display: the patient's right is on the left of axial and coronal slices, anterior is up in axial ones and on the left
of sagittal ones, superior is up elsewhere. A volume is cut at the centroid of its label map, or at its centre without one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np

PLANES = ("axial", "coronal", "sagittal")
#: Colours of structures on grey images, apart for colour-blind readers too (after Okabe & Ito 2008).
COLOURS = ("#ff9f1c", "#3ec5ff", "#3ddc97", "#ff6fb5", "#f4e04d", "#b79cff", "#ff6b4a", "#c8d0d8")
GAP = 6
PIXELS_PER_MM, LONGEST = 4.0, 280.0
FILL = 0.16


@dataclass(frozen=True)
class Picture:
    """A volume to show.

    Args:
        image: voxels [I J K], RAS+.
        label: label map [I J K], or None.
        spacing: millimetres along I, J, K.
        at: voxel to cut it at; by default see `centre`.
    """

    image: np.ndarray
    label: np.ndarray | None = None
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    at: tuple[int, ...] | None = None


def colour(value: int) -> str:
    """The colour "#rrggbb" of a label value (1, 2, ...), repeated after eight."""
    return COLOURS[(value - 1) % len(COLOURS)]


def planes(voxels: np.ndarray, at: Sequence[int]) -> list[np.ndarray]:
    """The axial, coronal and sagittal slice [rows, columns] of voxels [I J K] through the voxel `at`, turned for display."""
    i, j, k = at
    axial, coronal, sagittal = voxels[::-1, ::-1, k].T, voxels[::-1, j, ::-1].T, voxels[i, ::-1, ::-1].T
    return [axial, coronal, sagittal]


def centre(picture: Picture) -> tuple[int, ...]:
    """The voxel to cut a volume at: the given one, or the structure voxel nearest to the centroid of all structures, else the middle."""
    if picture.at is not None:
        return picture.at
    if picture.label is None or not (picture.label > 0).any():
        return tuple(n // 2 for n in picture.image.shape)
    inside = np.argwhere(picture.label > 0)
    nearest = np.argmin(((inside - inside.mean(0)) ** 2).sum(1))
    return tuple(int(n) for n in inside[nearest])


def mosaic(
    rows: Sequence[Sequence[Picture]],
    names: Sequence[str] = (),
    window: tuple[float, float] = (-1.0, 1.0),
    box: Sequence[float] = (0.0, 0.0, 0.0),
) -> bytes:
    """PNG of rows of volumes, three planes each, all at the same number of pixels per millimetre (4, or less for large volumes).

    Args:
        rows: volumes, row by row; rows may differ in length.
        names: one per row, written above it; none by default.
        window: intensities shown as black and white.
        box: millimetres along I, J, K that each volume gets at least, so that several mosaics come out alike.
    """
    box = np.max([box, *(extent(picture) for row in rows for picture in row)], axis=0)
    scale = min(PIXELS_PER_MM, LONGEST / float(max(box)))
    tiles = [[tile for picture in row for tile in _tiles(picture, window, scale)] for row in rows]
    i, j, k = (int(np.ceil(side * scale)) + 1 for side in box)
    width, height = GAP + (i + i + j + 3 * GAP) * max(len(row) for row in rows), max(j, k)
    size = max(15, width // 75)
    above = size + 8 if names else 0
    canvas = np.zeros((GAP + (height + above + GAP) * len(rows), width, 3), dtype=np.uint8)
    tops = [GAP + (height + above + GAP) * n for n in range(len(rows))]
    for top, row in zip(tops, tiles, strict=True):
        left = GAP
        for number, tile in enumerate(row):
            place = (i, i, j)[number % 3]
            y, x = top + above + (height - tile.shape[0]) // 2, left + (place - tile.shape[1]) // 2
            canvas[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
            left += place + GAP
    return _png(canvas, list(zip(tops, names, strict=bool(names))), size)


def extent(picture: Picture) -> tuple[float, ...]:
    """Millimetres along I, J, K."""
    return tuple(n * s for n, s in zip(picture.image.shape, picture.spacing, strict=True))


def _tiles(picture: Picture, window: tuple[float, float], scale: float) -> list[np.ndarray]:
    """Coloured slices [rows, columns, 3] of one volume, uint8."""
    at, label = centre(picture), picture.label
    i, j, k = picture.spacing
    sizes = [(j, i), (k, i), (k, j)]
    images = planes(picture.image, at)
    labels = planes(label, at) if label is not None else [None] * 3
    return [_tile(image, found, (a * scale, b * scale), window) for image, found, (a, b) in zip(images, labels, sizes, strict=True)]


def _tile(image: np.ndarray, label: np.ndarray | None, zoom: tuple[float, float], window: tuple[float, float]) -> np.ndarray:
    """One slice, enlarged, with every structure tinted and outlined."""
    grey = (_enlarge(image, zoom) - window[0]) / (window[1] - window[0])
    tile = np.repeat(255 * grey.clip(0, 1)[..., None], 3, axis=2)
    for value in np.unique(label[label > 0]).astype(int) if label is not None else ():
        # enlarging the mask as a smooth field gives an outline without steps
        inside = _enlarge((label == value).astype(np.float32), zoom)
        edge = np.clip(1.6 - np.abs(inside - 0.5) / _slope(inside), 0, 1)[..., None]
        paint = np.array([int(colour(value)[n : n + 2], 16) for n in (1, 3, 5)])
        weight = np.maximum(FILL * (inside > 0.5)[..., None], 0.9 * edge)
        tile += weight * (paint - tile)
    return np.rint(tile).clip(0, 255).astype(np.uint8)


def _slope(field: np.ndarray) -> np.ndarray:
    """Change per pixel, so that (field - .5) / slope is the distance from the outline in pixels."""
    return np.maximum(np.hypot(*np.gradient(field)), 1e-3)


def _enlarge(plane: np.ndarray, zoom: tuple[float, float]) -> np.ndarray:
    """Linear interpolation to pixels, the borders of the outer voxels kept."""
    from scipy.ndimage import map_coordinates

    axes = [(np.arange(max(1, round(n * z))) + 0.5) / z - 0.5 for n, z in zip(plane.shape, zoom, strict=True)]
    return map_coordinates(plane.astype(np.float32), np.meshgrid(*axes, indexing="ij"), order=1, mode="nearest")


def _png(canvas: np.ndarray, names: list[tuple[int, str]], size: int) -> bytes:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(canvas)
    if names:
        draw, font = ImageDraw.Draw(image), ImageFont.load_default(size)
        for top, name in names:
            draw.text((GAP + 1, top), name, fill="#c9d1d9", font=font)
    stream = BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
