"""Measurements of all kinds at random, for networks that shall serve any of them."""

import math

import torch

from medldm.operators.acquisitions import AcceleratedMRI, Acquisition, MissingBlock, Noisy, SparseCT, ThickSlices
from medldm.operators.masks import VariableDensity
from medldm.types import Shape3

PLANES = ((0, 1), (0, 2), (1, 2))
MRI, SLICES, CT, BLOCK = 0.4, 0.6, 0.8, 0.9  # shares up to each kind; the rest is noise


def any_acquisition(generator: torch.Generator, shape: Shape3) -> Acquisition:
    """A kind of measurement with random settings.

    MRI of R = 2 to 12 with variable density (4 of 10), slices 1.5 to 6 voxels apart (2), CT of 10 to 90 views over 90 to 180 degrees (2),
    a missing block of 5 to 50 % (1), noise of .05 to .5 (1); noise levels of the others from .003 to .04.

    Args:
        generator: decides.
        shape: voxels I, J, K of the image; at most a third of the measured points of k-space go to its calibration block.
    """

    def draw(low: float, high: float, log: bool = True) -> float:
        share = float(torch.rand((), generator=generator))
        return math.exp(math.log(low) + share * (math.log(high) - math.log(low))) if log else low + share * (high - low)

    def pick(count: int) -> int:
        return int(torch.randint(count, (), generator=generator))

    kind = draw(0, 1, log=False)
    if kind < MRI:
        acceleration, axes = draw(2, 12), PLANES[pick(3)]
        largest = math.sqrt(math.prod(shape[axis] for axis in axes) / acceleration / 3)
        calibration = min(round(draw(3, 9)), int(largest))
        return AcceleratedMRI(draw(0.004, 0.04), VariableDensity(acceleration, calibration, axes, hermitian=True, power=draw(1, 4, log=False)))
    if kind < SLICES:
        return ThickSlices(draw(0.005, 0.04), pick(3), draw(1.5, 6, log=False))
    if kind < CT:
        return SparseCT(draw(0.003, 0.03), round(draw(10, 90)), 180.0 if pick(2) else draw(90, 180, log=False))
    if kind < BLOCK:
        return MissingBlock(share=draw(0.05, 0.5, log=False))
    return Noisy(draw(0.05, 0.5))
