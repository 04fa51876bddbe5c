"""Neighbourhoods of cases on a line, where everything can be counted."""

import numpy as np
import pytest

from medldm.metrics.manifold import authentic, neighbourhood


def line(*places):
    return np.array(places, dtype=np.float64)[:, None]


def alone(rows):
    """Each row a patient of its own."""
    return [f"p{n}" for n in range(len(rows))]


def around(generated, real, k=5):
    return neighbourhood(generated, real, alone(generated), alone(real), k)


def test_neighbourhoods_on_a_line_are_counted_by_hand():
    real, generated = line(0, 1, 2, 10), line(0.5, 2.5, 30, 31)
    found = around(generated, real, k=1)  # reaches: 1, 1, 1, 8 and 2, 2, 1, 1
    assert found.precise.tolist() == [1, 1, 0, 0]
    assert found.dense.tolist() == [2, 2, 0, 0]  # 0.5 is within reach of 0 and 1; 2.5 of 2 and of 10
    assert found.recalled.tolist() == [1, 1, 1, 0]
    assert found.covered.tolist() == [1, 1, 1, 1]


def test_equal_distributions_have_density_one_and_nearly_full_coverage():
    rng = np.random.default_rng(0)
    found = [around(rng.normal(size=(200, 4)), rng.normal(size=(200, 4))) for _ in range(10)]
    assert np.mean([f.dense.mean() for f in found]) == pytest.approx(1, abs=0.05)
    assert np.mean([f.covered.mean() for f in found]) == pytest.approx(1 - 0.5**5, abs=0.03)  # Naeem et al. 2020, equation 9


def test_a_collapsed_generator_is_precise_and_recalls_little():
    rng = np.random.default_rng(1)
    real = rng.normal(size=(100, 4))
    collapsed = rng.normal(size=(1, 4)) * 0.1 + 1e-3 * rng.normal(size=(100, 4))
    found = around(collapsed, real)
    assert found.precise.mean() == 1 and found.recalled.mean() < 0.05 and found.covered.mean() < 0.5


def test_a_case_nearer_to_a_training_case_than_its_neighbours_is_no_new_one():
    assert authentic(line(0.1, 0.9, 20, 1.4), line(0, 1, 5), alone(range(3))).tolist() == [0, 0, 1, 0]


def test_scans_of_one_patient_are_no_neighbours():
    """Six scans of each patient, nearly alike: the reach of a case is to other patients, as if there were one scan each."""
    rng = np.random.default_rng(2)
    people, made = rng.normal(size=(40, 4)), rng.normal(size=(60, 4))
    scans = np.repeat(people, 6, axis=0) + 1e-4 * rng.normal(size=(240, 4))
    owners = [f"p{n // 6}" for n in range(240)]
    found, single = neighbourhood(made, scans, alone(made), owners, k=6), around(made, people, k=1)
    assert found.precise.tolist() == single.precise.tolist()
    assert authentic(made, scans, owners).tolist() == authentic(made, people, alone(people)).tolist()
