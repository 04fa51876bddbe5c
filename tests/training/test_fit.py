"""The training loop: guard, weight average, damaged checkpoints. Exact resume is tested in test_resume.py."""

import csv

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from medldm.errors import UserError
from medldm.training.base import StepTraining
from medldm.training.data import case_of
from medldm.training.fit import fit
from medldm.training.options import Training, resolve_precision
from medldm.training.resume import latest, stored


class Numbers(Dataset):
    """Item (step, slot) is the number of its step, or NaN where asked."""

    def __init__(self, bad=()):
        self.bad = bad

    def __getitem__(self, key):
        return torch.tensor(float("nan") if key[0] in self.bad else 1.0 + key[0])


class Line(StepTraining):
    """Fits w to the numbers it sees, and remembers w after every step."""

    def __init__(self, options):
        super().__init__(nn.Linear(1, 1), [], options, seed=0, smallest=8)
        nn.init.zeros_(self.model.weight)
        nn.init.zeros_(self.model.bias)
        self.seen = []

    def training_step(self, batch, batch_idx):
        loss = (self.model(torch.ones(len(batch), 1))[:, 0] - batch).pow(2).mean()
        self.note({"loss": loss}, "train/")
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        super().on_train_batch_end(outputs, batch, batch_idx)
        self.seen.append([p.detach().clone() for p in self.model.parameters()])


def options(**changes):
    return Training(**{"steps": 20, "batch": 2, "ema": 0.9, "precision": "32-true", "save_every": 5, **changes})


def run(tmp_path, bad=(), **changes):
    module, lines = Line(options(**changes)), []
    fit(module, Numbers(bad), None, tmp_path, [], lines.append)
    return module, lines


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path):
    module, _ = run(tmp_path, bad={7, 8})
    assert len(module.seen) == 20
    assert all(torch.equal(a, b) for a, b in zip(module.seen[6], module.seen[8], strict=True))
    assert not torch.equal(module.seen[8][0], module.seen[9][0])
    assert all(torch.isfinite(p).all() for p in module.model.parameters())


def test_five_in_a_row_stop_the_training_and_leave_a_sound_checkpoint(tmp_path):
    with pytest.raises(UserError, match="not finite 5 times"):
        run(tmp_path, bad=set(range(12, 20)))
    step, path, _ = latest(tmp_path / "checkpoints")
    state = torch.load(path, weights_only=True)["current_model_state"]
    assert step in (10, 15) and all(torch.isfinite(value).all() for value in state.values())


def test_the_result_is_the_exponential_average_of_the_weights(tmp_path):
    module, _ = run(tmp_path)
    average = [p.clone() for p in module.seen[0]]
    for count, weights in enumerate(module.seen[1:], start=1):
        decay = min(0.9, (count + 1) / (count + 20))
        average = [decay * a + (1 - decay) * w for a, w in zip(average, weights, strict=True)]
    assert all(torch.allclose(a, p, atol=1e-5) for a, p in zip(average, module.model.parameters(), strict=True))


def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path):
    whole, _ = run(tmp_path / "whole")
    stopped = tmp_path / "stopped"
    run(stopped)
    steps = [step for step, _ in stored(stopped / "checkpoints")]
    assert steps == [15, 20]
    newest = stored(stopped / "checkpoints")[-1][1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    again, lines = run(stopped)
    assert newest.name in lines[0] and "step 15 of 20" in lines[1]
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))


def test_a_training_that_was_stopped_after_its_last_step_still_ends_with_the_average(tmp_path):
    whole, _ = run(tmp_path)
    again, lines = run(tmp_path)
    assert lines == ["continuing from step 20 of 20"] and not again.seen
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))


class Interrupted(Line):
    """Is stopped in its first validation."""

    def validation_step(self, batch, batch_idx):
        raise KeyboardInterrupt


def test_a_stop_during_validation_loses_nothing_and_exchanges_no_weights(tmp_path):
    values = DataLoader(torch.ones(1))
    often = options(validate_every=7)  # no multiple of save_every
    whole, stopped, again = Line(often), Interrupted(often), Line(often)
    whole.validation_step = again.validation_step = lambda batch, batch_idx: None
    fit(whole, Numbers(), values, tmp_path / "whole", [], print)
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        fit(stopped, Numbers(), values, tmp_path / "stopped", [], print)
    assert [step for step, _ in stored(tmp_path / "stopped" / "checkpoints")] == [5]
    fit(again, Numbers(), values, tmp_path / "stopped", [], print)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))


def test_the_history_has_each_step_once(tmp_path):
    run(tmp_path)
    with open(tmp_path / "history.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in rows] == [10, 20]
    assert all(row["name"] == "train/loss" and float(row["value"]) > 0 for row in rows)


def test_every_case_comes_once_before_any_comes_again():
    seen = [case_of(step, slot, 4, 10, seed=3) for step in range(10) for slot in range(4)]
    assert all(sorted(seen[i : i + 10]) == list(range(10)) for i in range(0, 40, 10))
    assert seen[:10] != seen[10:20]


@pytest.mark.parametrize("wrong", [{"steps": -1}, {"learning_rate": 0.0}, {"ema": 1.0}, {"precision": "fp8"}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        options(**wrong)


@pytest.mark.skipif(torch.cuda.is_available(), reason="concerns CPUs")
def test_bf16_is_not_used_where_its_gradients_are_wrong():
    assert resolve_precision("auto", smallest=2) == "32-true"
    with pytest.raises(UserError, match="2 cells"):
        resolve_precision("bf16-mixed", smallest=2)
