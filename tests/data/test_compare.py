"""Leaks and strangers: copies are found however they are stored, distinct images are not taken for copies, rare cases stand out."""

import base64
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from medldm.data.check import check_case
from medldm.data.compare import COPY_OF_OTHER, compare
from medldm.data.finding import Finding
from medldm.data.phantom import make_patient, scan_head
from medldm.data.sources import SourceCase
from medldm.data.thumbnail import first_copies, in_ras_order, thumbnail
from medldm.volume import Volume, read_volume, write_volume


def between_0_and_1(x):
    return (x - x.min()) / (x.max() - x.min())


def noisy(x):
    return between_0_and_1(x) + torch.from_numpy(np.random.default_rng(0).normal(0, 0.02, x.shape).astype(np.float32))


COPIES = {
    "scaled": lambda x: 3.7 * x + 120,
    "gamma 0.7": lambda x: between_0_and_1(x) ** 0.7,
    "gamma 1.5": lambda x: between_0_and_1(x) ** 1.5,
    "gamma 2": lambda x: between_0_and_1(x) ** 2,
    "noise": noisy,
    "8 bits": lambda x: (255 * between_0_and_1(x)).round(),
    "clipped": lambda x: x.clamp(*np.percentile(x.numpy(), (0.5, 99.5)).tolist()),
}


def finding(case, patient=None, **facts) -> Finding:
    return Finding(case, patient or case, f"images/{case}.nii.gz", **{"digest": case, "channels": 1} | facts)


def checked(tmp_path, images: dict[str, Volume], patients: dict[str, str] | None = None) -> list[Finding]:
    findings = []
    for name, volume in images.items():
        path = tmp_path / f"images/{name}.nii.gz"
        write_volume(path, volume)
        findings.append(check_case(SourceCase(name, (patients or {}).get(name, name), (path,)), {}))
    return compare(findings)


def flipped(volume: Volume) -> Volume:
    """The same image stored as other scanners do."""
    turn = np.diag([-1.0, 1.0, -1.0, 1.0])
    turn[0, 3], turn[2, 3] = volume.shape[0] - 1, volume.shape[2] - 1
    return Volume(volume.data.flip(1, 3).permute(0, 3, 1, 2), (volume.affine @ turn)[:, [2, 0, 1, 3]])


def test_planted_copies_among_phantoms(tmp_path):
    images = {f"a{i}": scan_head(make_patient(i, 0), 0, (32, 40, 32), (5.0, 5.0, 5.0), "mri")[0] for i in range(4)}
    images |= {"b_same": images["a0"], "b_turned": flipped(images["a1"]), "b_scaled": images["a2"].with_data(2.5 * images["a2"].data + 9)}
    images["b_turned_scaled"] = flipped(images["b_scaled"].with_data(0.1 * images["b_scaled"].data))
    findings = {f.case: f for f in checked(tmp_path, images)}
    assert {case: f.status for case, f in findings.items()} == dict.fromkeys(["a0", "a1", "a2", "a3"], "ok") | {
        "b_same": "duplicate", "b_turned": "duplicate", "b_scaled": "near_duplicate", "b_turned_scaled": "near_duplicate",
    }  # fmt: skip
    assert "'a0' of another patient" in findings["b_same"].reason and "'a2' of another patient" in findings["b_scaled"].reason


def test_repeat_scans_of_one_patient_are_no_copies_but_of_two_they_are(tmp_path):
    images = {f"s{scan}": scan_head(make_patient(39, 0), scan, (32, 40, 32), (5.0, 5.0, 5.0), "mri")[0] for scan in range(2)}
    assert [f.status for f in checked(tmp_path, images, dict.fromkeys(images, "p"))] == ["ok", "ok"]
    assert [f.status for f in checked(tmp_path, images)] == ["ok", "near_duplicate"]
    images["again"] = images["s0"].with_data(images["s0"].data * 0.5)
    same = checked(tmp_path, images, dict.fromkeys(images, "p"))
    assert [f.status for f in same] == ["ok", "ok", "near_duplicate"] and "of the same patient" in same[2].reason


def test_copies_among_real_heads(shared_data):
    """Each of 30 heads has copies, all found; no two heads are copies of each other."""
    heads = [read_volume(path) for path in sorted((shared_data / "brains/ixi_hh_2mm/t1").iterdir())[::3]]
    originals = [thumbnail(in_ras_order(head)[0]) for head in heads]
    assert first_copies(originals, [str(i) for i in range(30)], COPY_OF_OTHER - 0.15, 1.0) == {}
    for kind, change in COPIES.items():
        copies = [thumbnail(in_ras_order(flipped(head.with_data(change(head.data))))[0]) for head in heads[::6]]
        found = first_copies([*originals, *copies], [str(i) for i in range(35)], COPY_OF_OTHER, 1.0)
        assert {i: j for i, (j, _) in found.items()} == {30 + n: 6 * n for n in range(5)}, kind


def test_copies_among_real_hippocampi(shared_data):
    crops = [read_volume(path) for path in sorted((shared_data / "msd_hippocampus/images").iterdir())]
    originals = [thumbnail(in_ras_order(crop)[0]) for crop in crops]
    patients = [str(i) for i in range(220)]
    assert first_copies(originals, patients[:200], COPY_OF_OTHER - 0.3, 1.0) == {}
    for kind, change in COPIES.items():
        copies = [thumbnail(in_ras_order(crop.with_data(change(crop.data)))[0]) for crop in crops[::10]]
        found = first_copies([*originals, *copies], patients, COPY_OF_OTHER, 1.0)
        assert {i: j for i, (j, _) in found.items()} == {200 + n: 10 * n for n in range(20)}, kind


def test_two_visits_of_a_patient_are_two_images(shared_data):
    visits = [read_volume(shared_data / f"head_mri/open_ms_patient12/study{n}_T1W.nii.gz") for n in (1, 2)]
    assert first_copies([thumbnail(in_ras_order(visit)[0]) for visit in visits], ["a", "b"], COPY_OF_OTHER - 0.2, 1.0) == {}


@pytest.mark.parametrize("block", [3, 7, 1000])
def test_first_copies_agrees_with_all_pairs(block):
    rng = np.random.default_rng(0)
    images = [rng.normal(size=(30, 26, 24)).astype(np.float32) for _ in range(6)]
    images += [images[i] + 0.6 * rng.normal(size=(30, 26, 24)).astype(np.float32) for i in (0, 0, 3, 5, 2)]
    patients = list("abcdefaghif")
    details = [np.frombuffer(base64.b64decode(thumbnail(image)), np.int8).astype(float) for image in images]
    table = np.corrcoef(details)
    expected = {}
    for j in range(11):
        for i in range(j):
            if j not in expected and table[i, j] >= (0.95 if patients[i] == patients[j] else 0.6):
                expected[j] = i
    found = first_copies([thumbnail(image) for image in images], patients, 0.6, 0.95, block)
    assert {j: i for j, (i, _) in found.items()} == expected and 2 <= len(expected) < 5
    assert all(abs(r - table[i, j]) < 1e-4 for j, (i, r) in found.items())


def test_images_without_details_are_no_copies():
    empty, full = thumbnail(np.zeros((30, 30, 30), np.float32)), thumbnail(np.ones((8, 8, 8), np.float32))
    assert first_copies([empty, full, empty], ["a", "b", "c"], 0.5, 0.5) == {} and compare([]) == []


def test_many_thumbnails_are_compared_quickly():
    rng = np.random.default_rng(0)
    text = [base64.b64encode(rng.integers(-50, 50, 24**3, dtype=np.int8).tobytes()).decode() for _ in range(1000)]
    begun = time.process_time()
    assert first_copies([*text, text[17]], [str(i) for i in range(1001)], 0.85, 0.98)[1000][0] == 17
    assert time.process_time() - begun < 5  # 10,000 take a hundred times the work: 19 s were measured


def test_equal_images_and_odd_channels():
    same = [finding("a", "p", digest="1"), finding("a_again", "p", digest="1"), finding("copy", "q", digest="1")]
    findings = compare([*same, finding("b"), finding("two", channels=2), finding("bad", status="nan", digest="1")])
    assert [f.status for f in findings] == ["ok", "duplicate", "duplicate", "ok", "channels", "nan"]
    assert "'a' of the same patient" in findings[1].reason and "'a' of another patient" in findings[2].reason


def test_the_label_map_of_another_patient():
    findings = [
        finding("a", "p", label_digest="1"),
        finding("b", "p", label_digest="1"),
        finding("c", "q", label_digest="1"),
        finding("d"),
        finding("e"),
    ]
    assert [f.status for f in compare(findings)] == ["ok", "ok", "duplicate_label", "ok", "ok"]
    assert [f.status for f in compare(findings, ["duplicate_label"])] == ["ok"] * 5


def grids(*kinds: tuple[int, str, tuple[float, float, float], tuple[int, int, int]]) -> list[Finding]:
    rows = [kind for count, *kind in kinds for _ in range(count)]
    return [finding(f"c{i:03}", orientation=axes, spacing=spacing, shape=shape) for i, (axes, spacing, shape) in enumerate(rows)]


HEAD = (1, "RAS", (1.0, 1.0, 1.0), (160, 200, 180))


def statuses(findings, *assume) -> dict[str, int]:
    return dict(Counter(f.status for f in compare(findings, assume)))


def test_a_rare_spacing_is_an_outlier_whatever_the_storage_order():
    odd = (1, "PSR", (1.0, 1.0, 10.0), (200, 180, 16))
    findings = compare(grids((19, *HEAD[1:]), odd), ["orientation_outlier"])
    assert Counter(f.status for f in findings) == {"ok": 19, "spacing_outlier": 1}
    assert findings[19].reason == "has voxels of 10 mm from left to right; 19 of 20 cases have 1 to 1 mm."
    assert statuses(grids((19, *HEAD[1:]), odd), "orientation_outlier", "spacing_outlier") == {"ok": 20}
    turned = (1, "PSR", (1.0, 1.0, 1.2), (200, 180, 130))
    assert statuses(grids((19, *HEAD[1:]), turned)) == {"ok": 19, "orientation_outlier": 1}


def test_mixed_cohorts_have_no_outliers():
    thick = ("RAS", (1.0, 1.0, 5.0), (160, 200, 36))
    assert statuses(grids((20, *HEAD[1:]), (20, *thick))) == {"ok": 40}
    assert statuses(grids((30, *HEAD[1:]), (4, *thick))) == {"ok": 34}  # more than 5 %
    assert statuses(grids((8, *HEAD[1:]), (1, *thick))) == {"ok": 9}  # too few to say what is usual
    many = [(1, "RAS", (1.0, 1.0, 1.0 + 0.2 * i), (160, 200, round(180 / (1 + 0.2 * i)))) for i in range(30)]
    assert statuses(grids(*many)) == {"ok": 30}  # 1 to 6.8 mm without a gap


def test_a_small_field_of_view_and_rare_axes():
    assert statuses(grids((39, *HEAD[1:]), (1, "RAS", (1.0, 1.0, 1.0), (160, 200, 20)))) == {"ok": 39, "size_outlier": 1}
    assert statuses(grids((39, *HEAD[1:]), (1, "LAS", *HEAD[2:]))) == {"ok": 39, "orientation_outlier": 1}
    assert statuses(grids((18, *HEAD[1:]), (1, "LAS", *HEAD[2:]))) == {"ok": 19}
    assert statuses(grids((30, *HEAD[1:]), (10, "LAS", *HEAD[2:]))) == {"ok": 40}
    assert statuses(grids((39, *HEAD[1:]), (1, "LAS", *HEAD[2:])), "orientation_outlier") == {"ok": 40}


def test_of_two_verdicts_the_graver_stays():
    odd = finding("x", digest="c000", orientation="LAS", spacing=(1.0, 1.0, 9.0), shape=(160, 200, 20))
    assert compare([*grids((39, *HEAD[1:])), odd])[39].status == "duplicate"
    assert compare([*grids((39, *HEAD[1:])), replace(odd, digest="x")])[39].status == "spacing_outlier"
