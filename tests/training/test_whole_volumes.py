"""Crops first, whole volumes later: sizes, order, and labels that stay on their image."""

import pytest
import torch

from medldm.data.steps.torchio_augment import Augment
from medldm.training.data import Crops, StepBatches, Whole

FIRST, FACTOR, BATCH = 3, 8, 4


@pytest.fixture(scope="module")
def crops(phantom_cohort):
    return Crops(phantom_cohort.split("train"), (8, 8, 8), BATCH, seed=0, whole=Whole(FIRST, FACTOR))


def test_batches_are_of_one_volume_from_that_step_on():
    batches = list(StepBatches(1, 6, BATCH, single_from=FIRST))
    assert [len(batch) for batch in batches] == [4, 4, 1, 1, 1] and batches[2] == [(3, 0)]
    assert [len(batch) for batch in StepBatches(1, 6, BATCH)] == [4] * 5


def test_whole_volumes_are_cut_to_whole_cells(crops):
    assert crops[FIRST - 1, 0][0].shape == (1, 8, 8, 8)
    image, label = crops[FIRST, 0]
    assert image.shape == label.shape == (1, 16, 16, 16)  # of 16 x 20 x 16


def test_every_volume_comes_once_before_any_comes_again(crops):
    count = len(crops.volumes)
    seen = []
    for step in range(FIRST, FIRST + 2 * count):
        image, _ = crops[step, 0]
        likeness = [max(float(torch.corrcoef(torch.stack([image.flatten(), whole[:, :, j : j + 16].flatten()]))[0, 1]) for j in range(5))
                    for whole, _ in crops.volumes]  # fmt: skip
        assert max(likeness) > 0.9999
        seen.append(likeness.index(max(likeness)))
    assert sorted(seen[:count]) == sorted(seen[count:]) == list(range(count))


def test_a_step_is_the_same_whatever_came_before(crops, phantom_cohort):
    again = Crops(phantom_cohort.split("train"), (8, 8, 8), BATCH, seed=0, whole=Whole(FIRST, FACTOR))
    again[0, 0]
    assert all(torch.equal(a, b) for a, b in zip(crops[FIRST + 2, 0], again[FIRST + 2, 0], strict=True))


def test_random_changes_act_on_whole_volumes_as_well(phantom_cohort):
    train = phantom_cohort.split("train")
    plain = Crops(train, (8, 8, 8), BATCH, seed=0, whole=Whole(0, FACTOR))
    flipped = Crops(train, (8, 8, 8), BATCH, seed=0, augment=Augment(flip=(0,), degrees=5), whole=Whole(0, FACTOR))
    pairs = [(plain[step, 0], flipped[step, 0]) for step in range(4)]
    assert all(a[0].shape == b[0].shape and b[1].shape == (1, 16, 16, 16) for a, b in pairs)
    assert not all(torch.equal(a[0], b[0]) for a, b in pairs)
