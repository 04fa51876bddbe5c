"""Calibrated fusion of estimates whose errors are known: better than each, consistent with the measurements, and honest about its error."""

from dataclasses import replace

import pytest
import torch

from medldm.diffusion.posteriors.refine import residual_ratio
from medldm.diffusion.reconstruction import Calibration, Measurement
from medldm.diffusion.restoration import Restoration, Restored, diverged
from medldm.errors import UserError
from medldm.models.restorer import Restorer
from medldm.operators.acquisitions import AcceleratedMRI
from medldm.operators.anatomy import Anatomy
from medldm.operators.classical import Tikhonov
from medldm.operators.masks import VariableDensity
from medldm.randomness import keyed, seeded

SHAPE, SPACING = (18, 20, 16), (1.0, 1.0, 1.0)
MRI = AcceleratedMRI(0.02, VariableDensity(3, 4, hermitian=True))


def smooth(*key):
    axes = [torch.fft.fftfreq(n) for n in SHAPE]
    squares = axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2
    white = torch.fft.fftn(torch.randn(SHAPE, generator=keyed(*key)))
    return (0.1 * torch.fft.ifftn(white * (0.02 / (0.01 + squares)).sqrt()).real)[None]


def measured(number):
    truth = smooth("truth", number)
    operator = MRI.operator(SHAPE, SPACING, number)
    return truth, Measurement(operator, MRI.simulate(operator, truth[None], number), MRI.noise, MRI.measured(operator))


def case(number):
    truth, of = measured(number)
    noise = {name: 0.06 * torch.randn(truth.shape, generator=keyed(number, name)) for name in ("one", "two")}
    return truth, of, {name: truth + error for name, error in noise.items()}


def restoration():
    with seeded(0, "restorer"):
        return Restoration(Restorer(1, residual=0.2, width=8, blocks=1), SHAPE, SPACING).eval()


@pytest.fixture(scope="module")
def calibration():
    return Calibration.fit([case(number) for number in range(8)], restoration(), ["one", "two"])


def test_the_result_is_better_than_each_estimate_and_agrees_with_the_measurements(calibration):
    for number in range(20, 24):
        truth, of, estimates = case(number)
        image, std = calibration(of, estimates)
        error = (image - truth).square().mean()
        assert error < 0.5 * min((estimate - truth).square().mean() for estimate in estimates.values())
        assert 0.7 < float(residual_ratio(of.operator, of.y, image[None], of.noise)) < 1.1
        assert 0.8 < float(((image - truth).abs() < 1.645 * std).float().mean()) < 0.97


def test_measurements_that_cannot_be_are_refused():
    _, of = measured(0)
    y, whole = of.y.clone(), of.operator.outer
    y[0, 0, 9, 10, 8] = float("nan")
    for change, message in (
        ({"y": y}, "1 of 5760 measured numbers are not finite"),
        ({"noise": -0.1}, "at least 0"),
        ({"noise": float("nan")}, "at least 0"),
        ({"operator": whole}, "complex image"),
        ({"y": of.y[..., :-1]}, "whose measurements have shape"),
    ):
        with pytest.raises(UserError, match=message):
            replace(of, **change)


def test_draws_are_as_far_from_the_result_as_the_truth(calibration):
    truth, of, estimates = case(30)
    image, std = calibration(of, estimates)
    draws = torch.stack([calibration.draw(image, std, keyed("draw", n)) for n in range(8)])
    ratio = (draws - image).square().mean() / (truth - image).square().mean()
    assert 0.6 < float(ratio) < 1.7
    assert torch.equal(draws[0], calibration.draw(image, std, keyed("draw", 0)))


def test_one_case_calibrates_too():
    assert Calibration.fit([case(0)], restoration(), ["one"])(case(1)[1], case(1)[2])[0].shape == (1, *SHAPE)


def test_an_untrained_restorer_solves_the_ridge_around_the_mean():
    """Its estimate m + r^2 / (r^2 + l^2) (v - m) is the proximal step of l^2 / r^2 |x - m|^2 / 2, so the turns end at a known minimum."""
    untrained = restoration()
    untrained.learn(Anatomy.of([smooth("train", n) for n in range(6)], SHAPE))
    _, of = measured(50)
    mean = untrained.mean[None]
    for level, penalty in ((0.1, 0.2), (0.4, 0.05)):
        found = Restored(untrained, of.noise, level, penalty, 60)(of.operator, of.y)
        ridge = mean + Tikhonov(penalty * level**2 / 0.2**2, 200)(of.operator, of.y - of.operator(mean))
        assert float((found - ridge).norm() / (ridge - mean).norm()) < 0.02


class Exploding(Restoration):
    """A restorer that goes wrong at its third call."""

    def __init__(self, factor):
        super().__init__(restoration().restorer, SHAPE, SPACING)
        self.factor, self.calls = factor, 0

    def bind(self, guide):
        def restore(x, level):
            self.calls += 1
            return 0.5 * x if self.calls < 3 else self.factor * x

        return restore


@pytest.mark.parametrize("factor", [1e6, float("nan")])
def test_turns_that_lead_away_end_with_the_last_good_image(factor):
    _, of = measured(51)
    image, trace = Restored(Exploding(factor), of.noise, 0.3, 0.05, 12).traced(of.operator, of.y)
    good, _ = Restored(Exploding(0.5), of.noise, 0.3, 0.05, 3).traced(of.operator, of.y)
    assert len(trace) == 4 and diverged(trace) and not diverged(trace[:3])
    assert torch.equal(image, good) and image.isfinite().all()


def test_residuals_that_grow_up_to_the_noise_lead_nowhere_else():
    assert (
        not diverged([0.08, 0.58, 0.9])
        and not diverged([0.5, 2.9])
        and diverged([0.5, 3.1])
        and not diverged([40.0, 100.0])
        and diverged([40.0, 130.0])
    )
