import numpy as np
import pytest
import torch

from medldm.diffusion.population import LEVELS, Population


@pytest.fixture(scope="module")
def population():
    generator = np.random.default_rng(0)
    age = generator.uniform(20, 90, 400)
    rows = [
        {
            "age": a,
            "ventricles": 10 + a + generator.normal(0, 5),
            "sex": "F" if generator.random() < 0.25 else "M",
            "cells": float(generator.integers(8, 11)),
        }
        for a in age
    ]
    rows[3]["ventricles"] = None
    return Population.fit(rows, torch.Generator().manual_seed(0)), rows


def draws(population, count=800, **fixed):
    return [population.draw(torch.Generator().manual_seed(i), fixed) for i in range(count)]


def test_margins_and_correlation_are_those_of_the_cohort(population):
    model, rows = population
    drawn = draws(model)
    age, ventricles = (np.array([d[name] for d in drawn]) for name in ("age", "ventricles"))
    assert np.mean(age) == pytest.approx(55, abs=2.5)
    assert np.corrcoef(age, ventricles)[0, 1] == pytest.approx(0.97, abs=0.03)
    assert np.mean([d["sex"] == "F" for d in drawn]) == pytest.approx(np.mean([r["sex"] == "F" for r in rows]), abs=0.06)
    assert {d["cells"] for d in drawn} == {8.0, 9.0, 10.0}


def test_no_draw_leaves_the_middle_of_the_cohort(population):
    model, rows = population
    low, high = np.quantile([r["age"] for r in rows], [LEVELS[0], LEVELS[-1]])
    assert all(low <= d["age"] <= high for d in draws(model, 200))


def test_what_is_fixed_stays_and_draws_the_rest_with_it(population):
    model, _ = population
    drawn = draws(model, 200, age=80.0)
    assert {d["age"] for d in drawn} == {80.0}
    assert np.mean([d["ventricles"] for d in drawn]) == pytest.approx(90, abs=4)


def test_a_draw_depends_on_its_generator_alone(population):
    model, _ = population
    assert draws(model, 5) == draws(model, 5)


def test_fewer_patients_than_conditions_are_enough():
    rows = [{f"c{i}": float((p * 7 + i * p * p) % 5) for i in range(9)} | {"same": 4.0} for p in range(4)]
    model = Population.fit(rows, torch.Generator().manual_seed(0))
    assert all(d["same"] == 4.0 and d["c0"] in {r["c0"] for r in rows} for d in draws(model, 20))
    assert draws(model, 3, c1=2.0, same=4.0)[0]["c1"] == 2.0
