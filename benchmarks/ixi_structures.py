"""Label maps of seven structures from the 148 of DLMUSE, and covariates, as a source for `medldm prepare`.

    python benchmarks/ixi_structures.py --data ../shared/data/brains/ixi_hh_2mm --out out/ixi_structures

Image and label map are coded together with one channel for each structure, so that 148 of them, most of a few voxels at 4 mm, are too many.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import torch

from medldm.volume import read_volume, write_volume

STRUCTURES: dict[str, tuple[int, ...]] = {
    "csf": (1, 46),
    "ventricles": (4, 11, 49, 50, 51, 52),
    "deep_grey": (23, 30, 31, 32, 36, 37, 47, 48, *range(55, 61), 75, 76),
    "brainstem": (35, 61, 62, 69),
    "cerebellum": (38, 39, 40, 41, 71, 72, 73),
    "white_matter": tuple(range(81, 96)),
    "cortex": tuple(range(100, 208)),
}


def main() -> None:
    """Write images/, labels/, covariates.csv and dataset.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    table = np.zeros(256, np.float32)
    for code, values in enumerate(STRUCTURES.values(), start=1):
        table[list(values)] = code
    images, labels = (sorted((options.data / kind).glob("*.nii.gz")) for kind in ("t1", "dlmuse_seg"))
    names = [image.name.split("_")[0] for image in images]
    for name, image, label in zip(names, images, labels, strict=True):
        write_volume(options.out / f"images/{name}.nii.gz", read_volume(image))
        seg = read_volume(label, "label")
        write_volume(options.out / f"labels/{name}.nii.gz", seg.with_data(torch.from_numpy(table[seg.data.numpy().astype(int)])))
    (options.out / "dataset.json").write_text(json.dumps({"labels": {"background": 0, **{s: i for i, s in enumerate(STRUCTURES, start=1)}}}))
    with (options.data / "participants.csv").open() as source, (options.out / "covariates.csv").open("w", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(("case", "age", "sex"))
        writer.writerows((row["MRID"], row["Age"], row["Sex"]) for row in csv.DictReader(source) if row["MRID"] in names)


if __name__ == "__main__":
    main()
