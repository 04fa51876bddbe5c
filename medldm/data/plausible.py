"""Can these voxels be what they are said to be? Each function refuses a case whose voxels cannot."""

import numpy as np

from medldm.data.sources import BadCase
from medldm.volume import Volume

SPACING_MM = (0.05, 20.0)  # what voxels of patients measure
LEAST_SLICES = 3
CONSTANT_PERCENTILES = (0.5, 99.5)
OUTLIER_FACTOR = 1e4  # largest |voxel| over the 99th percentile of |voxels| that are not 0; at most 4.5 in 298 real images
SAMPLES = 1 << 22  # percentiles are taken over at most about this many voxels

# A label map whose labelled neighbours differ more often than not is an image: equal neighbours are 76 % to 99 % in real maps of up to
# 149 structures, at most 15 % in real images.
MAP_VALUES, MAP_NEIGHBOURS = 20, 0.5

PADDING_HU = -1150.0  # what scanners fill in outside their field of view lies below air, noise included
FAT_OR_AIR_HU = -50.0
SOFT_TISSUE_HU, SOFT_TISSUE_SHARE = (-50.0, 150.0), 0.75  # at least, where there is neither fat nor air ...
CONTRAST_HU, CONTRAST_SHARE = (20.0, 700.0), 0.85  # ... or blood with contrast medium, beside which little is like water
NARROW_HU = 30.0  # noise alone spreads wider
FLOOR_SHARE = 0.05  # of voxels that are the lowest value: no noise about it, so that it stands for nothing measured
ZERO_SHARE = 0.2


def sampled(channel: np.ndarray) -> np.ndarray:
    """At most about 4 million voxels, evenly spaced."""
    return channel.ravel()[:: -(-channel.size // SAMPLES)]


def refuse_flat(file: str, image: Volume) -> None:
    """Set aside an image with fewer than 3 slices along an axis ("no_volume"), such as a localizer or a single plane."""
    if min(image.shape) < LEAST_SLICES:
        raise BadCase(file, "no_volume", f"has {' x '.join(map(str, image.shape))} voxels; a volume has at least {LEAST_SLICES} along each axis.")


def refuse_constant(file: str, image: Volume) -> None:
    """Refuse an image with a channel in which almost all voxels are equal ("constant")."""
    for channel in image.data.numpy():
        low, high = np.percentile(sampled(channel), CONSTANT_PERCENTILES)
        if not high > low:
            raise BadCase(file, "constant", f"is almost constant: at least 99 % of its voxels are {low:g}.")


def refuse_outlier_voxels(file: str, image: Volume) -> None:
    """Refuse single voxels that are far above all others, as a flipped bit of an exponent leaves them ("outlier_voxels")."""
    for channel in image.data.numpy():
        size = np.abs(channel).ravel()
        usual = np.percentile(sampled(size[size > 0]), 99, method="lower")
        count = int((size / OUTLIER_FACTOR > usual).sum())
        if count:
            reason = f"has {count} voxels of up to {size.max():.3g}, where 99 % are at most {usual:.3g}: was it damaged?"
            raise BadCase(file, "outlier_voxels", reason)


def refuse_no_hounsfield(file: str, image: Volume) -> None:
    """Refuse a CT whose numbers cannot be Hounsfield units ("not_hu").

    Fat (-100) or air (-1000) prove the scale. An image without either is a small crop; it has to be mostly soft tissue, or
    blood with contrast medium. An MR crop without background whose numbers lie in that range cannot be told from it.
    """
    for channel in image.data.numpy():
        doubt = _doubt(sampled(channel))
        if doubt:
            raise BadCase(file, "not_hu", f"is not in Hounsfield units: {doubt}.")


def _doubt(voxels: np.ndarray) -> str:
    """Why voxels are not in Hounsfield units, or ""."""
    lowest, highest = float(voxels.min()), float(voxels.max())
    body = voxels[voxels > PADDING_HU]
    if len(body) < len(voxels) / 20:
        return f"nearly all voxels are below {PADDING_HU:g}"
    least, low, median, most = np.percentile(body, (0.1, 1, 50, 99.9))
    if most - least < NARROW_HU:
        return f"its values span {least:.3g} to {most:.3g}, as if they had been normalised"
    if low <= FAT_OR_AIR_HU or least <= 3 * FAT_OR_AIR_HU:
        return ""
    if lowest == 0 and highest == 255:
        return "its values span 0 to 255, as if they had been made 8 bits wide"
    for value, limit in ((float(body.min()), FLOOR_SHARE), (0.0, ZERO_SHARE)):
        if (body == value).mean() > limit:
            return f"{100 * (body == value).mean():.0f} % of its voxels are {value:g}, and air is nowhere near -1000"
    soft = ((body > SOFT_TISSUE_HU[0]) & (body < SOFT_TISSUE_HU[1])).mean()
    bright = ((body > CONTRAST_HU[0]) & (body < CONTRAST_HU[1])).mean()
    if soft < SOFT_TISSUE_SHARE and bright < CONTRAST_SHARE:
        return f"there is no fat or air, and {100 * soft:.0f} % are soft tissue (median {median:.4g}); the rescale of the scanner may be missing"
    return ""


def label_values(file: str, label: Volume, labels: dict[int, str]) -> tuple[int, ...]:
    """The foreground values of a label map [1 I J K], in order.

    Args:
        file: for the message.
        label: whole numbers.
        labels: label value -> name; where it is not empty, other values are an error.

    Raises:
        BadCase: a value is negative or has no name, or the map is an image ("label_values").
    """
    voxels = label.data.numpy()[0]
    values = tuple(int(value) for value in np.unique(voxels) if value != 0)
    strange = [value for value in values if value < 0 or (labels and value not in labels)]
    if strange:
        known = f"the named labels are {', '.join(f'{v} ({name})' for v, name in labels.items())}" if labels else "labels are positive"
        raise BadCase(file, "label_values", f"has the values {', '.join(map(str, strange[:5]))}; {known}.")
    if len(values) > MAP_VALUES and _equal_neighbours(voxels) < MAP_NEIGHBOURS:
        raise BadCase(file, "label_values", f"has {len(values)} values, and neighbours differ as in an image. Is it one?")
    return values


def _equal_neighbours(voxels: np.ndarray) -> float:
    """Share of neighbours along an axis, both labelled, that have the same label."""
    equal, pairs = 0, 0
    for axis in range(3):
        here, there = np.delete(voxels, -1, axis), np.delete(voxels, 0, axis)
        both = (here != 0) & (there != 0)
        equal, pairs = equal + int((both & (here == there)).sum()), pairs + int(both.sum())
    return equal / max(pairs, 1)
