"""Where commands that encode or decode volumes do so: the device, and the options `--memory` and `--offload`."""

from collections.abc import Iterable, Sequence

import torch

from medldm.errors import UserError
from medldm.machine import parse_bytes
from medldm.models.autoencoder import Autoencoder
from medldm.models.tiling.plan import Budget


def device() -> torch.device:
    """The GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def hold_to(
    model: Autoencoder, memory: str | None, offload: bool, decodes: Iterable[Sequence[int]] = (), encodes: Iterable[Sequence[int]] = ()
) -> None:
    """Give an autoencoder a budget, and print the plans for the largest sizes, before the work.

    Args:
        model: encodes and decodes within the budget from now on; without memory as it did.
        memory: such as "8GB", or None.
        offload: keep activations in the memory of the host.
        decodes: sizes i j k of latents that will be decoded.
        encodes: sizes I J K of volumes that will be encoded.

    Raises:
        UserError: the text is no amount of memory, or `offload` is asked for where activations are on the host anyway.
        OutOfSpace: a size does not fit.
    """
    if memory is None and not offload:
        return
    if offload and device().type == "cpu":
        raise UserError("--offload moves activations from a GPU to the host; there is no GPU.", "Leave it away.")
    model.budget = budget = Budget(parse_bytes(memory) if memory else 1 << 60, offload)
    for what, layers, channels, sizes in (
        ("encoding", model.encoder_layers(), model.in_channels, encodes),
        ("decoding", model.decoder_layers(), model.latent_channels, decodes),
    ):
        plans = {tuple(size): budget.plan(layers, (1, channels, *size)) for size in set(map(tuple, sizes))}
        if plans:
            size = max(plans, key=lambda size: plans[size].peak)
            print(f"{what} up to {' x '.join(map(str, size))}: {plans[size]}")
