"""Downstream arms: which patients, which batches, and whether networks learn their task."""

import numpy as np
import pytest
import torch

from medldm.data.steps.torchio_augment import Augment
from medldm.errors import UserError
from medldm.metrics.base import Images
from medldm.models.segmenter import Segmenter
from medldm.training.downstream import Covariate, Mixed, Segmentation, run_arm, target_of
from medldm.training.options import Training
from medldm.training.prediction import Target
from medldm.training.segmentation import soft_dice
from medldm.training.study import Arm, Downstream, chosen

LEARNS = Training(steps=60, batch=4, learning_rate=5e-3, other_learning_rate=5e-3, precision="32-true")


@pytest.fixture(scope="module")
def real(phantom_cohort):
    return phantom_cohort.split("train")


def test_smaller_sets_are_parts_of_larger_ones_and_seeds_choose_others(real):
    names = [[{case.patient for case in chosen(real, size, seed)} for size in (1, 2, 4)] for seed in range(4)]
    assert all(few < some < most and len(some) == 2 for few, some, most in names)
    assert len({frozenset(few) for few, _, _ in names}) > 1


def test_every_arm_is_trained_with_every_seed():
    arms = Downstream(sizes=(20, 10), seeds=2).arms(30)
    assert {str(arm) for arm in arms if arm.seed == 1} == {f"{name}-n{size}-seed1" for name in ("real", "both") for size in (10, 20)} | {
        "synthetic-seed1"
    }
    assert len(arms) == 10 and {arm.size for arm in Downstream().arms(30)} == {30, 0}


def test_an_arm_of_both_takes_its_share_of_every_batch_from_the_synthetic_cases():
    mixed = Mixed({(7, slot): f"real {slot}" for slot in range(3)}, {(7, 0): "synthetic 0"}, 3, {(8, 3): "real 3"}, 8)
    assert [mixed[7, slot] for slot in range(4)] == ["real 0", "real 1", "real 2", "synthetic 0"]
    assert mixed[8, 3] == "real 3", "the last steps are real alone"
    assert Downstream(share=0.25).synthetic_slots == 1


def test_soft_dice_is_dice_for_certain_answers():
    label = torch.randint(0, 3, (2, 1, 4, 4, 4))
    other = torch.randint(0, 3, (2, 1, 4, 4, 4))
    logits = 50.0 * torch.nn.functional.one_hot(other[:, 0], 3).movedim(-1, 1)
    wanted = [2 * ((other == v) & (label == v)).sum() / ((other == v).sum() + (label == v).sum()) for v in (1, 2)]
    assert float(soft_dice(logits, label)) == pytest.approx(float(np.mean(wanted)), abs=1e-4)


def test_a_segmenter_takes_any_size_and_its_probabilities_sum_to_one():
    model = Segmenter(2, 3, (8, 16), 1).eval()
    found = model.probabilities(torch.rand(1, 2, 9, 11, 8))
    assert found.shape == (1, 4, 9, 11, 8) and torch.allclose(found.sum(1), torch.ones(1, 9, 11, 8))


def test_a_network_learns_to_segment_and_a_finished_arm_is_not_trained_again(real, phantom_cohort, tmp_path):
    settings = Downstream(seeds=1, widths=(16, 32), training=LEARNS, augment=Augment())
    task, test = Segmentation(settings, real, real), Images(phantom_cohort.split("test"))
    arm = Arm("both", len({case.patient for case in real}), 0)
    values = run_arm(task, arm, {"held_out": test}, tmp_path)
    assert np.mean([row["dice_brain"] for row in values["held_out"]]) > 0.8
    assert {"dice", "hd95_brain", "surface_dice_brain", "volume_error_brain"} <= set(values["held_out"][0])
    task.module = None  # would be called to train
    assert run_arm(task, arm, {"held_out": test}, tmp_path) == values and not list((tmp_path / "checkpoints").glob("*"))


def test_targets_are_numbers_or_categories():
    number, word = Target("age", (), 50.0, 10.0), Target("sex", ("f", "m"))
    assert number.encode(70.0) == 2 and number.error(torch.tensor([1.5]), 60.0) == pytest.approx(5)
    assert word.encode("m") == 1 and word.outputs == 2
    assert [word.error(torch.tensor([0.1, 0.9]), sex) for sex in "mf"] == [0, 1]
    assert float(word.loss(torch.tensor([[0.0, 50.0]]), torch.tensor([1.0]))) == pytest.approx(0)


def test_a_network_learns_to_predict_a_covariate(real, phantom_cohort, tmp_path):
    name = next(key for key in sorted(real.covariates) if key.startswith("volume_"))
    task = Covariate(Downstream(covariate=name, widths=(8, 16), training=LEARNS, augment=Augment()), real, real)
    test = Images(phantom_cohort.split("test"))
    errors = [row["error"] for row in run_arm(task, Arm("real", len(real), 0), {"test": test}, tmp_path)["test"]]
    usual = target_of(name, real)
    assert np.mean(errors) < 1.5 * np.mean([abs(case.covariates[name] - usual.mean) for case in test.cases])


def test_a_covariate_that_does_not_vary_is_refused(real):
    with pytest.raises(UserError, match="no covariate that varies"):
        target_of("shoe_size", real)
