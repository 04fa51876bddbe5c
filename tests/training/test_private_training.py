"""Differentially private training: clipping, noise, draws and accounting, each against what it has to be by definition."""

import math
import sys

import pytest
import torch
from safetensors.torch import save_file
from scipy import optimize, stats
from torch import nn
from torch.utils.data import Dataset

from medldm import cli
from medldm.cohort import Case, Cohort
from medldm.commands.generate import generate
from medldm.diffusion.conditions.category import Category
from medldm.diffusion.conditions.scalar import Scalar
from medldm.diffusion.denoiser import Denoiser
from medldm.diffusion.process import Flow
from medldm.errors import UserError
from medldm.files import read_json
from medldm.models.lean import LeanAutoencoder
from medldm.models.nets import UNet
from medldm.randomness import keyed, seeded
from medldm.run import Run, save_model
from medldm.training.budget import Budget, Privacy
from medldm.training.diffusion import PrivateDiffusion
from medldm.training.fit import fit
from medldm.training.options import Training
from medldm.training.private import PatientLatents, PoissonBatches, clipped_sum, refuse_statistics
from medldm.training.resume import stored

GRID = (4, 4, 4)
OPTIONS = Training(steps=6, batch=2, precision="32-true", save_every=2, learning_rate=1e-3)
NOISE_ALONE = Budget(epsilon=8.0, delta=1e-3, noise_multiplier=1.7, clip=0.5, sample_rate=1e-15, steps=6)


def denoiser() -> Denoiser:
    with seeded(0, "weights"):
        net = UNet(2, (8, 16), head_channels=8, width=16)
        model = Denoiser(net, Flow(), {"age": Scalar(16, 50.0, 10.0), "sex": Category(16, ["F", "M"])})
        for parameter in model.parameters():  # MONAI starts some at zero, and no gradient passes them
            nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture(scope="module")
def model():
    return denoiser()


@pytest.fixture(scope="module")
def patients():
    """Latents [5 2 4 4 4], codes, noise, times and fields of view."""
    g = keyed(1)
    latents, noise = (torch.randn(5, 2, *GRID, generator=g) for _ in range(2))
    codes = torch.tensor([[0.3, 1.0], [math.nan, 0.0], [-1.0, math.nan], [math.nan, math.nan], [2.0, 1.0]])
    return latents, codes, noise, torch.rand(5, generator=g, dtype=torch.float64), (torch.rand(5, 1, *GRID, generator=g) < 0.8).float()


def losses(model, patients, chosen=range(5), factor=1.0):
    for i in chosen:
        latent, codes, noise, time, valid = (part[i : i + 1] for part in patients)
        yield factor * model.error(latent, noise, time, model.context(codes, valid))[0]


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def gradient(model, loss) -> torch.Tensor:
    model.zero_grad(set_to_none=False)
    loss.backward()
    return flat(torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters())


def summed(model, losses, clip) -> torch.Tensor:
    return flat(clipped_sum(losses, list(model.parameters()), clip))


def test_clipping_is_that_of_each_gradient_by_itself(model, patients):
    rows = torch.stack([gradient(model, loss) for loss in losses(model, patients)])
    norms = rows.norm(dim=1, keepdim=True)
    clip = float(norms.median())
    expected = (rows * (clip / norms).clamp(max=1)).sum(0)
    assert (norms < clip).sum() == (norms > clip).sum() == 2
    assert torch.allclose(summed(model, losses(model, patients), clip), expected, rtol=1e-5, atol=1e-6)


def test_without_clipping_the_sum_is_the_gradient_of_the_whole_batch(model, patients):
    latents, codes, noise, times, valid = patients
    whole = gradient(model, model.error(latents, noise, times, model.context(codes, valid)).sum())
    assert torch.allclose(summed(model, losses(model, patients), math.inf), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("factor", "moved"), [(1e4, 0.5), (math.inf, 0.0), (math.nan, 0.0), (0.0, 0.0)])
def test_a_patient_moves_the_sum_by_the_clip_at_most_however_strange(model, patients, factor, moved):
    others = summed(model, losses(model, patients, [0, 1, 2]), 0.5)
    both = [*losses(model, patients, [0, 1, 2]), *losses(model, patients, [3], factor)]
    assert float((summed(model, both, 0.5) - others).norm()) == pytest.approx(moved, rel=1e-5)


class Patients(Dataset):
    """Four patients with the same latent."""

    patients = ((0,), (1,), (2,), (3,))

    def __getitem__(self, key):
        return torch.ones(2, *GRID), torch.zeros(2), torch.ones(1, *GRID), key[1]


class Watched(PrivateDiffusion):
    """Remembers the gradient of every step, and is stopped in one of them."""

    def __init__(self, budget=NOISE_ALONE, stop=None):
        super().__init__(denoiser(), OPTIONS, 0, GRID, budget)
        self.seen, self.stop, self.sizes = [], stop, []

    def training_step(self, batch, batch_idx):
        if self.global_step == self.stop:
            raise KeyboardInterrupt
        loss = super().training_step(batch, batch_idx)
        self.seen.append(flat(self.gradient))
        self.sizes.append(len(batch))
        return loss


def test_the_noise_is_normal_and_as_strong_as_planned():
    module = Watched()
    module.training_step([], 0)
    (noise,) = module.seen
    std = 1.7 * 0.5 / 2
    assert len(noise) > 50_000
    assert stats.kstest(noise.numpy() / std, "norm").pvalue > 1e-6
    assert float(noise.std()) == pytest.approx(std, abs=5 * std / math.sqrt(2 * len(noise)))


def test_a_step_is_the_clipped_sum_over_its_patients_with_draws_of_their_own():
    module = Watched(Budget(8.0, 1e-3, noise_multiplier=0.0, clip=0.5, sample_rate=0.5, steps=6))
    items = [Patients()[0, number] for number in range(4)]
    for batch in (items, items[:2], items[2:]):
        module.training_step(batch, 0)
    together, first, second = module.seen
    assert torch.allclose(together, first + second, atol=1e-6) and not torch.allclose(first, second, atol=1e-3)
    assert float(first.norm()) <= 2 * 0.5 / 2


def test_neither_the_seed_nor_a_checkpoint_repeats_the_noise(tmp_path):
    once, again = Watched(), Watched()
    for module, folder in ((once, "once"), (again, "again")):
        fit(module, Patients(), None, tmp_path / folder, [], print)
    assert once.sizes == [0] * 6  # of no patient at all
    assert not (tmp_path / "once" / "history.csv").read_text().splitlines()[1:]
    stopped, continued = Watched(stop=4), Watched()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(stopped, Patients(), None, tmp_path / "stopped", [], print)
    assert stored(tmp_path / "stopped" / "checkpoints")[-1][0] == 4
    stored(tmp_path / "stopped" / "checkpoints")[-1][1].unlink()
    fit(continued, Patients(), None, tmp_path / "stopped", [], print)
    seen = [noise for module in (once, again, stopped, continued) for noise in module.seen]
    assert [len(module.seen) for module in (stopped, continued)] == [4, 4]  # steps 2 and 3 twice
    correlation = torch.corrcoef(torch.stack(seen)) - torch.eye(len(seen))
    assert float(correlation.abs().max()) < 6 / math.sqrt(len(seen[0]))


def test_patients_are_drawn_each_for_itself():
    steps, rate = 4000, 0.15
    drawn = torch.zeros(steps, 12)
    for step, batch in enumerate(PoissonBatches(0, steps, 12, rate)):
        assert all(key[0] == step for key in batch)
        drawn[step, [patient for _, patient in batch]] = 1
    error = math.sqrt(rate * (1 - rate) / steps)
    assert float((drawn.mean(0) - rate).abs().max()) < 5 * error
    sizes = drawn.sum(1)
    assert stats.chisquare(torch.bincount(sizes.long(), minlength=5)[:5], steps * stats.binom.pmf(range(5), 12, rate), sum_check=False).pvalue > 1e-6
    assert float((torch.corrcoef(drawn.T) - torch.eye(12)).abs().max()) < 5 / math.sqrt(steps)
    assert abs(float(torch.corrcoef(torch.stack([drawn[1:].flatten(), drawn[:-1].flatten()]))[0, 1])) < 5 / math.sqrt(12 * steps)
    assert sizes.min() == 0 and list(PoissonBatches(5, 7, 2, 1.0)) == [[(5, 0), (5, 1)], [(6, 0), (6, 1)]]


def test_batch_normalisation_is_refused():
    refuse_statistics(denoiser())
    for layer in (nn.BatchNorm3d(4), nn.BatchNorm1d(4, track_running_stats=False), nn.InstanceNorm3d(4, track_running_stats=True)):
        with pytest.raises(UserError, match=rf"1 \({type(layer).__name__}\)"):
            refuse_statistics(nn.Sequential(nn.GroupNorm(2, 4), layer))
    refuse_statistics(nn.Sequential(nn.InstanceNorm3d(4), nn.GroupNorm(2, 4), nn.LayerNorm(4)))


@pytest.mark.parametrize(
    ("privacy", "batch", "said"),
    [
        ({"epsilon": 8.0}, 41, "there are 40 patients"),
        ({"epsilon": 8.0, "delta": 0.025}, 4, "privacy.delta=0.025"),
        ({"epsilon": 8.0, "delta": 0.0}, 4, "privacy.delta=0"),
        ({"epsilon": 1e-4}, 4, "privacy.epsilon=0.0001 cannot be reached"),
        ({"epsilon": 0.0}, 4, "privacy.epsilon and privacy.clip"),
        ({"epsilon": 8.0, "clip": math.inf}, 4, "privacy.epsilon and privacy.clip"),
    ],
)
def test_an_impossible_budget_is_refused(privacy, batch, said):
    pytest.importorskip("opacus", reason="opacus is not installed")
    with pytest.raises(UserError, match=said):
        Budget.plan(Privacy(**privacy), patients=40, batch=batch, steps=100)


def test_without_opacus_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(UserError, match=r"medldm\[dp\]"):
        Budget.plan(Privacy(8.0), patients=40, batch=4, steps=100)


def test_the_budget_is_kept_and_used():
    accountants = pytest.importorskip("opacus", reason="opacus is not installed").accountants
    budget = Budget.plan(Privacy(3.0), patients=200, batch=20, steps=150)
    assert 0.98 * 3.0 <= budget.epsilon <= 3.0 and budget.delta == 1 / 2000 and budget.sample_rate == 0.1
    assert budget.epsilon == budget.spent(150)
    accountant = accountants.RDPAccountant()
    for step in range(1, 151):
        accountant.step(noise_multiplier=budget.noise_multiplier, sample_rate=0.1)
        if step in (1, 40, 150):
            assert budget.spent(step) == pytest.approx(accountant.get_epsilon(delta=budget.delta), rel=0.01)
    assert budget.spent(0) == 0 < budget.spent(40) < budget.epsilon


def test_epsilon_is_a_bound_on_the_exact_one_where_that_is_known():
    """Without sampling, T steps are one Gaussian mechanism, whose delta is known (Balle & Wang 2018, theorem 8)."""
    pytest.importorskip("opacus", reason="opacus is not installed")
    budget = Budget.plan(Privacy(2.0, delta=1e-3), patients=50, batch=50, steps=80)
    mu = math.sqrt(80) / budget.noise_multiplier

    def delta(epsilon: float) -> float:
        return stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu)

    exact = optimize.brentq(lambda epsilon: delta(epsilon) - budget.delta, 1e-6, 20)
    assert exact <= budget.epsilon <= 1.2 * exact


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    """Random latents of five patients to train on, two of them scanned twice, and one to validate on."""
    run = Run.claim(tmp_path_factory.mktemp("private") / "latents", "cache-latents", {})
    cases = []
    for number, patient in enumerate("abacbdev"):
        path = run.root / f"{number}.safetensors"
        save_file({"mean_0": torch.randn(4, *GRID, generator=keyed(number)), "std_0": torch.ones(4, *GRID)}, path)
        split = "val" if patient == "v" else "train"
        cases.append(Case(str(number), patient, split, path.name, shape=GRID, spacing=(4.0,) * 3, covariates={"age": 50.0 + number}))
    cohort = Cohort(run.root, tuple(cases), "latent", covariates={"age": "years"}, facts={"grid": list(GRID), "voxel_spacing": [2.0] * 3})
    cohort.save()
    save_model(run.root, LeanAutoencoder(1, 0, widths=(4,), blocks=1))
    run.finish({}, ["model.safetensors"])
    return cohort


def test_one_case_of_a_patient_is_drawn_and_all_of_them_come(latents):
    train = latents.split("train")
    codes = torch.arange(len(train), dtype=torch.float32)[:, None]
    items = PatientLatents(train, codes, lambda z: z, tuple(latents.facts["grid"]), 2, 0)
    assert [len(cases) for cases in items.patients] == [2, 2, 1, 1, 1]
    for patient, cases in enumerate(items.patients):
        drawn = [items[step, patient] for step in range(12)]
        assert {int(code) for _, code, _, _ in drawn} == set(cases) and {number for *_, number in drawn} == {patient}


def test_the_command_tells_and_records_what_is_spent(latents, tmp_path, capsys):
    pytest.importorskip("opacus", reason="opacus is not installed")
    short = [
        "--net.channels",
        "[16,32]",
        "--training.steps",
        "6",
        "--training.batch",
        "3",
        "--training.save_every",
        "2",
        "--training.validate_every",
        "3",
    ]
    options = ["train-diffusion", "--latents", str(latents.root), *short, "--privacy.epsilon", "8", "--privacy.delta", "0.1"]
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PrivateDiffusion, "validation_step", interrupt)
        assert cli.main([*options, "--out", str(run)]) == 130
    assert "was spent in 2 of 6 steps" in capsys.readouterr().out
    assert cli.main(["train-diffusion", "--config", str(run / "config.yaml"), "--out", str(run)]) == 0
    said = capsys.readouterr().out
    record = read_json(run / "provenance.json")["facts"]["privacy"]
    assert {"noise_multiplier", "clip", "covers"} <= set(record) and record["sample_rate"] == 3 / 5
    assert (record["steps"], record["delta"], record["unit"]) == (6, 0.1, "patient") and 7.8 < record["epsilon"] <= 8
    assert f"epsilon {record['epsilon']:.3g} at delta 0.1 was spent in 6 of 6 steps" in said and "not the autoencoder" in said.replace("\n", " ")
    assert "train/loss" not in (run / "history.csv").read_text()
    assert generate(run, 1, tmp_path / "generated").facts["privacy"] == record


def interrupt(self, batch, batch_idx):
    raise KeyboardInterrupt
