"""Shape aliases and the axis legend.

B  batch            C  channel          I J K  voxels along right, anterior, superior (RAS+)
i j k               latent cells along the same axes
t in [0, 1]         0 = data, 1 = noise; times and coefficients are float64
"""

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

Shape3: TypeAlias = tuple[int, int, int]

#: (x_t [B C I J K], t [B]) -> estimate of the clean x_0 [B C I J K]
Denoise: TypeAlias = Callable[[Tensor, Tensor], Tensor]
