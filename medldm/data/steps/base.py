"""The open interface of data steps: a volume in, a volume out."""

from abc import ABC, abstractmethod

from medldm.volume import Volume


class Step(ABC):
    """One deterministic change of a volume.

    Steps are frozen dataclasses whose fields are their settings. The same step is applied to an image and to its label
    map (unit "label"); a step of intensities leaves label maps as they are.
    """

    @abstractmethod
    def __call__(self, volume: Volume) -> Volume:
        """Apply to voxels [C I J K] and their affine."""
