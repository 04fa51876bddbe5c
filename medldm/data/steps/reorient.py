"""Voxel axes along right, anterior, superior."""

from dataclasses import dataclass

import numpy as np

from medldm.data.steps.base import Step
from medldm.volume import Volume


@dataclass(frozen=True)
class Reorient(Step):
    """Bring the axes closest to R, A and S to I, J and K by transposing and flipping; no voxel changes its value or place."""

    def __call__(self, volume: Volume) -> Volume:
        """Reorder voxels [C I J K]; the affine follows."""
        import nibabel

        orientation = nibabel.io_orientation(volume.affine)  # row a: (world axis, direction) of voxel axis a
        world, direction = orientation[:, 0].astype(int), orientation[:, 1]
        data = volume.data.flip([1 + axis for axis in range(3) if direction[axis] < 0])
        data = data.permute(0, *(1 + np.argsort(world))).contiguous()
        affine = volume.affine @ nibabel.orientations.inv_ornt_aff(orientation, volume.shape)
        return Volume(data, affine, volume.unit)
