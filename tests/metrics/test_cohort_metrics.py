"""Diversity, nearest training case, label overlap and volume, cropping."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medldm.metrics.base import centre_crop, common_size
from medldm.metrics.diversity import Diversity
from medldm.metrics.features import Haar
from medldm.metrics.nearest import SMOOTHING, NearestTraining, copy_threshold
from medldm.metrics.paired import ms_ssim
from medldm.metrics.segmentation import cohort_volumes, dice, label_volumes


def noise(count, shape=(12, 13, 14), seed=0):
    return list(np.random.default_rng(seed).uniform(-1, 1, (count, *shape)).astype(np.float32))


def test_dice_of_known_overlap():
    a, b = np.zeros((4, 4, 4)), np.zeros((4, 4, 4))
    a[:2], b[1:3] = 1, 1
    assert dice(a, b, 1) == 0.5
    assert dice(a, a, 1) == 1.0
    assert dice(a, 0 * a, 1) == 0.0
    assert dice(a, b, 2) is None


def test_volumes_are_voxels_times_voxel_volume(store):
    label = np.zeros((4, 4, 4))
    label[0, :3, 0], label[1, 0, 0] = 1, 2
    assert label_volumes(label, (1.0, 2.0, 0.5), [1, 2, 7]) == [3.0, 1.0, 0.0]
    np.testing.assert_array_equal(cohort_volumes(store([label], [label], spacing=2.0)), [[24.0, 8.0]])


def test_centre_crop_and_common_size(store):
    assert centre_crop(np.arange(10), [4]).tolist() == [3, 4, 5, 6]
    assert common_size(store([np.zeros((5, 9, 4)), np.zeros((7, 3, 4))])) == (5, 3, 4)


def test_diversity_is_the_mean_over_pairs_of_different_patients(store):
    images = noise(3)
    images[2] = images[0]
    cohort = store(images, patients=["a", "b", "c"])
    pairs = [ms_ssim(images[i], images[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    fake, real = Diversity()(cohort, cohort)
    assert fake.value == pytest.approx(np.mean(pairs), abs=1e-6) == real.value
    assert (fake.name, real.name, fake.n) == ("pairwise_ms_ssim", "pairwise_ms_ssim_real", 3)
    scans = store([*images, images[1]], patients=["a", "b", "a", "c"], name="scans")
    others = [pairs[0], pairs[0], pairs[2], 1.0, pairs[2]]  # a-b, a-c, b-a', b-c, a'-c
    assert Diversity()(scans, scans)[0].value == pytest.approx(np.mean(others), abs=1e-6)
    two = store(images[:2], name="two")
    assert all(np.isnan(score.value) and "at least 3 patients" in score.on for score in Diversity()(two, two))


def test_diversity_samples_pairs_by_seed(store):
    cohort = store(noise(8))
    few = [Diversity(pairs=5, seed=seed)(cohort, cohort)[0].value for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2]


@pytest.mark.parametrize("shape", [(12, 13, 14), (70, 20, 9)])
def test_copies_are_found_and_new_images_are_not(store, shape):
    training, held_out, new = noise(6, shape), noise(5, shape, seed=1), noise(3, shape, seed=2)
    copied = [training[2], 0.5 * training[4] - 0.1, np.clip(training[0] + 0.05 * new[0], -1, 1)]
    train, real = store(training, name="train"), store(held_out, name="real")
    scores = {s.name: s for s in NearestTraining(train)(store(copied + new, name="fake"), real)}
    assert scores["copies"].value == 3 and scores["copies"].n == 6
    assert scores["nearest_train_real"].value < scores["copies_threshold"].value < 0.9
    assert NearestTraining(train)(store(new, name="new"), real)[-1].value == 0


def test_similarity_is_the_pearson_correlation_of_smoothed_images(store):
    a, b = noise(2)
    found = NearestTraining(store([a], name="t")).likeness(store([b], name="g"), store([a, b], name="r")).generated.max(1)
    smooth_a, smooth_b = (gaussian_filter(image, SMOOTHING, axes=(-3, -2, -1)) for image in (a, b))
    assert found[0] == pytest.approx(np.corrcoef(smooth_a.ravel(), smooth_b.ravel())[0, 1], abs=1e-5)


def test_less_noise_makes_no_copy(store):
    """One anatomy, as clean as a decoder makes it and as noisy as a scanner does: both are about as close to noisy training images."""
    anatomy = gaussian_filter(noise(1, (24, 24, 24))[0], 3, axes=(-3, -2, -1))
    anatomy = anatomy / anatomy.std()
    smooth = [anatomy] * 12
    noisy = [anatomy + n / n.std() for n in noise(12, (24, 24, 24), seed=5)]
    found = NearestTraining(store(noisy[:6], name="t")).likeness(store(smooth[6:9], name="g"), store(noisy[9:], name="r"))
    assert abs(found.generated.max(1).mean() - found.held_out.max(1).mean()) < 0.1


def test_closest_pairs_come_most_alike_first_and_few_held_out_cases_leave_no_threshold(store):
    training, new = noise(4), noise(2, seed=2)
    found = NearestTraining(store(training, name="t")).likeness(store([*new, training[3]], name="g"), store(new[:1], name="r"))
    (made, real, value), *others = found.closest(3)
    assert (made, real) == (2, 3) and value == pytest.approx(1, abs=1e-5)
    assert value > others[0][2] > others[1][2] and np.isnan(found.threshold)


def test_a_part_shares_what_was_worked_out_for_the_whole(store):
    whole = store(noise(7), name="t")
    features = Haar()
    everything = features.cases(whole)
    part = whole.take(4, seed=3)
    whole.image = part.image = None  # nothing is read again
    positions = [whole.cases.index(case) for case in part.cases]
    assert len(part) == 4 and np.array_equal(features.cases(part), everything[positions])


def test_the_threshold_leaves_room_for_a_copy_however_alike_patients_are():
    real = np.random.default_rng(0).normal(0.88, 0.04, 40).clip(-1, 0.96)
    assert real.mean() + 4 * real.std() > 1 > copy_threshold(real) > real.max()
