"""Pieces, neighbours and volumes of label maps drawn by hand."""

import numpy as np
import pytest

from medldm.metrics.plausibility import Plausibility


def label(*boxes):
    """Boxes (value, from, to) along the first axis, 6 voxels wide along the others."""
    found = np.zeros((24, 12, 12))
    for value, start, stop in boxes:
        found[start:stop, 3:9, 3:9] = value
    return found


GOOD = label((1, 2, 8), (2, 8, 14))
APART, BROKEN, ALONE = label((1, 2, 8), (2, 10, 16)), label((1, 2, 5), (1, 7, 10), (2, 10, 16)), label((1, 2, 8))


def cohort(store, name, *labels):
    return store([np.zeros((24, 12, 12))] * len(labels), list(labels), name=name)


def test_topology_is_counted_and_real_label_maps_stand_beside(store):
    real, made = cohort(store, "real", GOOD, GOOD, GOOD, GOOD), cohort(store, "made", GOOD, APART, BROKEN, ALONE)
    found = {score.name: score for score in Plausibility()(made, real)}
    assert found["pieces_left"].value == pytest.approx(5 / 4) and found["pieces_left_real"].value == 1
    assert found["whole"].value == pytest.approx(3 / 4) and found["whole_real"].value == 1
    assert found["touching_left_right"].value == pytest.approx(2 / 3) and found["touching_left_right"].n == 3
    assert found["touching_left_right_real"].value == 1


def test_the_distance_of_volumes_is_that_of_a_known_shift(store):
    small = [label((1, 2, 4 + n), (2, 12, 15)) for n in range(5)]
    large = [label((1, 2, 6 + n), (2, 12, 15)) for n in range(5)]
    found = {score.name: score for score in Plausibility()(cohort(store, "a", *large), cohort(store, "b", *small))}
    assert found["volume_w1_left"].value == pytest.approx(2 * 36) and found["volume_w1_left"].unit == "mm3"
    assert found["volume_w1_right"].value == 0
    assert found["volume_w1_left"].low <= 72 <= found["volume_w1_left"].high


def test_without_label_maps_there_is_nothing_to_say(store):
    images = store([np.zeros((8, 8, 8))] * 3)
    assert Plausibility()(images, images) == []
