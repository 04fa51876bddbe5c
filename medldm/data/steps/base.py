"""The open interface of data steps.

A step looks at a case and plans a change: plain numbers that say exactly what is done to it. The same change is applied to the
image and to its label map, is stored with the case, and can be undone, so that a result returns to the grid it came from.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Self

from medldm.volume import Volume


class Change(ABC):
    """What a step does to one case.

    Changes are frozen dataclasses of numbers, text and tuples, so that `medldm.run.describe` can store them and `build` makes
    them again. A change of intensities leaves label maps (unit "label") as they are.
    """

    @abstractmethod
    def __call__(self, volume: Volume) -> Volume:
        """Apply to voxels [C I J K] and their affine."""

    @abstractmethod
    def undo(self, volume: Volume) -> Volume:
        """Back to the grid and the intensities from before, for any volume on the changed grid or a part of it.

        What the volume covers of the grid from before is returned; `history.restore` fills the rest once, at the end, so that no
        interpolation mixes image and filling. Where the change lost something else, such as clipped intensities, what takes
        its place is documented there.
        """


class Step(ABC):
    """One deterministic way to change volumes. Steps are frozen dataclasses whose fields are their settings."""

    def fit(self, images: Iterable[Volume]) -> Self:
        """The step with what it has to know of a whole cohort; most need nothing.

        Args:
            images: training images as this step gets them, after the steps before it; read once, one at a time.
        """
        return self

    @abstractmethod
    def plan(self, image: Volume, label: Volume | None = None) -> Change:
        """The change for one case.

        Args:
            image: voxels [C I J K].
            label: its label map [1 I J K] on the same grid, if there is one.
        """

    def __call__(self, volume: Volume) -> Volume:
        """Plan and apply."""
        return self.plan(volume)(volume)
