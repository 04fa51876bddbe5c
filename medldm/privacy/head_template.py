"""An average head, and where its face is.

Coordinates are millimetres of the template, RAS+: x = 0 is its mirror plane, the vertex lies at z = 80, the frontal poles at y = 82, the eyes at
(+-32, 70, -35), the tip of the nose at (0, 107, -72), the chin at z = -125. The image is derived from pydeface's (`head/README.md`).
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy import ndimage

from medldm.volume import read_volume

IMAGE = Path(__file__).parent / "head" / "template.nii.gz"
BINS = 24
TOP = 78.0  # z of the scalp at the vertex
CHIN = -130.0  # what lies below is neck
FLOOR = -170.0  # below, a front neck turns into a chest
AROUND = 2  # voxels of air around the head that are compared too: the outline is the strongest feature of all


@dataclass(frozen=True)
class Template:
    """The average head in the forms that finding a head needs.

    Args:
        image: intensities from 0 to 1 [I J K], float32.
        affine: voxel index -> mm [4 4].
        compared: voxels that a similarity is measured on [I J K]: head and air around it without the neck, which has a posture of its own.
        points: their positions in mm [n 3].
        levels: their intensities as bins 0 ... BINS - 1 [n].
        front: positions in mm of the skin of the face as it is seen from the front, one for each column of voxels [m 3].
        scalp: positions in mm of the skin above the level of the orbits [k 3].
    """

    image: np.ndarray
    affine: np.ndarray
    compared: np.ndarray
    points: np.ndarray
    levels: np.ndarray
    front: np.ndarray
    scalp: np.ndarray


@cache
def template() -> Template:
    """Read the average head once."""
    volume = read_volume(IMAGE)
    image = volume.data[0].numpy() / 255
    head = ndimage.binary_fill_holes(foreground(image))
    position = np.moveaxis(np.indices(image.shape), 0, -1) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    x, y, z = np.moveaxis(position, -1, 0)
    compared = ndimage.binary_dilation(head, iterations=AROUND) & (z > -95) & ((z > -70) | (y > 0))
    face = foreground(image) & in_face(x, y, z) & (z > CHIN)
    columns, rows = np.nonzero(face.any(1))
    foremost = image.shape[1] - 1 - face[:, ::-1].argmax(1)[columns, rows]
    scalp = head & ~ndimage.binary_erosion(head) & (z > 0)
    levels = np.minimum((image[compared] * BINS).astype(np.intp), BINS - 1)
    return Template(image, volume.affine, compared, position[compared], levels, position[columns, foremost, rows], position[scalp])


def in_face(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Where a point belongs to the face or to the air before it: below a roof, in front of a back wall, and with no bound to the front and sides.

    roof  z < -5 - 0.5 max(90 - y, 0) - 10 c(1.4 - |x| / 20) c((88 - y) / 12), c clipping to [0, 1]: from the brows back along the roofs of the
          orbits, and lower by 10 mm between them, where the frontal lobes reach down to the nose;
    back  y > 46 down to z = -24, from there to y > 36 at z = -60 and y > 30 at z = -75: in front of the temporal poles, and below them through
          cheeks and jaw.

    The constants were chosen on 30 adults (IXI Hammersmith, 2 mm) for the most of the face without any voxel of brain; 2 mm higher the roof would cut
    0.035 % of the brain of the worst of them. `benchmarks/deface.py` measures on others.

    Args:
        x, y, z: coordinates in mm of the template, of shapes that broadcast.
    """
    between = np.clip(1.4 - np.abs(x) / 20, 0, 1) * np.clip((88 - y) / 12, 0, 1)
    roof = -5 - 0.5 * np.maximum(90 - y, 0) - 10 * between
    back = np.interp(z, (-75, -60, -24), (30, 36, 46))
    return (z < roof) & (z > FLOOR) & (y > back)


def foreground(image: np.ndarray) -> np.ndarray:
    """The largest connected part that is no air [I J K]: above half of Otsu's threshold, which in MRI parts bright from dark tissue.

    Args:
        image: intensities from 0 to 1.
    """
    from skimage.filters import threshold_otsu

    parts, count = ndimage.label(ndimage.binary_opening(image > threshold_otsu(image) / 2))
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:]) if count else np.zeros(image.shape, bool)
