"""Series over time: does a generated one move as real ones do? The contrasts of an image are its time points."""

from dataclasses import dataclass

import numpy as np

from medldm.metrics.base import Images, Metric, Score, not_computable
from medldm.metrics.bootstrap import summarise
from medldm.metrics.paired import ms_ssim

FEWEST = 3  # time points


@dataclass(frozen=True)
class TemporalConsistency(Metric):
    """How like neighbouring time points are, and how smoothly they change.

    `temporal_ms_ssim` (mean MS-SSIM of x_t and x_t+1) and `temporal_roughness` (see `roughness`), each also as `..._real`, of the reference.

    Args:
        seed: of the bootstrap over patients.
    """

    seed: int = 0

    def __call__(self, generated: Images, reference: Images) -> list[Score]:
        """Scores; not computable where an image has fewer than 3 time points."""
        groups = (("", generated), ("_real", reference))
        if any(len(images.image(i)) < FEWEST for _, images in groups for i in range(len(images))):
            reason = f"at least {FEWEST} time points in every image are needed"
            return [not_computable(name, generated, reason) for name in ("temporal_ms_ssim", "temporal_roughness")]
        measures = (("temporal_ms_ssim", likeness), ("temporal_roughness", roughness))
        return [
            summarise(f"{name}{end}", [measure(images.image(i)) for i in range(len(images))], images.patients, seed=self.seed)
            for name, measure in measures
            for end, images in groups
        ]


def likeness(series: np.ndarray) -> float:
    """Mean MS-SSIM of neighbouring time points of [T I J K]."""
    return float(np.mean([ms_ssim(a, b) for a, b in zip(series[:-1], series[1:], strict=True)]))


def roughness(series: np.ndarray) -> float:
    """Root mean square of x_t-1 - 2 x_t + x_t+1 over that of x_t+1 - x_t in [T I J K]; 0 where nothing changes.

    0 for a steady change, sqrt(3) for independent noise on a still image.
    """
    first, second = (float(np.sqrt(np.mean(np.square(np.diff(series, order, axis=0))))) for order in (1, 2))
    return second / first if first else 0.0
