"""Hounsfield units: real CT passes whole, cropped or clipped; what is no HU is refused."""

import nibabel
import numpy as np
import pytest
import torch

from medldm.data.phantom import make_patient, scan_head
from medldm.data.plausible import refuse_no_hounsfield
from medldm.data.sources import BadCase
from medldm.volume import Volume, read_volume

CT = ("aorta_report_ct_cropped", "example_ct", "example_ct_sm")
MR = ("ct/totalsegmentator/example_mr_sm", "head_mri/torchio_fernando/t2", "head_mri/open_ms_patient12/study1_T1W",
      "brains/open_ms_mni_1mm/patient07_T1_brain_MNI")  # fmt: skip

WRONG = {
    "rescale not applied": lambda x: x + 1024,
    "lowest is 0": lambda x: x - x.min(),
    "normalised": lambda x: (x + 1000) / 2000,
    "-1 to 1": lambda x: x.clamp(-1000, 1000) / 1000,
    "8 bits": lambda x: ((x + 1000) / 2000 * 255).clamp(0, 255).round(),
    "a window of 8 bits": lambda x: ((x + 160) / 400 * 255).clamp(0, 255).round(),
    "z-score": lambda x: (x - x.mean()) / x.std(),
    "padding and rescale not applied": lambda x: torch.where(x.roll(5, 1) < -900, -2000.0, x + 1024),
}
RIGHT = {
    "as it is": lambda x: x,
    "a soft tissue window": lambda x: x.clamp(-160, 240),
    "a wide window": lambda x: x.clamp(-1000, 1000),
    "padding": lambda x: torch.where(x < -1010, -3024.0, x),
    "metal": lambda x: torch.where(x > 300, 8000.0, x),
}


def verdict(data) -> str:
    volume = Volume(torch.as_tensor(np.ascontiguousarray(data), dtype=torch.float32)[None], np.eye(4), "HU")
    try:
        refuse_no_hounsfield("x", volume)
    except BadCase as bad:
        return bad.status
    return "ok"


def real_ct(folder, name) -> torch.Tensor:
    return read_volume(folder / f"ct/totalsegmentator/{name}.nii.gz").data[0]


@pytest.mark.parametrize("name", CT)
def test_real_ct(shared_data, name):
    data = real_ct(shared_data, name)
    assert {kind: verdict(change(data)) for kind, change in RIGHT.items()} == dict.fromkeys(RIGHT, "ok")
    assert {kind: verdict(change(data)) for kind, change in WRONG.items()} == dict.fromkeys(WRONG, "not_hu")


@pytest.mark.parametrize("name", CT)
def test_crops_of_real_ct_also_without_air(shared_data, name):
    """Boxes of 40 voxels, 6 to 12 cm wide, and smaller ones that hold neither air nor lung."""
    data, rng, airless = real_ct(shared_data, name), np.random.default_rng(0), []
    for size in (40, 40, 24, 24, 24, 24):
        for _ in range(150):
            start = [int(rng.integers(0, max(1, n - size))) for n in data.shape]
            crop = data[tuple(slice(s, s + size) for s in start)]
            if size == 40 and float(crop.max()) > -500:
                assert verdict(crop) == "ok", start
            elif float(crop.min()) > -200:
                airless.append(verdict(crop))
    assert airless.count("ok") >= 0.9 * len(airless)  # 36 mm of an aorta full of contrast medium may look like anything


@pytest.mark.parametrize("name", MR)
def test_real_mr_is_no_ct(shared_data, name):
    assert verdict(read_volume(shared_data / f"{name}.nii.gz").data[0]) == "not_hu"


def test_heads_are_no_ct(shared_data):
    for path in sorted((shared_data / "brains/ixi_hh_2mm/t1").iterdir())[::18]:
        assert verdict(np.asarray(nibabel.load(path).dataobj, np.float32)) == "not_hu"


def test_masks_are_no_ct(shared_data):
    for name in ("aorta_report_organ_aorta_T264", "example_seg", "example_seg_mr"):
        assert verdict(read_volume(shared_data / f"ct/totalsegmentator/{name}.nii.gz").data[0]) == "not_hu"


def test_phantoms():
    patient = make_patient(0, 0)
    image, _ = scan_head(patient, 0, (32, 40, 32), (5.0, 5.0, 5.0), "ct")
    assert verdict(image.data[0]) == "ok" and verdict(image.data[0] + 1000) == "not_hu"
    brain = image.data[0][12:20, 14:24, 14:20]
    assert float(brain.min()) > -100 and verdict(brain) == "ok"
    assert verdict(scan_head(patient, 0, (32, 40, 32), (5.0, 5.0, 5.0), "mri")[0].data[0]) == "not_hu"
