"""What a denoiser becomes when there are measurements: an estimate of the clean latent given its noisy version and them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from medldm.types import Denoise

if TYPE_CHECKING:
    from medldm.diffusion.posteriors.measured import Measured
    from medldm.diffusion.process import Process


@dataclass(frozen=True)
class Posterior(ABC):
    """A way to let measurements y = A(D(z)) + e enter a walk from noise to data."""

    @abstractmethod
    def inform(self, denoise: Denoise, process: "Process", measured: "Measured", start: Tensor | None = None) -> Denoise:
        """A denoiser whose estimates are E[z_0 | z_t, y], or samples of it.

        Args:
            denoise: (z_t, t [B]) -> E[z_0 | z_t].
            process: the path that the denoiser was trained on.
            measured: the measurements.
            start: a first guess of the clean latents [B c i j k], such as those of a classical result.

        Returns:
            A function for one walk, from its first to its last time: it may remember its last estimate.
        """
