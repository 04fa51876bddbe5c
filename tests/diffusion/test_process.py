import pytest
import torch

from medldm.diffusion.process import Cosine, Flow

PROCESSES = [Flow(), Cosine()]
TIMES = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_a_path_starts_at_the_data_and_ends_at_noise(process):
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert torch.allclose(process.signal(ends), ends.flip(0), atol=1e-12)
    assert torch.allclose(process.noise(ends), ends, atol=1e-12)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_rates_are_the_derivatives(process):
    h = 1e-6
    for function, rate in zip((process.signal, process.noise), process.rates(TIMES), strict=True):
        assert torch.allclose(rate, (function(TIMES + h) - function(TIMES - h)) / (2 * h), atol=1e-8)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_moving_with_the_true_data_stays_on_the_path(process):
    x_0, e = torch.randn(2, 1, 1, 2, 2, 2, dtype=torch.float64)
    t, to = torch.tensor([0.8, 0.3], dtype=torch.float64)
    moved = process.move(process.mix(x_0, e, t[None]), x_0, t, to)
    assert torch.allclose(moved, process.mix(x_0, e, to[None]), atol=1e-12)


def test_the_cosine_path_keeps_the_variance():
    process = Cosine()
    assert torch.allclose(process.signal(TIMES) ** 2 + process.noise(TIMES) ** 2, torch.ones_like(TIMES))
