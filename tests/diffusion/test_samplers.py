"""Contracts of every sampler on every process, against the exact denoiser of a Gaussian."""

import math

import pytest
import torch

from medldm.diffusion.process import Cosine, Flow
from medldm.diffusion.samplers.dpmpp import DpmPlusPlus
from medldm.diffusion.samplers.euler import Euler
from medldm.diffusion.samplers.heun import Heun
from medldm.errors import UserError
from medldm.operators.base import column

MEAN, STD = 0.7, 0.4
SAMPLERS = {"euler": (Euler, 1), "heun": (Heun, 2), "dpmpp": (DpmPlusPlus, 2)}
PROCESSES = [Flow(), Cosine()]


def gaussian_denoiser(process, mean=MEAN, std=STD):
    """E[x_0 | x_t] for x_0 ~ N(mean, std^2), exact."""

    def denoise(x, t):
        s, n = column(process.signal(t), x), column(process.noise(t), x)
        return mean + s * std**2 / (s**2 * std**2 + n**2) * (x - s * mean)

    return denoise


def exact(noise):
    """The probability-flow ODE of a Gaussian carries quantiles to quantiles."""
    return MEAN + STD * noise


def error(sampler, process):
    noise = torch.linspace(-2, 2, 41, dtype=torch.float64).reshape(1, 1, 41, 1, 1)
    return float((sampler.sample(gaussian_denoiser(process), process, noise) - exact(noise)).abs().max())


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_gaussian_is_sampled_exactly_in_the_limit(name, process):
    assert error(SAMPLERS[name][0](400), process) < 6e-3


def error_inside(kind, steps, process):
    """Error between t = 0.9 and t = 0.1 on times that are even in log-SNR, where the order of every solver is defined."""
    ends = torch.tensor([0.9, 0.1], dtype=torch.float64)
    even = torch.linspace(*torch.log(process.signal(ends) / process.noise(ends)).tolist(), steps + 1, dtype=torch.float64)
    times = 1 / (1 + even.exp()) if isinstance(process, Flow) else torch.atan(torch.exp(-even)) * 2 / math.pi
    sampler = type("Inside", (kind,), {"times": lambda self: times})(steps)

    def state(noise, t):  # the quantile of x_t
        s, n = process.signal(t), process.noise(t)
        return s * MEAN + (s**2 * STD**2 + n**2) ** 0.5 * noise

    noise = torch.linspace(-2, 2, 41, dtype=torch.float64).reshape(1, 1, 41, 1, 1)
    reached = sampler.sample(gaussian_denoiser(process), process, state(noise, times[0]))
    return float((reached - state(noise, times[-1])).abs().max())


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_error_falls_with_the_order_of_the_solver(name, process):
    kind, order = SAMPLERS[name]
    measured = math.log2(error_inside(kind, 80, process) / error_inside(kind, 160, process))
    assert measured > order - 0.15, f"order {measured:.2f}"


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_do_not_depend_on_batch_or_order(name):
    sampler, process = SAMPLERS[name][0](7), Flow()
    noise = torch.randn(5, 2, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    denoise = gaussian_denoiser(process)
    together = sampler.sample(denoise, process, noise)
    alone = torch.cat([sampler.sample(denoise, process, one) for one in noise.flip(0).split(1)]).flip(0)
    assert torch.equal(together, alone)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_walk_has_one_state_a_step_and_ends_at_the_data(name):
    states = list(SAMPLERS[name][0](6).walk(lambda x, t: torch.full_like(x, 0.3), Flow(), torch.randn(1, 1, 2, 2, 2)))
    assert len(states) == 6
    assert torch.allclose(states[-1], torch.full_like(states[-1], 0.3), atol=1e-6)


def test_second_order_beats_first_at_equal_calls():
    assert error(DpmPlusPlus(20), Flow()) < 0.5 * error(Euler(20), Flow())
    assert error(Heun(10), Flow()) < 0.5 * error(Euler(20), Flow())


def test_no_steps_is_refused():
    with pytest.raises(UserError, match="steps=0"):
        Euler(0)
