"""Voxel axes along right, anterior, superior."""

from dataclasses import dataclass

import numpy as np

from medldm.data.steps.base import Step
from medldm.data.steps.grid import Grid, Regridded
from medldm.volume import Volume


@dataclass(frozen=True)
class Reorient(Step):
    """Bring the axes closest to R, A and S to I, J and K by transposing and flipping; no voxel changes its value or place."""

    def plan(self, image: Volume, label: Volume | None = None) -> Regridded:
        """The order and direction of the axes, from the affine alone."""
        import nibabel

        orientation = nibabel.io_orientation(image.affine)  # row a: (world axis, direction) of voxel axis a
        shape = np.array(image.shape)[np.argsort(orientation[:, 0])]
        affine = image.affine @ nibabel.orientations.inv_ornt_aff(orientation, image.shape)
        return Regridded(Grid.of(image), Grid.at(tuple(shape), affine))
