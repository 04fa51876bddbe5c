"""How to run a network on a volume of any size within a given memory, exactly."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medldm.errors import OutOfSpace
from medldm.machine import bytes_text
from medldm.models.tiling.fields import Stored
from medldm.models.tiling.parts import Layer, run
from medldm.models.tiling.streamer import Streamer

THICK = (64, 32, 16, 8)  # rows
THIN = (4, 2, 1)  # rows, of which a third and more is computed for neighbours
WAYS = [(rows, recompute) for heights in (THICK, THIN) for recompute in (0, 1, 2) for rows in heights]  # fastest first
HOST = ", or keep activations on the host: --offload true."
SPARE_SHARE, SPARE_BYTES = 0.35, 256 << 20  # what allocators hold beyond what is asked of them; measured: 0 to 0.29


@dataclass(frozen=True)
class Plan:
    """How a network is run by slabs.

    Args:
        rows: of the first axis per slab.
        recompute: see `Streamer`.
        offload: activations lie in the memory of the host.
        peak: bytes that it takes beside the weights at most, where it was estimated.
    """

    rows: int
    recompute: int = 0
    offload: bool = False
    peak: int = 0

    def __str__(self) -> str:
        again = ("", ", enlargements computed again", ", enlargements and first convolutions computed again")[self.recompute]
        return f"slabs of {self.rows} rows{again}{', activations on the host' if self.offload else ''}; at most {bytes_text(self.peak)}"

    def run(self, layers: Sequence[Layer], x: Tensor) -> Tensor:
        """What a network gives for x [B C I J K].

        Raises:
            OutOfSpace: memory ran out nevertheless.
        """
        streamer = Streamer(self.rows, self.recompute, torch.device("cpu") if self.offload else None)
        try:
            result = streamer.gather(run(layers, streamer.take(x), streamer))
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise OutOfSpace(f"Memory ran out ({self}).", f"Lower --memory{HOST if torch.cuda.is_available() else '.'}") from error
        assert result is not None  # it is None in a dry run only
        return result


@dataclass(frozen=True)
class Budget:
    """Memory within which networks run.

    Args:
        memory: bytes, beside the weights.
        offload: keep activations in the memory of the host, where the device is another.
    """

    memory: int
    offload: bool = False

    def plan(self, layers: Sequence[Layer], shape: Sequence[int]) -> Plan:
        """The fastest way that fits.

        Args:
            layers: of the network.
            shape: of what goes in, B C I J K.

        Raises:
            OutOfSpace: no way fits.
        """
        plans = [estimate(layers, shape, rows, recompute, self.offload) for rows, recompute in WAYS]
        found = next((plan for plan in plans if plan.peak <= self.memory), None)
        if found is None:
            least = min(plan.peak for plan in plans)
            fix = "Give more as --memory" + (HOST if torch.cuda.is_available() and not self.offload else ".")
            raise OutOfSpace(f"This size takes {bytes_text(least)} at least; {bytes_text(self.memory)} were given.", fix)
        return found


def estimate(layers: Sequence[Layer], shape: Sequence[int], rows: int, recompute: int = 0, offload: bool = False) -> Plan:
    """What running layers by slabs takes, from a run that counts and does not compute; arguments as in `Plan` and `Budget.plan`."""
    streamer = Streamer(rows, recompute, torch.device("cpu") if offload else None, dry=True)
    source = Stored(tuple(shape), streamer.memory)
    source.adopt(0, shape[2], None)
    streamer.gather(run(layers, source, streamer))
    size = 2 if torch.is_autocast_enabled("cuda") or torch.is_autocast_enabled("cpu") else 4
    return Plan(rows, recompute, offload, int(streamer.memory.peak * size * (1 + SPARE_SHARE)) + SPARE_BYTES)
