"""Planted cases: mixtures that a training cannot tell from patients by their statistics, chosen by coins."""

import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medldm.cohort import Case, Cohort
from medldm.diffusion.canaries import WEIGHTS, Canaries, Canary, mixed
from medldm.diffusion.model import place
from medldm.errors import UserError
from medldm.randomness import keyed
from medldm.training.latents import Latents
from medldm.training.private import PatientLatents

GRID = (4, 4, 4)


def test_a_mixture_has_mean_and_covariance_of_its_parts():
    assert sum(WEIGHTS) == pytest.approx(1) and np.square(WEIGHTS).sum() == pytest.approx(1)
    draws = torch.randn(3, 20000, 1, 1, 1, generator=torch.Generator().manual_seed(0)) * 2 + 5
    latent, seen = mixed(list(draws), [torch.ones(1, 1, 1, 1)] * 3)
    assert float(latent.mean()) == pytest.approx(5, abs=0.05) and float(latent.std()) == pytest.approx(2, rel=0.02)
    assert seen.shape == (1, 1, 1, 1)


def test_a_mixture_is_seen_where_all_parts_are():
    valid = (torch.rand(3, 1, *GRID, generator=torch.Generator().manual_seed(1)) < 0.7).float()
    latent, seen = mixed([torch.ones(2, *GRID) * v for v in valid], list(valid))
    assert torch.equal(seen, valid.prod(0)) and torch.allclose(latent, seen.expand(2, -1, -1, -1))


def test_candidates_differ_and_mix_three_patients():
    patients = [f"p{i // 2}" for i in range(24)]
    found = Canaries(200).draw(patients, 3)
    assert found == Canaries(200).draw(patients, 3) != Canaries(200).draw(patients, 4)
    assert len({canary.parts for canary in found}) == 200
    assert all(len({patients[i] for i in canary.parts}) == 3 for canary in found)
    coins = np.array([canary.planted for seed in range(20) for canary in Canaries(200).draw(patients, seed)])
    assert abs(coins.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(coins))


@pytest.mark.parametrize(
    ("patients", "count", "said"), [("aabb", 1, "2 patients are too few"), ("abc", 4, "too few for 4 candidates"), ("abc", 0, "count=0")]
)
def test_impossible_plans_are_refused(patients, count, said):
    with pytest.raises(UserError, match=said):
        Canaries(count).draw(patients, 0)


def test_all_three_candidates_of_three_patients_are_found():
    assert {canary.parts for canary in Canaries(3).draw("abc", 0)} == {(0, 1, 2), (0, 2, 1), (1, 2, 0)}


def keyed_normal(shape, *key):
    return torch.randn(2, *shape, generator=keyed(*key))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Latents of five patients with two windows each, of which the first is the largest, and one of two cells less."""
    root = tmp_path_factory.mktemp("latents")
    cases = []
    for number in range(5):
        shape = GRID if number else (2, 4, 4)
        windows = {
            f"{kind}_{w}": torch.randn(2, *shape, generator=torch.Generator().manual_seed(10 * number + w)).abs()
            for w in (0, 1)
            for kind in ("mean", "std")
        }
        save_file(windows, root / f"{number}.safetensors")
        cases.append(Case(str(number), f"p{number}", "train", f"{number}.safetensors", shape=shape, spacing=(1.0,) * 3))
    return Cohort(root, tuple(cases), "latent")


def whiten(z):
    return 3 * z - 1


@pytest.mark.parametrize("draw", ["mean", "fixed", "fresh"])
def test_planted_cases_follow_the_others_and_cases_stay_as_they_are(cohort, draw):
    planted = [Canary((0, 2, 4), True), Canary((1, 2, 3), True)]
    codes = torch.arange(5.0)[:, None]
    plain, more = (Latents(cohort, codes, whiten, GRID, 7, 0, draw, extra) for extra in ((), planted))
    items = {more.case(0, slot): more[0, slot] for slot in range(7)}
    assert sorted(items) == list(range(7)), "each once before any comes again"
    if draw == "mean":
        for number, canary in enumerate(planted):
            latent, code, seen = items[5 + number]
            parts = [place(whiten(plain.latents[i][0][0]), GRID) for i in canary.parts]
            expected, valid = mixed([part[0] for part in parts], [part[1] for part in parts])
            assert torch.equal(latent, expected) and torch.equal(seen, valid) and code == codes[canary.parts[0]]
            assert torch.equal(seen, torch.stack([v for _, v in parts]).prod(0))
    again = Latents(cohort, codes, whiten, GRID, 7, 0, draw, planted)
    assert all(torch.equal(a, b) for slot in range(7) for a, b in zip(more[3, slot], again[3, slot], strict=True))


def test_draws_of_the_parts_are_independent(cohort):
    """With equal noise in all parts, a mixture would have 1 of it and not the root of the squares of deviations."""
    quiet = Latents(cohort, torch.zeros(5, 1), lambda z: z, GRID, 6, 0, "fresh", [Canary((1, 2, 3), True)])
    quiet.latents = [[(torch.zeros_like(mean), torch.ones_like(std)) for mean, std in windows] for windows in quiet.latents]
    slots = [(step, slot) for step in range(40) for slot in range(6) if quiet.case(step, slot) == 5]
    values = torch.stack([quiet[key][0] for key in slots])
    assert float(values.std()) == pytest.approx(1, rel=0.05)
    parts = torch.stack([torch.stack([quiet._placed(i, 0, (*key, i))[0] for key in slots]) for i in (1, 2)])
    assert abs(float(torch.corrcoef(parts.flatten(1))[0, 1])) < 0.1


def test_a_planted_case_is_a_patient_of_its_own_for_a_private_training(cohort):
    items = PatientLatents(cohort, torch.arange(5.0)[:, None], whiten, GRID, 2, 0, "mean", [Canary((0, 2, 4), True), Canary((1, 2, 3), True)])
    assert items.patients == [[0], [1], [2], [3], [4], [5], [6]]
    assert float(items[0, 6][1]) == 1 and items[0, 6][3] == 6


def test_every_order_of_a_pair_is_one_candidate():
    found = Canaries(30).draw("abcde", 0)
    assert {canary.parts for canary in found} == {(*sorted(pair), c) for *pair, c in itertools.permutations(range(5), 3)}
