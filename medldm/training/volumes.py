"""Structures at their true volumes: one number per class, added to the logits of a trained autoencoder.

An argmax gives a voxel to the likeliest class, and so takes from thin structures what lies between them and their neighbours: shells of one
voxel lose a tenth of their volume. A prior of each class in the logits gives it back (after Menon et al. 2021, logit adjustment).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medldm.models.autoencoder import Autoencoder
from medldm.randomness import keyed

CASES = 24  # that the numbers are fitted on
LARGEST = 160  # voxels along an axis that are looked at; what lies further out from the middle has no say
NUMBERS = 50_000_000  # logits that are kept
ROUNDS, STEP, MOST = 60, 0.5, 3.0  # of the fit, the share of a correction that is taken at once, and the largest number that is added
LOSS = 0.005  # of mean Dice, that volumes are worth


@dataclass(frozen=True)
class Counts:
    """Voxels by class, background first [K+1].

    Args:
        true: in the label maps.
        found: in their reconstructions.
        both: in both.
    """

    true: Tensor
    found: Tensor
    both: Tensor

    @property
    def error(self) -> float:
        """Largest |found / true - 1| of a structure."""
        return float((self.found / self.true - 1)[1:][self.true[1:] > 0].abs().max())

    @property
    def dice(self) -> float:
        """Mean Dice of the structures."""
        return float((2 * self.both / (self.true + self.found))[1:][self.true[1:] > 0].mean())


def even_volumes(model: Autoencoder, cases: Sequence[tuple[Tensor, Tensor]], seed: int) -> str:
    """Add to each class's logits the number b with which reconstructed structures have the volumes of the real ones, over all cases.

    b_k <- b_k + log(V_k / V_k(b)) / 2, where V_k(b) counts the voxels whose largest logit + b is that of class k. The numbers become part of the
    biases of the last layer. They are left away where they would cost more than 0.005 of mean Dice, as in a network that has hardly learnt.

    Args:
        model: with labels, on the device that it is to run on.
        cases: image [C I J K] and label map [1 I J K] of each.
        seed: decides which voxels are counted where there are very many.

    Returns:
        What was done, for people.
    """
    logits, labels = _look(model, cases[:: -(-len(cases) // CASES)], seed)
    if not (labels > 0).any():
        return "no structure lies in the cases that were looked at; volumes are left as they are"
    before, numbers = _counts(logits, labels), _fit(logits, labels)
    after = _counts(logits + numbers, labels)
    said = f"volumes of structures: off by at most {before.error:.1%}, mean Dice {before.dice:.3f}"
    if after.error >= before.error or after.dice < before.dice - LOSS:
        return f"{said}; left as they are"
    with torch.no_grad():
        model.last_layer.bias[model.image_channels :] += numbers.to(model.last_layer.bias)
    return f"{said}; evened to {after.error:.1%} and {after.dice:.3f} by numbers added to the logits"


@torch.inference_mode()
def _look(model: Autoencoder, cases: Sequence[tuple[Tensor, Tensor]], seed: int) -> tuple[Tensor, Tensor]:
    """Class logits [n K+1] and labels [n] of voxels of reconstructions."""
    most = NUMBERS // len(cases) // (model.label_count + 1)
    kept: list[tuple[Tensor, Tensor]] = []
    for number, (image, label) in enumerate(cases):
        where = (slice(None), *(slice((n - min(n, LARGEST)) // 2, (n + min(n, LARGEST)) // 2) for n in image.shape[1:]))
        x = model.join(image[where][None], label[where][None]).to(next(model.parameters()).device)
        logits, labels = model.reconstruct(x)[0, model.image_channels :].flatten(1).T.cpu(), label[where].flatten().long()
        chosen = torch.randint(len(labels), (most,), generator=keyed(seed, "volumes", number)) if len(labels) > most else slice(None)
        kept.append((logits[chosen], labels[chosen]))
    return torch.cat([logits for logits, _ in kept]), torch.cat([labels for _, labels in kept])


def _counts(logits: Tensor, labels: Tensor) -> Counts:
    classes, found = logits.shape[1], logits.argmax(1)
    return Counts(*(torch.bincount(x, minlength=classes).double() for x in (labels, found, labels[labels == found])))


def _fit(logits: Tensor, labels: Tensor) -> Tensor:
    """The numbers [K+1] with the smallest largest error that the iteration comes by; 0 for background and what the cases do not show."""
    best = numbers = torch.zeros(logits.shape[1])
    least = _counts(logits, labels).error
    for _ in range(ROUNDS):
        counts = _counts(logits + numbers, labels)
        if counts.error < least:
            best, least = numbers, counts.error
        change = STEP * torch.log((counts.true + 1) / (counts.found + 1)).float()
        numbers = (numbers + torch.where(counts.true > 0, change - change[0], 0)).clamp(-MOST, MOST)
    return best
