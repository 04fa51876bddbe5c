"""How well an autoencoder returns held-out cases: values per case, scores, pictures. A plain DCT of the same rate stands beside it."""

from collections.abc import Sequence

import numpy as np
import torch

from medldm.errors import UserError
from medldm.metrics.base import Images, Score
from medldm.metrics.baselines import dct_lowpass
from medldm.metrics.bootstrap import summarise
from medldm.metrics.paired import hfen, ms_ssim, nmse, psnr, ssim
from medldm.metrics.segmentation import label_values
from medldm.models.autoencoder import Autoencoder
from medldm.models.quantized import QuantizedAutoencoder
from medldm.report.html import Figure, Figures
from medldm.report.mosaic import Picture, centre, colour, mosaic

UNITS = {"psnr": "dB", "hd95": "mm", "volume_error": "%"}  # by start of the name

Values = dict[str, float]


def check_fit(autoencoder: Autoencoder, images: Images) -> None:
    """Refuse cases that the autoencoder was not made for.

    Raises:
        UserError: another number of structures, or a case without the label map that the autoencoder codes.
    """
    root, highest = images.cohort.root, max(images.cohort.labels, default=0)
    if autoencoder.label_count not in (0, highest):
        raise UserError(f"The autoencoder codes labels 1..{autoencoder.label_count}; {root} has 1..{highest}.", "Give the cohort it was trained on.")
    missing = next((case.case for case in images.cases if not case.label), None)
    if autoencoder.label_count and missing is not None:
        raise UserError(f"{root}/cohort.csv: case {missing!r} has no label map, but the autoencoder codes labels.", "Leave the case out.")


def reconstruct_case(autoencoder: Autoencoder, images: Images, index: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Image [C I J K] in [-1, 1] and label map [I J K] (None without labels) of one case after encoding and decoding.

    Raises:
        UserError: the image has other channels, or the label map other values, than the autoencoder takes.
    """
    case, voxels, label = images.cases[index], images.image(index), images.label(index)
    if len(voxels) != autoencoder.image_channels:
        raise UserError(f"{images.cohort.path(case.image)} has {len(voxels)} channels; the autoencoder takes {autoencoder.image_channels}.")
    if autoencoder.label_count and not 0 <= label.min() <= label.max() <= autoencoder.label_count:
        raise UserError(f"{images.cohort.path(case.label)} has label values outside 0..{autoencoder.label_count}.", "Prepare the cohort again.")
    with torch.inference_mode():
        target = torch.from_numpy(label)[None, None] if autoencoder.label_count else None
        x = autoencoder.join(torch.from_numpy(voxels)[None], target).to(autoencoder.latent_mean.device)
        image, decoded = autoencoder.split(autoencoder.reconstruct(x))
    return image[0].float().cpu().numpy(), None if decoded is None else decoded[0, 0].cpu().numpy()


def case_values(autoencoder: Autoencoder, images: Images, index: int) -> Values:
    """All values of one case, by name; a structure that is neither there nor found has none."""
    voxels, label = images.image(index), images.label(index)
    image, decoded = reconstruct_case(autoencoder, images, index)
    cells = np.prod([-(-n // autoencoder.factor) for n in voxels.shape[1:]])
    inputs = cells * autoencoder.factor**3 * autoencoder.image_channels
    numbers = int(cells * autoencoder.latent_channels)
    # the linear coder gets as many coefficients as the autoencoder spends numbers on this case, padding included
    linear = np.stack([dct_lowpass(channel, min(1.0, numbers / voxels.size)).clip(-1, 1) for channel in voxels])
    values = {
        "psnr": psnr(image, voxels), "nmse": nmse(image, voxels), "hfen": _mean(hfen, image, voxels),
        "ssim": _mean(ssim, image, voxels), "ms_ssim": _mean(ms_ssim, image, voxels),
        "psnr_dct": psnr(linear, voxels), "ssim_dct": _mean(ssim, linear, voxels),
    }  # fmt: skip
    values |= {"psnr_gain": values["psnr"] - values["psnr_dct"], "ssim_gain": values["ssim"] - values["ssim_dct"]}
    if decoded is not None:
        values |= label_values(decoded, label, images.cohort.labels, images.spacing(index))
    values["voxels_per_number"] = float(inputs / numbers)
    if isinstance(autoencoder, QuantizedAutoencoder):
        values["bits_per_voxel"] = autoencoder.bits_per_voxel * float(inputs / voxels.size)
    return values


def reconstruction_scores(rows: Sequence[Values], patients: Sequence[str], seed: int) -> list[Score]:
    """Mean over cases of every value, in the order of the first case's names; cases without a value are left out of it."""
    scores = []
    for name in dict.fromkeys(name for row in rows for name in row):
        known = [i for i, row in enumerate(rows) if name in row]
        scores.append(summarise(name, [rows[i][name] for i in known], [patients[i] for i in known], _unit(name), seed=seed))
    return scores


def reconstruction_figures(autoencoder: Autoencoder, images: Images, rows: Sequence[Values]) -> Figures:
    """The best, the median and the worst case by PSNR: real over reconstruction over their difference."""
    order = np.argsort([-row["psnr"] for row in rows], kind="stable")
    chosen = dict(zip(dict.fromkeys([order[0], order[len(order) // 2], order[-1]]), ("Best", "Median", "Worst"), strict=False))
    figures = []
    for index, rank in chosen.items():
        picture, rebuilt = stored_picture(images, index), reconstructed_picture(autoencoder, images, index)
        difference = Picture(rebuilt.image - picture.image, picture.label, picture.spacing)
        png = mosaic([[picture], [rebuilt], [difference]], names=("real", "reconstructed", "difference"))
        overlaps = [f"{name.replace('_', ' ')} {value:.3f}" for name, value in rows[index].items() if name.startswith("dice_")]
        figures.append(Figure("", png, "; ".join([f"{rank}: {rows[index]['psnr']:.2f} dB, SSIM {rows[index]['ssim']:.3f}", *overlaps])))
    caption = f"Best, median and worst of {len(rows)} cases by PSNR. Difference: reconstructed minus real, mid-grey is none."
    return Figures("", figures, caption, legend(images))


def stored_picture(images: Images, index: int) -> Picture:
    """First channel and label map of a case as it is stored, to show."""
    return Picture(images.image(index)[0], images.label(index), images.spacing(index))


def reconstructed_picture(autoencoder: Autoencoder, images: Images, index: int) -> Picture:
    """The same after encoding and decoding, cut at the same voxel."""
    image, label = reconstruct_case(autoencoder, images, index)
    return Picture(image[0], label, images.spacing(index), at=centre(stored_picture(images, index)))


def legend(images: Images) -> dict[str, str]:
    """Structure name -> colour of its outline."""
    return {name: colour(value) for value, name in sorted(images.cohort.labels.items())}


def _unit(name: str) -> str:
    return next((unit for start, unit in UNITS.items() if name.startswith(start)), "")


def _mean(measure, image: np.ndarray, reference: np.ndarray) -> float:
    """A measure of 3-D images, averaged over channels."""
    return float(np.mean([measure(a, b) for a, b in zip(image, reference, strict=True)]))
