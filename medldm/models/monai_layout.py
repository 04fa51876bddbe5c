"""What an autoencoder of MONAI is, told from the names and shapes of its weights alone.

Three writers name the same weights in three ways: MONAI (1.3 and later), the older package `generative`, and MAISI, whose
convolutions are nested once more. `canonical` brings all to one.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from medldm.errors import UserError

CONVOLUTION = re.compile(r"\.(conv1|conv2|nin_shortcut|postconv|conv)(?:\.conv)*\.(weight|bias)$")
BLOCK = re.compile(r"(encoder|decoder)\.blocks\.(\d{1,6})\.(.+)")
LEVELS = re.compile(r"C((?:[RA]+C)*[RA]+)NC")
MIDDLE = "RAR"
LETTERS = {"conv1.weight": "R", "to_q.weight": "A", "conv.weight": "C", "weight": "N", "deconv.weight": "T"}
DEFAULT_GROUPS = 32


@dataclass(frozen=True)
class Layout:
    """The structure of an `AutoencoderKL`; fields are named as the arguments of `MonaiAutoencoder`.

    Args:
        in_channels, out_channels: of the network.
        latent_channels: numbers per latent cell.
        channels, blocks, attention: per level.
        middle_attention: attention between the lowest level and the latents.
        upsampling: "nearest" or "trilinear".
    """

    in_channels: int
    out_channels: int
    latent_channels: int
    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    attention: tuple[bool, ...]
    middle_attention: bool
    upsampling: str

    def __str__(self) -> str:
        blocks = self.blocks[0] if len(set(self.blocks)) == 1 else list(self.blocks)
        places = [f"level {level}" for level, on in enumerate(self.attention, start=1) if on] + ["the middle"] * self.middle_attention
        return (
            f"{self.in_channels} channels in and {self.out_channels} out, channels {list(self.channels)}, {blocks} blocks per level, "
            f"{self.latent_channels} latent channels, {'attention at ' + ' and '.join(places) if places else 'no attention'}, "
            f"{self.upsampling} upsampling"
        )

    def settings(self) -> str:
        """The options that make `MonaiAutoencoder` of this structure."""
        blocks = str(self.blocks[0]) if len(set(self.blocks)) == 1 else _listed(self.blocks)
        attention = _listed(str(on).lower() for on in self.attention) if any(self.attention[:-1]) else str(self.attention[-1]).lower()
        options = {"channels": _listed(self.channels), "blocks": blocks, "latent_channels": self.latent_channels, "attention": attention}
        if self.middle_attention != any(self.attention):
            options["middle_attention"] = str(self.middle_attention).lower()
        if self.upsampling != "nearest":
            options |= {"upsampling": self.upsampling, "intensities": "'[0,1]'"}
        if all(c % DEFAULT_GROUPS == 0 for c in self.channels):
            options["groups"] = DEFAULT_GROUPS
        return " ".join(f"--model.{name} {value}" for name, value in options.items())


def canonical(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under one name each, whoever wrote them.

    The package `generative` made a projection behind its attention and never used it (MONAI issue 7991), so that it is left out
    here; `load_weights` puts the identity in its place, as it does where MAISI has none.

    Raises:
        UserError: two names mean the same weight.
    """
    found: list[tuple[str, Tensor]] = []
    for key, value in weights.items():
        name = CONVOLUTION.sub(lambda m: f".{m[1].removeprefix('post')}.{m[2]}", key).replace(".attn.", ".")
        if ".qkv." in name:
            found += [(name.replace(".qkv.", f".to_{part}."), third) for part, third in zip("qkv", value.chunk(3), strict=False)]
        elif ".proj_attn." not in name:
            found.append((name, value))
    if len(dict(found)) < len(found):
        raise UserError("The file names the same weight twice.", "Save the state dict of one network.")
    return dict(found)


def layout(weights: Mapping[str, Tensor], trilinear: bool) -> Layout | None:
    """The structure of canonical weights; None where they are no `AutoencoderKL` that `MonaiAutoencoder` can be.

    Args:
        weights: what `canonical` gave.
        trilinear: the enlargement, which no weight tells.
    """
    encoder, decoder = _blocks(weights, "encoder"), _blocks(weights, "decoder")
    down, up = (LEVELS.fullmatch("".join(letter for letter, _ in blocks)) for blocks in (encoder, decoder))
    if not down or not up or any(len(shape) != 5 for letter, shape in [*encoder, *decoder] if letter in "CR"):
        return None
    *upper, lowest = down[1].split("C")
    middle = lowest.endswith(MIDDLE)
    levels = [*upper, lowest.removesuffix(MIDDLE) if middle else lowest]
    counts, attention = tuple(level.count("R") for level in levels), tuple("A" in level for level in levels)
    regular = ["RA" * n if on else "R" * n for n, on in zip(counts, attention, strict=True)]
    mirrored = "C".join([(MIDDLE if middle else "") + regular[-1], *reversed(regular[:-1])])
    if levels != regular or up[1] != mirrored or not all(counts):
        return None
    widths = tuple(shape[0] for (before, _), (letter, shape) in pairwise(encoder) if before == "C" and letter == "R")
    (_, first), (_, last), (_, out) = encoder[0], encoder[-1], decoder[-1]
    return Layout(first[1], out[0], last[0], widths, counts, attention, middle, "trilinear" if trilinear else "nearest")


def _blocks(weights: Mapping[str, Tensor], part: str) -> list[tuple[str, torch.Size]]:
    """A letter and the shape of the main weight of each block: Convolution, Residual, Attention, Norm, Transposed; "?" for others."""
    inside: dict[int, dict[str, torch.Size]] = {}
    for name, value in weights.items():
        if (match := BLOCK.fullmatch(name)) and match[1] == part:
            inside.setdefault(int(match[2]), {})[match[3]] = value.shape
    found = []
    for number in range(len(inside)):
        shapes = inside.get(number, {})
        main = next((name for name in LETTERS if name in shapes), None)
        found.append((LETTERS[main], shapes[main]) if main else ("?", torch.Size()))
    return found


def _listed(values: Iterable[object]) -> str:
    return "'[" + ",".join(map(str, values)) + "]'"
