"""Heads made from the template by known affine maps, in several contrasts: where the face is, is known exactly."""

import numpy as np
import pytest
import torch
from heads import GRID, MATRIX, SHAPE, along, head, moved

from medldm.errors import UserError
from medldm.privacy.deface import deface, emptied, face_mask, judge, region
from medldm.privacy.head_position import Position, find_head, labellings
from medldm.privacy.head_template import foreground, in_face, template
from medldm.volume import Volume, read_volume


def brain(matrix: np.ndarray, affine: np.ndarray = GRID, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """An ellipsoid inside the cranium of the template, and the temporal poles."""
    x, y, z = along(affine, shape, matrix)
    cerebrum = (x / 62) ** 2 + ((y + 2) / 78) ** 2 + ((z - 15) / 55) ** 2 < 1
    poles = ((np.abs(x) - 32) / 14) ** 2 + ((y - 22) / 18) ** 2 + ((z + 30) / 12) ** 2 < 1
    return cerebrum & (z > -20) | poles


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """2 |a and b| / (|a| + |b|)."""
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.fixture(scope="module")
def plain():
    """A T1 head, its mask and its report."""
    volume = head(MATRIX)
    return volume, *face_mask(volume)


def test_landmarks_of_the_template_are_on_their_side_of_the_region():
    inside = [(32, 70, -35), (-32, 78, -30), (0, 107, -72), (0, 90, -95), (0, 85, -120), (50, 60, -60), (0, 120, -30), (0, 84, -35)]
    outside = [(0, 82, 0), (32, 40, -30), (0, 60, -22), (32, 62, -15), (72, -25, -40), (0, 90, 20), (0, -40, -60), (0, 0, 0), (0, 100, -180)]
    assert in_face(*np.array(inside, float).T).all()
    assert not in_face(*np.array(outside, float).T).any()
    assert (template().image == template().image[::-1]).all()


def test_all_24_labellings_are_there_once():
    found = labellings()
    assert (found[0] == np.eye(3)).all() and len({m.tobytes() for m in found}) == 24
    assert all(abs(abs(np.linalg.det(m)) - 1) < 1e-9 for m in found)
    mirror = np.diag([-1.0, 1, 1])
    assert not any((a @ mirror == b).all() for a in found for b in found)


def check_removal(volume: Volume, mask: np.ndarray, matrix: np.ndarray) -> None:
    truth = in_face(*along(volume.affine, volume.shape, matrix))
    image = volume.data[0].numpy()
    tissue = foreground((image - image.min()) / np.ptp(image))
    deep = in_face(*(along(volume.affine, volume.shape, matrix) + np.array([0, -3, 2])[:, None, None, None])) & truth & tissue
    assert dice(mask & tissue, truth & tissue) > 0.95
    assert mask[deep].mean() > 0.99
    assert not mask[brain(matrix, volume.affine, volume.shape)].any()


def test_a_face_is_removed_and_all_else_keeps_its_bits(plain):
    volume, mask, report = plain
    check_removal(volume, mask, MATRIX)
    assert report.defaced and report.faceless and report.in_view == 1 and report.front > 0.9
    result = emptied(volume, mask)
    assert torch.equal(result.data[0][~mask], volume.data[0][~mask])
    air = result.data[0][mask]
    assert len(air.unique()) == 1 and 0 < float(air[0]) < 20  # the median of Rician noise of 8 is 9.4
    assert result.affine is volume.affine


def test_the_nose_moves_back_everywhere_below_the_brows(plain):
    volume, mask, _ = plain
    image = volume.data[0].numpy()
    tissue, front = foreground(image / image.max()), np.arange(SHAPE[1])[None, :, None]
    before, after = (np.where(t, front, -1).max(1) for t in (tissue, tissue & ~mask))
    x, y, z = along(GRID, SHAPE, MATRIX)
    i, k = np.nonzero(before >= 0)
    at = (i, before[i, k], k)
    face = (np.abs(x[at]) < 40) & (z[at] < -30) & (z[at] > -115) & (y[at] > 50)
    assert face.sum() > 200
    assert ((before - after)[i, k][face] * 4 >= 16).all()


def test_an_oblique_t2_head_of_other_voxels_is_found_where_it_is():
    turn = moved((12, 4, -9), (1, 1, 1), (40, -25, 300))
    shape = (70, 54, 64)
    affine = turn @ np.array([[3.0, 0, 0, -104], [0, 5, 0, -132], [0, 0, 4, -128], [0, 0, 0, 1]])
    volume = head(turn @ MATRIX, "T2", affine, shape)
    mask, report = face_mask(volume)
    assert report.status == "removed"
    check_removal(volume, mask, turn @ MATRIX)


def test_a_ct_head_becomes_air():
    volume = head(MATRIX, "CT")
    result, report = deface(volume)
    assert report.status == "removed"
    changed = (result.data != volume.data)[0].numpy()
    assert not changed[brain(MATRIX)].any()
    assert -1010 <= float(result.data[0][torch.from_numpy(changed)].max()) < -980


def test_the_order_of_the_axes_in_memory_changes_nothing(plain):
    volume, mask, report = plain
    affine = volume.affine @ np.array([[0, 0, -1.0, SHAPE[0] - 1], [-1, 0, 0, SHAPE[1] - 1], [0, 1, 0, 0], [0, 0, 0, 1]])
    other, also = face_mask(Volume(volume.data.permute(0, 2, 3, 1).flip(1, 3).contiguous(), affine))
    assert Volume(volume.data, affine).orientation == "PSL"
    np.testing.assert_allclose(also.matrix, report.matrix, atol=1e-6)
    assert (other[::-1, :, ::-1].transpose(2, 0, 1) == mask).all()


def test_a_head_with_wrong_labels_is_recognised_and_not_touched(plain):
    flipped = plain[0].with_data(plain[0].data.flip(2))
    result, report = deface(flipped)
    assert report.status == "wrong orientation" and not report.faceless
    assert result is flipped
    assert not face_mask(flipped)[0].any()


def test_a_body_is_not_a_head():
    x, y, z = along(np.diag([6.0, 6, 6, 1]), (60, 40, 50), moved((0, 0, 0), (1, 1, 1), (180, 120, 150)))
    image = np.where((x / 160) ** 2 + (y / 100) ** 2 < 1, 40.0, -1000.0)
    for side in (-1, 1):
        image[((x - side * 70) / 50) ** 2 + (y / 70) ** 2 + ((z - 40) / 90) ** 2 < 1] = -850
    image[(x / 20) ** 2 + ((y + 60) / 20) ** 2 < 1] = 600
    volume = Volume(torch.from_numpy(image.astype(np.float32))[None], np.diag([6.0, 6, 6, 1]), "HU")
    result, report = deface(volume)
    assert report.status == "not a head" and result is volume


def test_what_is_gone_already_cut_off_or_stripped_is_told_apart(plain):
    volume, mask, report = plain
    trusted = Position(np.array(report.matrix), report.similarity, report.rival)
    assert judge(volume, trusted) == report
    assert judge(emptied(volume, mask, noise_seed=1), trusted).status == "already defaced"
    stripped = volume.with_data(torch.where(torch.from_numpy(brain(MATRIX)), volume.data, 0.0))
    assert judge(stripped, trusted).status == "no face found"
    affine = GRID.copy()
    affine[:3, 3] += GRID[:3, 2] * 34
    above = judge(Volume(volume.data[..., 34:].contiguous(), affine), trusted)
    assert above.status == "cut off" and not above.faceless


@pytest.mark.parametrize(
    ("matrix", "similarity", "rival", "status"),
    [
        (MATRIX, 0.15, 0.07, "removed"),
        (MATRIX, 0.03, 0.02, "not a head"),
        (MATRIX, 0.06, 0.02, "poor registration"),
        (MATRIX, 0.07, 0.12, "wrong orientation"),
        (MATRIX, 0.15, 0.145, "poor registration"),
        (MATRIX * [[1.5], [1.5], [1.5], [1]], 0.15, 0.07, "poor registration"),
        (MATRIX * [[1], [1], [0.6], [1]], 0.15, 0.07, "poor registration"),
        (moved((60, 0, 0), (1, 1, 1), (0, 0, 0)), 0.15, 0.07, "poor registration"),
        (moved((0, 0, 0), (1, 1, 1), (0, -70, 60)), 0.15, 0.07, "poor registration"),  # takes half of the head
    ],
)
def test_a_position_that_cannot_be_trusted_removes_nothing(plain, matrix, similarity, rival, status):
    assert judge(plain[0], Position(matrix, similarity, rival)).status == status


def test_noise_is_drawn_from_the_air_of_each_channel(plain):
    volume, mask, _ = plain
    two = volume.with_data(torch.cat([volume.data, 1000 + 2 * volume.data]))
    result = emptied(two, mask, noise_seed=3)
    assert torch.equal(result.data, emptied(two, mask, noise_seed=3).data)
    assert not torch.equal(result.data, emptied(two, mask, noise_seed=4).data)
    for before, after in zip(two.data, result.data, strict=True):
        drawn = after[mask]
        assert np.isin(drawn.numpy(), before.numpy()).all()
        aside = before[:4, :4].flatten()  # a corner that holds air alone
        assert abs(float(drawn.mean() / aside.mean()) - 1) < 0.05 and 0.8 < float(drawn.std() / aside.std()) < 1.2
        assert torch.equal(before[~mask], after[~mask])


def test_the_region_fits_any_grid_of_the_session(plain):
    _, mask, report = plain
    fine = GRID @ np.diag([0.5, 0.5, 0.5, 1])
    twice = region((102, 134, 130), fine, np.array(report.matrix))
    assert (twice[::2, ::2, ::2] == mask).all()
    label = Volume(torch.full((1, *SHAPE), 7.0), GRID, "label")
    assert emptied(label, mask).data.unique().tolist() == [0, 7]
    with pytest.raises(UserError, match="noise"):
        emptied(label, mask, noise_seed=0)
    with pytest.raises(UserError, match="does not fit"):
        emptied(label, mask[1:])


@pytest.mark.parametrize(
    ("data", "unit", "spacing", "message"),
    [
        (torch.ones(1, 30, 30, 30), "a.u.", 8, "equal"),
        (torch.rand(1, 3, 60, 60), "a.u.", 4, "no scan of a head"),
        (torch.rand(1, 20, 20, 20), "a.u.", 1, "no scan of a head"),
        (torch.rand(1, 30, 30, 30), "a.u.", 1000, "no scan of a head"),
        (torch.full((1, 30, 30, 30), torch.nan), "a.u.", 8, "NaN"),
        (torch.ones(1, 30, 30, 30), "label", 8, "label map"),
    ],
)
def test_what_shows_no_head_at_all_is_refused(data, unit, spacing, message):
    with pytest.raises(UserError, match=message):
        find_head(Volume(data, np.diag([spacing, spacing, spacing, 1.0]), unit))


def test_a_real_head_loses_its_face_and_no_brain(shared_data):
    folder = shared_data / "brains/ixi_hh_2mm"
    image, label = (sorted((folder / kind).iterdir())[60] for kind in ("t1", "dlmuse_seg"))
    volume, labels = read_volume(image), read_volume(label, unit="label").data
    result, report = deface(volume)
    assert report.status == "removed" and 0.08 < report.removed < 0.2
    assert (result.data != volume.data)[labels > 0].float().mean() <= 0.001


def test_a_real_defaced_head_is_recognised(shared_data):
    volume = read_volume(next((shared_data / "head_mri/studyforrest_defaced").glob("*.nii.gz")))
    result, report = deface(volume)
    assert report.status == "already defaced" and report.faceless and not report.defaced
    assert result is volume
