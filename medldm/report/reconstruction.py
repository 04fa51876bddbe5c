"""How well an autoencoder returns held-out cases: values per case, scores, pictures. A plain DCT of the same rate stands beside it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from medldm.errors import UserError
from medldm.metrics.base import Images, Score
from medldm.metrics.baselines import dct_lowpass
from medldm.metrics.bootstrap import summarise
from medldm.metrics.paired import hfen, ms_ssim, nmse, psnr, ssim
from medldm.metrics.segmentation import label_values, lesion_values
from medldm.models.autoencoder import Autoencoder
from medldm.models.quantized import QuantizedAutoencoder
from medldm.report.html import Figure, Figures
from medldm.report.mosaic import Picture, centre, colour, mosaic

UNITS = {"psnr": "dB", "hd95": "mm", "volume_error": "%"}  # by start of the name

SETTINGS = ("voxels_per_number", "bits_per_voxel")  # known, not estimated: they have no interval

LESIONS = ("there", "found", "claimed", "false")

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


@dataclass(frozen=True)
class Judged:
    """What is looked at in a reconstruction.

    Args:
        inside: structures inside of which images are compared; none for all voxels.
        lesions: structures whose pieces are counted one by one.
    """

    inside: tuple[str, ...] = ()
    lesions: tuple[str, ...] = ()

    def check(self, images: Images) -> None:
        """Refuse names that the cohort does not have.

        Raises:
            UserError: one of them is no structure of it, or cases have no label map.
        """
        named, known = {*self.inside, *self.lesions}, set(images.cohort.labels.values())
        if strange := ", ".join(sorted(named - known)):
            there = ", ".join(sorted(known)) or "none"
            raise UserError(f"{strange} is no structure of {images.cohort.root}; there are {there}.", "Set --inside and --lesions.")
        if named and not images.labelled:
            raise UserError(f"{images.cohort.root}: some cases have no label map.", "Leave --inside and --lesions away.")

    def mask(self, images: Images, label: np.ndarray | None) -> np.ndarray | None:
        """Where images are compared [I J K]; None for everywhere."""
        values = [value for value, name in images.cohort.labels.items() if name in self.inside]
        return np.isin(label, values) if values and label is not None else None


def case_values(autoencoder: Autoencoder, images: Images, index: int, judged: Judged = Judged()) -> Values:
    """All values of one case, by name; a structure that is neither there nor found has none."""
    voxels, label = images.image(index), images.label(index)
    mask = judged.mask(images, label)
    if mask is not None and not mask.any():
        return {}
    image, decoded = reconstruct_case(autoencoder, images, index)
    cells = np.prod([-(-n // autoencoder.factor) for n in voxels.shape[1:]])
    inputs = cells * autoencoder.factor**3 * autoencoder.image_channels
    numbers = int(cells * autoencoder.latent_channels)
    # the linear coder gets as many coefficients as the autoencoder spends numbers on this case, padding included
    linear = np.stack([dct_lowpass(channel, min(1.0, numbers / voxels.size)).clip(-1, 1) for channel in voxels])
    whole = None if mask is None else np.broadcast_to(mask, voxels.shape)
    values = {
        "psnr": psnr(image, voxels, whole), "nmse": nmse(image, voxels, whole), "hfen": _mean(hfen, image, voxels, mask),
        "ssim": _mean(ssim, image, voxels, mask), "ms_ssim": _mean(ms_ssim, image, voxels, mask),
        "psnr_dct": psnr(linear, voxels, whole), "ssim_dct": _mean(ssim, linear, voxels, mask),
    }  # fmt: skip
    values |= {"psnr_gain": values["psnr"] - values["psnr_dct"], "ssim_gain": values["ssim"] - values["ssim_dct"]}
    if decoded is not None:
        values |= label_values(decoded, label, images.cohort.labels, images.spacing(index))
        values |= lesion_values(decoded, label, {v: name for v, name in images.cohort.labels.items() if name in judged.lesions})
    values["voxels_per_number"] = float(inputs / numbers)
    if isinstance(autoencoder, QuantizedAutoencoder):
        values["bits_per_voxel"] = autoencoder.bits_per_voxel * float(inputs / voxels.size)
    return values


def reconstruction_scores(rows: Sequence[Values], patients: Sequence[str], seed: int) -> list[Score]:
    """Mean over cases of every value, in the order of the first case's names; cases without a value are left out of it."""
    scores = _lesion_scores(rows, patients, seed)
    for name in dict.fromkeys(name for row in rows for name in row if not name.startswith("lesions_")):
        known = [i for i, row in enumerate(rows) if name in row]
        score = summarise(name, [rows[i][name] for i in known], [patients[i] for i in known], _unit(name), seed=seed)
        scores.append(replace(score, low=math.nan, high=math.nan) if name in SETTINGS else score)
    return scores


def _lesion_scores(rows: Sequence[Values], patients: Sequence[str], seed: int) -> list[Score]:
    """Recall and precision of lesions over all cases together; rows without any say nothing of either."""
    scores = []
    names = dict.fromkeys(key.removeprefix("lesions_there_") for row in rows for key in row if key.startswith("lesions_there_"))
    for name in names:
        there, found, claimed, false = (np.array([row.get(f"lesions_{kind}_{name}", 0.0) for row in rows]) for kind in LESIONS)
        for title, part, whole in (("recall", found, there), ("precision", claimed - false, claimed)):
            pair, used = np.stack([part, whole], 1), whole > 0
            owners = [patient for patient, use in zip(patients, used, strict=True) if use]
            if owners:
                scores.append(summarise(f"lesion_{title}_{name}", pair[used], owners, statistic=_ratio, seed=seed))
            else:
                reason = f"not computable: no lesion is {'there' if title == 'recall' else 'claimed'}"
                scores.append(Score(f"lesion_{title}_{name}", math.nan, math.nan, math.nan, len(set(patients)), on=reason))
    return scores


def _ratio(rows: np.ndarray) -> float:
    return float(rows[:, 0].sum() / rows[:, 1].sum())


def reconstruction_figures(autoencoder: Autoencoder, images: Images, rows: Sequence[Values]) -> Figures:
    """The best, the median and the worst case by PSNR: real over reconstruction over their difference."""
    chosen = dict(zip(dict.fromkeys(best_median_worst(rows)), ("Best", "Median", "Worst"), strict=False))
    figures = []
    for index, rank in chosen.items():
        picture, rebuilt = stored_picture(images, index), reconstructed_picture(autoencoder, images, index)
        difference = Picture(rebuilt.image - picture.image, None, picture.spacing, at=centre(picture))
        png = mosaic([[picture], [rebuilt], [difference]], names=("real", "reconstructed", "difference"))
        overlaps = [f"{name.replace('_', ' ')} {value:.3f}" for name, value in rows[index].items() if name.startswith("dice_")]
        figures.append(
            Figure(
                "", png, "; ".join([f"{rank}, {images.cases[index].case}: {rows[index]['psnr']:.2f} dB, SSIM {rows[index]['ssim']:.3f}", *overlaps])
            )
        )
    judged = sum("psnr" in row for row in rows)
    caption = f"Best, median and worst of {judged} cases by PSNR. Difference: reconstructed minus real, mid-grey is none."
    return Figures("", figures, caption, legend(images))


def best_median_worst(rows: Sequence[Values]) -> list[int]:
    """Positions of these cases by PSNR; cases without one, as nothing of them is judged, are passed over."""
    known = sorted((i for i, row in enumerate(rows) if "psnr" in row), key=lambda i: -rows[i]["psnr"])
    return [known[0], known[len(known) // 2], known[-1]] if known else []


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


def _mean(measure, image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None) -> float:
    """A measure of 3-D images, averaged over channels."""
    return float(np.mean([measure(a, b, mask) for a, b in zip(image, reference, strict=True)]))
