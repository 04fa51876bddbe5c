"""The denoiser against networks whose right answer is known."""

import pytest
import torch

from medldm.diffusion.conditions.category import Category
from medldm.diffusion.conditions.scalar import Scalar
from medldm.diffusion.denoiser import PREDICTIONS, Denoiser, loss_floor
from medldm.diffusion.process import Cosine, Flow
from medldm.errors import UserError
from medldm.models.nets import DenoisingNet, UNet
from medldm.operators.base import column
from medldm.run import build, describe


class Oracle(DenoisingNet):
    """Answers with the exact target for known data and noise."""

    multiple = 1

    def __init__(self, answer):
        super().__init__(2, 8)
        self.answer = answer

    def forward(self, x, t, vector):
        return self.answer(x, t, vector)


def target(predicts, process, x_0, e, t):
    s, n = column(process.signal(t), x_0), column(process.noise(t), x_0)
    return {"data": x_0, "noise": e}.get(predicts, (s**2 + n**2).rsqrt() * (s * e - n * x_0))


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 2, 4, 4, 4, generator=generator)


@pytest.mark.parametrize("process", [Flow(), Cosine()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_the_right_prediction_gives_the_clean_latent_and_no_error(predicts, process, pair):
    x_0, e = pair
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    denoiser = Denoiser(Oracle(lambda x, t_, v: target(predicts, process, x_0, e, t)), process, {}, predicts)
    context = denoiser.context(torch.zeros(3, 0))
    assert torch.allclose(denoiser(process.mix(x_0, e, t), t, context), x_0, atol=1e-5)
    assert torch.allclose(denoiser.error(x_0, e, t, context), torch.zeros(3), atol=1e-10)


def test_the_flow_loss_is_the_error_of_the_velocity(pair):
    x_0, e = pair
    t = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    denoiser = Denoiser(Oracle(lambda x, t_, v: torch.zeros_like(x[:, :2])), Flow(), {})
    context = denoiser.context(torch.zeros(3, 0))
    x_t = Flow().mix(x_0, e, t)
    velocity = (x_t - denoiser(x_t, t, context)) / column(t, x_t)
    assert torch.allclose(denoiser.error(x_0, e, t, context), ((velocity - (e - x_0)) ** 2).mean((1, 2, 3, 4)), rtol=1e-4)


def test_a_zero_network_answers_for_white_gaussian_data(pair):
    """With F = 0 the estimate is s k^2 x_t, the posterior mean for N(0, 1)."""
    x, _ = pair
    t = torch.full((3,), 0.3, dtype=torch.float64)
    denoiser = Denoiser(Oracle(lambda x, t_, v: torch.zeros_like(x[:, :2])), Flow(), {})
    assert torch.allclose(denoiser(x, t, denoiser.context(torch.zeros(3, 0))), 0.7 / (0.49 + 0.09) * x, atol=1e-6)


def test_cells_outside_the_field_of_view_change_nothing(pair):
    x_0, e = pair
    denoiser = Denoiser(UNet(2, (16, 16), width=8), Flow(), {}).eval()
    torch.nn.init.normal_(denoiser.net.net.out[2].conv.weight)
    valid = torch.zeros(3, 1, 4, 4, 4)
    valid[..., 1:3, :, :] = 1
    t = torch.full((3,), 0.5, dtype=torch.float64)
    context = denoiser.context(torch.zeros(3, 0), valid)
    other = torch.where(valid > 0, x_0, 7.0)
    with torch.no_grad():
        assert torch.equal(denoiser.error(x_0, e, t, context), denoiser.error(other, e, t, context))
        assert not torch.allclose(denoiser.error(x_0, e, t, context), denoiser.error(x_0, e, t, denoiser.context(torch.zeros(3, 0))))


def conditioned():
    conditions = {"age": Scalar(8, 50.0, 10.0), "sex": Category(8, ["F", "M"])}
    return Denoiser(UNet(2, (16, 16), width=8), Flow(), conditions)


def test_guidance_is_linear_between_with_and_without_conditions(pair):
    x, _ = pair
    denoiser = conditioned().eval()
    for parameter in denoiser.net.parameters():
        if not parameter.any():  # the zero-initialised ends would hide any dependence
            torch.nn.init.normal_(parameter, std=0.1)
    t = torch.full((3,), 0.5, dtype=torch.float64)
    codes = torch.stack([denoiser.encode({"age": 70.0, "sex": "M"})] * 3)
    with torch.no_grad():
        at = {w: denoiser.bind(denoiser.context(codes), w)(x, t) for w in (0.0, 1.0, 2.0)}
        nothing = denoiser(x, t, denoiser.context(torch.full((3, 2), torch.nan)))
    assert torch.allclose(at[0.0], nothing, atol=1e-5)
    assert torch.allclose(at[2.0], 2 * at[1.0] - at[0.0], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(at[1.0], at[0.0], rtol=0, atol=1e-4)


def test_a_missing_value_has_a_learned_vector_of_its_own():
    denoiser = conditioned()
    vectors = denoiser.context(torch.stack([denoiser.encode(c) for c in ({}, {"age": 50.0}, {"age": 50.0, "sex": "F"})])).vector
    assert torch.allclose(vectors[0], denoiser.conditions["age"].missing + denoiser.conditions["sex"].missing)
    assert not torch.allclose(vectors[1], vectors[2])
    vectors.sum().backward()
    assert denoiser.conditions["age"].missing.grad.abs().sum() > 0


@pytest.mark.parametrize("values", [{"weight": 3.0}, {"sex": "X"}, {"age": "old"}])
def test_unknown_conditions_and_values_are_refused(values):
    with pytest.raises(UserError, match=next(iter(values))):
        conditioned().encode(values)


def test_an_unknown_prediction_is_refused():
    with pytest.raises(UserError, match="epsilon"):
        Denoiser(UNet(2, (16, 16)), Flow(), {}, "epsilon")


def test_a_denoiser_is_rebuilt_from_its_description():
    original = conditioned()
    copy = build(describe(original))
    copy.load_state_dict(original.state_dict())
    assert describe(copy) == describe(original)
    assert all(torch.equal(a, b) for a, b in zip(original.parameters(), copy.parameters(), strict=True))


def test_the_loss_is_decided_by_its_generator(pair):
    x_0, _ = pair
    denoiser = conditioned()
    codes = torch.zeros(3, 2)
    losses = [denoiser.loss(x_0, codes, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(losses[0], losses[1]) and not torch.equal(losses[0], losses[2])


@pytest.mark.parametrize("process", [Flow(), Cosine()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("predicts", PREDICTIONS)
def test_the_loss_floor_is_the_loss_of_one_who_knows_all_but_the_noise(predicts, process):
    """Latents m + noise with known m: the best estimate of all is measured and compared with the formula."""
    variance, generator = torch.tensor([0.05, 0.4]), torch.Generator().manual_seed(1)
    mean = torch.randn(1, 2, 4, 4, 4, generator=generator)
    known = column(variance, mean.movedim(1, 0)).movedim(0, 1)

    def answer(x, t, vector):
        s, n = column(process.signal(t), x), column(process.noise(t), x)
        x_t = x[:, :2] * (s**2 + n**2).sqrt()
        x_0 = mean + s * known / (s**2 * known + n**2) * (x_t - s * mean)
        e = (x_t - s * x_0) / n
        return {"data": x_0, "noise": e}.get(predicts, (s**2 + n**2).rsqrt() * (s * e - n * x_0)).float()

    denoiser = Denoiser(Oracle(answer), process, {}, predicts)
    x_0 = mean + known.sqrt() * torch.randn(40_000, 2, 4, 4, 4, generator=generator)
    measured = denoiser.loss(x_0, torch.zeros(len(x_0), 0), generator).mean()
    assert float(measured) == pytest.approx(loss_floor(variance, process, predicts), rel=0.02)
    assert loss_floor(torch.zeros(2), process, predicts) == 0
