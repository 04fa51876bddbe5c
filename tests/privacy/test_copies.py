"""The search for copies on random textures, whose likeness by chance is known to be small."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medldm.cohort import Case, Cohort
from medldm.metrics.base import Images
from medldm.privacy.audit import Audit, copied
from medldm.privacy.copies import CopySearch, Match, Pose, limit
from medldm.volume import Volume, write_volume

SPACING = (1.0, 1.25, 0.8)


def texture(seed: int, shape: tuple[int, int, int] = (30, 26, 34)) -> np.ndarray:
    """What all have in common, a ball, and what only one has."""
    rng = np.random.default_rng(seed)
    own = ndimage.gaussian_filter(rng.normal(size=(40, 40, 40)), 1.5)[tuple(slice(0, n) for n in shape)]
    ball = sum(axis**2 for axis in np.ogrid[tuple(slice(-1, 1, 1j * n) for n in shape)]) < 0.7
    return (ndimage.gaussian_filter(np.where(ball, 0.2, -0.2), 1.5) + own / own.std() * 0.15).astype(np.float32)


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    root, cases = tmp_path_factory.mktemp("training"), []
    for seed in range(6):
        volume = Volume(torch.from_numpy(texture(seed))[None], np.diag([*SPACING, 1.0]))
        write_volume(root / f"{seed}.nii.gz", volume)
        cases.append(Case(f"c{seed}", f"p{seed}", "train", f"{seed}.nii.gz", shape=volume.shape, spacing=SPACING))
    return Images(Cohort(root, tuple(cases)))


@pytest.fixture(scope="module")
def search(training):
    return CopySearch(training)


def rescaled(x, factor):
    return ndimage.zoom(x, factor, order=1)


CHANGES = {
    "nothing": (lambda x, rng: x, 0.999),
    "intensities": (lambda x, rng: 40 - 7 * x, -1.0),
    "gamma": (lambda x, rng: np.clip((x + 1) / 2, 0, 1) ** 1.5, 0.9),
    "noise": (lambda x, rng: x + rng.normal(0, 0.1, x.shape), 0.9),
    "cut": (lambda x, rng: x[2:, :-3, 1:-1], 0.9),
    "hidden": (lambda x, rng: copied(x, rng), 0.9),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_among_others(search, change):
    edit, least = CHANGES[change]
    match = search.nearest(edit(texture(4), np.random.default_rng(0)).astype(np.float32), SPACING)
    if least > 0:
        assert match.index == 4 and match.similarity > least
    else:
        assert match.similarity < 0.7, "a negative is not like its original in brightness; it is left to other checks"


def test_copies_are_found_on_other_grids(search):
    coarse = ndimage.zoom(texture(2), (0.8, 1.0, 0.8), order=1)
    match = search.nearest(coarse, tuple(np.array(SPACING) * np.array(texture(2).shape) / coarse.shape))
    assert match.index == 2 and match.similarity > 0.9


def test_others_are_not_like_any(search):
    assert max(search.nearest(texture(seed), SPACING).similarity for seed in range(100, 103)) < 0.75


def test_the_pose_puts_a_copy_back(search):
    moved = copied(texture(3), np.random.default_rng(5))
    match = search.nearest(moved, SPACING)
    back = match.pose.applied(moved, SPACING, texture(3).shape, SPACING)
    inside = (slice(5, -5),) * 3
    assert np.corrcoef(back[inside].ravel(), texture(3)[inside].ravel())[0, 1] > 0.9
    assert np.corrcoef(moved[inside].ravel(), texture(3)[inside].ravel())[0, 1] < 0.8


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_what_is_nearly_its_own_mirror_image_is_put_back_unmirrored(tmp_path, axis):
    """From the pose of a search that took the wrong reflection, turned and shifted as the mirror image would be."""
    other, detail = np.flip(texture(1), axis), 0.4 * texture(2)
    image = (texture(1) + other + detail).astype(np.float32)
    write_volume(tmp_path / "x.nii.gz", Volume(torch.from_numpy(image)[None], np.eye(4)))
    search = CopySearch(Images(Cohort(tmp_path, (Case("x", "x", "train", "x.nii.gz", shape=image.shape, spacing=(1.0,) * 3),))))
    right = Pose((1, 1, 1), (0.03, -0.02, 0.04), (3.0, -2.0, 2.5))
    back = Rotation.from_euler("xyz", right.angles).inv()
    undone = Pose((1, 1, 1), tuple(back.as_euler("xyz")), tuple(-back.apply(right.shift)))
    moved = undone.applied(image, (1.0,) * 3, image.shape, (1.0,) * 3)
    turn = np.where(np.arange(3) == axis, -1, 1)
    wrong = Match(0, 0.5, Pose(tuple(turn.tolist()), tuple(-turn * right.angles), tuple(turn * right.shift)))
    found = search.unmirrored(moved, (1.0,) * 3, wrong)
    assert found.pose.signs == (1, 1, 1) and found.similarity > 0.95
    np.testing.assert_allclose(found.pose.shift, right.shift, atol=0.3)
    np.testing.assert_allclose(found.pose.angles, right.angles, atol=0.02)
    better = replace(wrong, similarity=1.0)
    assert search.unmirrored(moved, (1.0,) * 3, better) == better


def test_a_pose_is_what_it_says():
    image = texture(0)
    flipped = Pose((-1, 1, 1), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)).applied(image, SPACING, image.shape, SPACING)
    np.testing.assert_allclose(flipped, image[::-1], atol=1e-4)
    shifted = Pose((1, 1, 1), (0.0, 0.0, 0.0), (0.0, 2.5, 0.0)).applied(image, SPACING, image.shape, SPACING)
    np.testing.assert_allclose(shifted[:, :-4], image[:, 2:-2], atol=1e-4)
    turned = Pose((1, 1, 1), (0.0, 0.0, np.pi / 2), (0.0, 0.0, 0.0)).applied(image[:26, :26], (1, 1, 1), (26, 26, 34), (1, 1, 1))
    np.testing.assert_allclose(np.rot90(turned, 1, (0, 1)), image[:26, :26], atol=1e-3)


def test_the_limit_holds_for_new_patients():
    rng = np.random.default_rng(0)
    beyond = [rng.normal() > limit(rng.normal(size=40), 0.05) for _ in range(4000)]
    assert np.mean(beyond) == pytest.approx(0.05, abs=0.012)
    assert limit(list(range(18))) == float("inf") and limit(list(range(19))) == 18


def likeness(low, high, count):
    return tuple(np.linspace(low, high, count))


@pytest.mark.parametrize(
    ("held_out", "generated", "planted", "state"),
    [
        (likeness(0.5, 0.7, 40), likeness(0.5, 0.69, 40), likeness(0.9, 1, 20), "pass"),
        (likeness(0.5, 0.7, 40), likeness(0.6, 0.9, 40), likeness(0.9, 1, 20), "fail"),
        (likeness(0.5, 0.7, 19), likeness(0.6, 0.9, 40), likeness(0.9, 1, 20), "inconclusive"),
        (likeness(0.5, 0.7, 40), likeness(0.5, 0.69, 40), likeness(0.6, 1, 20), "inconclusive"),
        (likeness(0.5, 0.7, 40), likeness(0.5, 0.69, 10), likeness(0.9, 1, 20), "inconclusive"),
        (likeness(0.5, 0.7, 40), likeness(0.5, 0.69, 40), likeness(0.9, 1, 9), "inconclusive"),
    ],
)
def test_the_verdict(held_out, generated, planted, state):
    found = Audit(held_out, generated, planted)
    assert found.verdict()[0] == state
    scores = {score.name: score for score in found.scores()}
    assert scores["copy_share"].value == np.mean(found.copies)
    assert scores["copies_found"].value == np.mean(np.array(planted) > found.limit)


def test_with_few_held_out_patients_what_is_more_alike_than_all_of_them_still_counts_as_a_copy():
    found = Audit((0.3, 0.6, 0.5), (0.59, 0.61, 0.99), (0.9,) * 20)
    assert found.limit == 0.6 and found.copies == [False, True, True] and found.verdict()[0] == "inconclusive"
