"""Label maps: overlap, surfaces and lesions of shapes whose answers are known."""

import numpy as np
import pytest

from medldm.errors import UserError
from medldm.metrics.segmentation import count_lesions, dice, hd95, iou, lesions, surface_dice, volume_error


def box(*slices, shape=(30, 32, 34), value=2):
    label = np.zeros(shape)
    label[tuple(slice(*s) for s in slices)] = value
    return label


def ball(radius, shape=(40, 40, 40)):
    axes = np.meshgrid(*(np.arange(n) - n / 2 for n in shape), indexing="ij")
    return (sum(a**2 for a in axes) <= radius**2) * 2.0


A, SHIFTED, EMPTY = box((10, 20), (10, 20), (10, 20)), box((13, 23), (10, 20), (10, 20)), box((0, 0), (0, 0), (0, 0))


def test_overlap_and_volume_of_shifted_boxes():
    assert dice(A, SHIFTED, 2) == pytest.approx(0.7)
    assert iou(A, SHIFTED, 2) == pytest.approx(7 / 13)
    assert volume_error(A, box((10, 20), (10, 20), (10, 15)), 2) == pytest.approx(100)
    assert volume_error(EMPTY, A, 2) == pytest.approx(-100)
    assert dice(A, A, 1) is None


def test_distance_of_shifted_boxes_is_the_shift_in_millimetres():
    assert hd95(A, SHIFTED, 2, (1.5, 1, 1)) == pytest.approx(4.5)
    assert hd95(A, A, 2, (1, 1, 1)) == 0
    assert hd95(SHIFTED, A, 2, (0.5, 3, 3)) == pytest.approx(1.5)


def test_distance_of_balls_is_the_difference_of_their_radii_and_outliers_do_not_rule():
    assert hd95(ball(14), ball(10), 2, (1, 1, 1)) == pytest.approx(4, abs=0.5)
    assert hd95(ball(14), ball(10), 2, (2, 2, 2)) == pytest.approx(8, abs=1)
    stray = ball(10)
    stray[0, 0, 0] = 2
    assert hd95(stray, ball(10), 2, (1, 1, 1)) < 1


def test_surfaces_agree_within_the_tolerance_only():
    assert surface_dice(ball(12), ball(10), 2, (1, 1, 1), tolerance=3) == pytest.approx(1)
    assert surface_dice(ball(12), ball(10), 2, (1, 1, 1), tolerance=0.8) < 0.05
    assert surface_dice(ball(12), ball(10), 2, (2, 2, 2), tolerance=1.5) < 0.05


@pytest.mark.parametrize(("measure", "one", "both"), [(dice, 0, None), (iou, 0, None), (hd95, None, None), (surface_dice, 0, None)])
def test_a_structure_that_is_not_there(measure, one, both):
    further = () if measure in (dice, iou) else ((1, 1, 1),)
    assert measure(A, EMPTY, 2, *further) == one and measure(EMPTY, A, 2, *further) == one
    assert measure(EMPTY, EMPTY, 2, *further) == both
    assert volume_error(A, EMPTY, 2) is None


def test_lesions_are_counted_by_hand():
    reference, found = np.zeros((20, 20, 20)), np.zeros((20, 20, 20))
    reference[2:4, 2:4, 2:4] = reference[10:12, 10:12, 10:12] = reference[16:18, 2:4, 2:4] = 1
    found[2:4, 2:4, 2:3] = 1  # half of the first
    found[10, 10, 10] = 1  # an eighth of the second
    found[5:7, 15:17, 15:17] = 1  # nothing
    assert lesions(found, reference, 1, overlap=0.1) == (2, 3, 1)
    assert lesions(found, reference, 1, overlap=0.3) == (1, 3, 1)
    assert lesions(found, np.zeros_like(found), 1) == (0, 0, 3) and lesions(np.zeros_like(found), reference, 1) == (0, 3, 0)
    assert count_lesions(found, 1) == 3
    touching = np.zeros((4, 4, 4))
    touching[0, 0, 0] = touching[1, 1, 1] = 1
    assert count_lesions(touching, 1) == 1


@pytest.mark.parametrize("measure", [dice, iou, hd95, surface_dice, volume_error, lesions])
def test_label_maps_of_different_grids_are_refused(measure):
    further = ((1, 1, 1),) if measure in (hd95, surface_dice) else ()
    with pytest.raises(UserError, match="different grids"):
        measure(A, A[1:], 2, *further)
