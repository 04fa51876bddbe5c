"""Do generated images agree with their generated label maps? Ask a segmentation network that saw real cases only.

    python benchmarks/label_agreement.py --cohort COHORT --generated SYNTHETIC [--steps 2000]

MONAI's UNet learns the split "train" of the cohort. Its Dice and the correlation of its volumes with those of the label maps are
printed for held-out real cases and for generated ones: a generated image that does not follow its label map falls behind.
"""

import argparse
from pathlib import Path

from medldm.machine import share_processors, tune_allocator

tune_allocator()
share_processors()

import numpy as np  # noqa: E402
import torch  # noqa: E402

from medldm.cohort import Cohort  # noqa: E402
from medldm.metrics.segmentation import dice  # noqa: E402
from medldm.models.autoencoder import pad_to_multiple  # noqa: E402
from medldm.training.data import Crops, crop_size, load  # noqa: E402
from medldm.training.options import resolve_precision  # noqa: E402


def train(cohort: Cohort, steps: int):
    """A small U-Net after `steps` batches of 4 crops."""
    from monai.losses import DiceCELoss
    from monai.networks.nets import UNet

    torch.manual_seed(0)
    net = UNet(3, 1, len(cohort.labels) + 1, (16, 32, 64), (2, 2), num_res_units=1, norm="INSTANCE")
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, 0.9)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True)
    size = crop_size(cohort.split("train"), 4, None)
    data = Crops(cohort.split("train"), size, 4, seed=0)
    fast = resolve_precision("auto", min(size) // 4) == "bf16-mixed"
    for step in range(steps):
        image, label = (torch.stack(part) for part in zip(*(data[(step, slot)] for slot in range(4)), strict=True))
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            logits = net(image)
        optimizer.zero_grad()
        loss_of(logits.float(), label).backward()
        optimizer.step()
        schedule.step()
    return net.eval()


@torch.inference_mode()
def judge(net, cohort: Cohort) -> tuple[list[float], float]:
    """Mean Dice per label, and the correlation of total volumes, between the network and the label maps."""
    scores, volumes = [], []
    for image, label in load(cohort):
        padded, crop = pad_to_multiple(image[None], 4)
        found = net(padded)[(..., *crop)].argmax(1)[0].numpy()
        given = label[0].numpy()
        scores.append([dice(found, given, value) for value in cohort.labels])
        volumes.append([(found > 0).sum(), (given > 0).sum()])
    means = np.nanmean(np.array(scores, dtype=float), axis=0)
    return [float(value) for value in means], float(np.corrcoef(np.array(volumes).T)[0, 1])


def main() -> None:
    """Train, judge both cohorts, and print the table and the RESULT line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--generated", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
    real, generated = Cohort.load(options.cohort), Cohort.load(options.generated)
    net = train(real, options.steps)
    rows = {"held-out real": real.split("test"), "generated": generated}
    found = {name: judge(net, cohort) for name, cohort in rows.items()}
    print(f"{'':14s} {'n':>4s}  volume r  Dice {', '.join(real.labels.values())}")
    for name, (scores, r) in found.items():
        print(f"{name:14s} {len(rows[name]):4d}  {r:8.3f}  {', '.join(f'{score:.3f}' for score in scores)}")
    (real_dice, real_r), (made_dice, made_r) = found.values()
    dices = f"dice_real={np.mean(real_dice):.3f} dice_generated={np.mean(made_dice):.3f}"
    print(f"RESULT {dices} volume_r_real={real_r:.3f} volume_r_generated={made_r:.3f}")


if __name__ == "__main__":
    main()
