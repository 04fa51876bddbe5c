"""Autoencoders that start from weights of others: of MONAI, of MAISI, or of an earlier run."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medldm.errors import UserError
from medldm.files import read_yaml
from medldm.models.autoencoder import Autoencoder
from medldm.models.monai_autoencoder import MonaiAutoencoder
from medldm.models.monai_layout import Layout, canonical, layout
from medldm.models.quantized import QuantizedAutoencoder
from medldm.models.weight_files import Entries, read_weights, shown
from medldm.run import describe

OWN = re.compile(r"((?:.*\.)?)latent_mean")
MONAI = re.compile(r"((?:.*\.)?)encoder\.blocks\.0\.(?:conv\.)+weight")
STATISTICS = ("latent_mean", "latent_std")
CLASS = f"{MonaiAutoencoder.__module__}.{MonaiAutoencoder.__qualname__}"
WANTED = "Give the weights of MONAI's AutoencoderKL, of MAISI's AutoencoderKlMaisi, or model.safetensors of a run with this model."
STRANGERS = {
    r"(?:^|\.)time_embed": "a diffusion network",
    r"(?:^|\.)initial_conv\.": "a discriminator",
    r"quantizer|codebook|quantize\.": "a vector-quantised autoencoder",
    r"(?:^|\.)encoder\.(?:conv_in|down_blocks|down)\.": "an autoencoder of diffusers or of CompVis, which is built in another way",
}


def load_weights(model: Autoencoder, path: Path) -> str:
    """Replace all weights of an autoencoder by those of a file; the statistics of its latents stay at mean 0 and variance 1.

    Files of MONAI's `AutoencoderKL`, of the older package `generative` and of MAISI's `AutoencoderKlMaisi` fit a `MonaiAutoencoder`
    of the same structure; files that medldm wrote fit the model that they were made from. A quantised autoencoder also takes weights
    that fit its body, and then has its codes still to learn. Wrapping mappings ("state_dict") and
    prefixes ("module.") are looked through, float16 and bfloat16 become float32. Nothing is loaded unless everything fits.

    Args:
        model: the autoencoder.
        path: the file; see `read_weights`.

    Returns:
        A sentence on what was read, and on what such a file does not tell.

    Raises:
        UserError: the file is no file of weights or does not fit; the message says what it holds and which settings it needs.
    """
    content = read_weights(path)
    if isinstance(model, QuantizedAutoencoder) and not any("codebook" in name for entries in content.values() for name in entries):
        return load_weights(model.body, path)
    weights, prefix, others = _part(content, OWN, path)
    mine = model.state_dict()
    if weights:
        _compare_settings(model, path, prefix)
        found, what = weights, "an earlier run"
    else:
        weights, prefix, others = _part(content, MONAI, path)
        if not weights or _stranger(weights) or not isinstance(model, MonaiAutoencoder):
            raise _unfit(weights, content, path)
        found, what = _as_model(weights, model, path)
        mine = canonical(model.net.state_dict())
    wanted = {name: tensor for name, tensor in mine.items() if name not in STATISTICS}
    _copy({name: tensor for name, tensor in found.items() if name not in STATISTICS}, wanted, path, type(model).__name__)
    passed = Counter(name.split(".")[0] for name in others)
    return f"{path}: {len(wanted)} weights of {what}" + (f"; not used: {shown(passed)} ({sum(passed.values())} tensors)" if passed else "") + "."


def _part(content: Mapping[str, Entries], landmark: re.Pattern[str], path: Path) -> tuple[dict[str, Tensor], str, list[str]]:
    """Weights of the network that has a weight of this name, without what stands before their names; that; and names of other weights."""
    hits = [(place, match[1]) for place, entries in content.items() for name in entries if (match := landmark.fullmatch(name))]
    if not hits:
        return {}, "", []
    if len(hits) > 1:
        names = shown(sorted({place or prefix.rstrip(".") or "file" for place, prefix in hits}))
        raise UserError(f"{path} holds {len(hits)} autoencoders ({names}).", "Save the one that is meant as a file of its own.")
    ((place, prefix),) = hits
    entries = content[place]
    weights = {name.removeprefix(prefix): value for name, value in entries.items() if name.startswith(prefix)}
    wrong = [n for n, v in weights.items() if not isinstance(v, Tensor) or not v.is_floating_point() or v.layout != torch.strided or v.is_meta]
    if wrong:
        raise UserError(f"{path}: {shown(wrong)}: no tensor of numbers with a decimal point.", "Save the state dict of the autoencoder alone.")
    return weights, prefix, [name for name in entries if not name.startswith(prefix)]


def _as_model(weights: dict[str, Tensor], model: MonaiAutoencoder, path: Path) -> tuple[dict[str, Tensor], str]:
    """Weights under canonical names, made complete, and whose they are.

    Raises:
        UserError: their structure is not that of the model.
    """
    maisi = "encoder.blocks.0.conv.conv.weight" in weights
    found = canonical(weights)
    theirs = layout(found, trilinear=maisi)
    ours = layout(own := canonical(model.net.state_dict()), trilinear=model.upsampling == "trilinear")
    if theirs is None or ours is None:
        raise UserError(f"{path} {_why_not(found)}.", WANTED)
    _check_channels(theirs, model, path)
    if theirs != ours:
        alone = model.label_count and (theirs.in_channels, theirs.out_channels) == (model.image_channels,) * 2
        raise UserError(
            f"{path} holds an autoencoder of {'MAISI' if maisi else 'MONAI'}: {theirs}. The model is: {ours}.",
            f"Give {theirs.settings()}{' --with_labels false' if alone else ''}.",
        )
    for name, tensor in own.items():
        if ".out_proj." in name and name not in found:  # no projection behind attention is the identity
            found[name] = torch.eye(len(tensor)) if tensor.ndim == 2 else torch.zeros(len(tensor))
    usual = " (NVIDIA's MAISI: groups 32, intensities [0, 1])" if maisi else " (MONAI's own default: groups 32)"
    trusted = f"groups={model.groups}, intensities={list(model.intensities)}"
    return found, f"{'MAISI' if maisi else 'MONAI'}; such a file does not tell {trusted}{usual}: compare them with how it was trained"


def _check_channels(theirs: Layout, model: MonaiAutoencoder, path: Path) -> None:
    """Refuse a network for other contrasts and labels, which no setting of the model mends."""
    given, needed = (theirs.in_channels, theirs.out_channels), (model.in_channels, model.out_channels)
    if given == needed or (model.label_count and given == (model.image_channels,) * 2):
        return
    raise UserError(
        f"{path} holds an autoencoder of {given[0]} channels in and {given[1]} out; {model.image_channels} contrasts and {model.label_count} "
        f"labels are {needed[0]} in and {needed[1]} out.",
        f"Give a cohort of {given[0]} contrasts{', with --with_labels false' if model.label_count else ''}, or other weights."
        if given[0] == given[1]
        else "Give other weights.",
    )


def _copy(found: dict[str, Tensor], wanted: dict[str, Tensor], path: Path, model: str) -> None:
    """Write weights into those of a model, once all names and shapes agree and all numbers are finite."""
    missing, left = [n for n in wanted if n not in found], [n for n in found if n not in wanted]
    wrong = [n for n in wanted if n in found and found[n].shape != wanted[n].shape]
    problems = [f"{len(names)} weights {kind} ({shown(names)})" for kind, names in (("missing", missing), ("left over", left)) if names]
    if wrong:
        theirs, ours = list(found[wrong[0]].shape), list(wanted[wrong[0]].shape)
        problems.append(f"{len(wrong)} weights of another shape (such as {shown(wrong, 1)}: {theirs} there, {ours} here)")
    if problems:
        raise UserError(f"{path} does not fit {model}: {', '.join(problems)}.", "Give the settings of --model that the file was made with.")
    if broken := [name for name in wanted if not found[name].float().isfinite().all()]:
        raise UserError(f"{path} holds numbers that are not finite, in {len(broken)} weights ({shown(broken)}).", "Give weights of an earlier state.")
    with torch.no_grad():
        for name, target in wanted.items():
            target.copy_(found[name])


def _compare_settings(model: Autoencoder, path: Path, prefix: str) -> None:
    """Refuse another model than the one described beside the weights; shapes alone do not tell all settings."""
    beside = Path(path).parent / "model.yaml"
    if Path(path).name != "model.safetensors" or not beside.is_file():
        return
    spec: dict[str, Any] = read_yaml(beside)
    for part in filter(None, prefix.split(".")):
        spec = _entry(_entry(spec, "init_args"), part)
    ours, theirs = describe(model), _entry(spec, "init_args")
    if (kind := spec.get("class_path")) and kind != ours["class_path"]:
        raise UserError(f"{path} holds a {kind}; the model is a {ours['class_path']}.", f"Give --model {kind} and the settings of {beside}.")
    values = ours["init_args"]
    if differences := "; ".join(f"{k}: {v} there, {values[k]} here" for k, v in theirs.items() if k in values and values[k] != v):
        raise UserError(
            f"{path} was made with other settings ({differences}).", f"Give those of {beside} as --model.NAME VALUE, and the same labels."
        )


def _entry(mapping: dict[str, Any], key: str) -> dict[str, Any]:
    """A mapping within a mapping; empty where there is none."""
    inner = mapping.get(key)
    return inner if isinstance(inner, dict) else {}


def _unfit(weights: dict[str, Tensor], content: Mapping[str, Entries], path: Path) -> UserError:
    """What to say of a file that holds no autoencoder of MONAI, or of one for another model."""
    names = [name for entries in content.values() for name in entries]
    if what := _stranger(names):
        return UserError(f"{path} holds {what}.", WANTED)
    if not weights:
        return UserError(f"{path} holds no autoencoder of MONAI or medldm; its first weights: {shown(names)}.", WANTED)
    theirs = layout(found := canonical(weights), trilinear="encoder.blocks.0.conv.conv.weight" in weights)
    if theirs is None:
        return UserError(f"{path} {_why_not(found)}.", WANTED)
    return UserError(f"{path} holds an autoencoder of MONAI: {theirs}.", f"Give --model {CLASS} {theirs.settings()}.")


def _stranger(names: Mapping[str, Any] | list[str]) -> str:
    """What other network names belong to; empty for none that is known."""
    return next((what for pattern, what in STRANGERS.items() if any(re.search(pattern, name) for name in names)), "")


def _why_not(weights: dict[str, Tensor]) -> str:
    """Why canonical weights are no autoencoder that `MonaiAutoencoder` can be."""
    first = weights.get("encoder.blocks.0.conv.weight")
    if first is not None and first.ndim in (3, 4):
        return f"holds a {first.ndim - 2}-D network; the images are 3-D"
    if any(".deconv." in name for name in weights):
        return "holds an autoencoder that enlarges by transposed convolutions, which MonaiAutoencoder does not have"
    if not any(name.startswith("decoder.") for name in weights):
        return "holds an encoder without its decoder"
    return "holds an autoencoder of MONAI's kind whose blocks stand in another order (such as attention in the middle of the encoder only)"
