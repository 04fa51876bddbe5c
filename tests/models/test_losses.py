import math

import pytest
import torch

from medldm.errors import UserError
from medldm.models.losses import AutoencoderLoss, gradient_l1, kl_from_normal, one_minus_ssim, pressed, soft_dice, spectral_l1


def test_kl_is_that_of_torch():
    mean, std = torch.randn(50), torch.rand(50) + 0.1
    normal = torch.distributions.Normal
    assert torch.allclose(kl_from_normal(mean, std), torch.distributions.kl_divergence(normal(mean, std), normal(0, 1)), atol=1e-5)


def test_a_ramp_against_nothing_has_its_slope_as_gradient_error():
    ramp = torch.arange(5.0).reshape(1, 1, 5, 1, 1).expand(1, 1, 5, 5, 5)
    assert gradient_l1(ramp, torch.zeros_like(ramp)).item() == pytest.approx(1 / 3)
    assert gradient_l1(ramp + 3, ramp).item() == pytest.approx(0)


def test_dice_of_a_known_overlap():
    label = torch.zeros(1, 1, 4, 4, 4)
    label[:, :, :2] = 1  # 32 voxels
    predicted = torch.zeros(1, 2, 4, 4, 4)
    predicted[:, 1] = -50.0
    predicted[:, 1, 1:3] = 50.0  # 32 voxels, 16 of them right
    assert soft_dice(predicted, label, smooth=0.0).item() == pytest.approx(0.5)


def test_a_perfect_reconstruction_costs_nothing():
    label = torch.randint(0, 3, (2, 1, 8, 8, 8)).float()
    image = torch.rand(2, 1, 8, 8, 8)
    logits = 200.0 * torch.nn.functional.one_hot(label[:, 0].long(), 3).movedim(-1, 1)
    terms = AutoencoderLoss()(torch.cat([image, logits], 1), image, label, torch.zeros(2, 4, 2, 2, 2), torch.ones(2, 4, 2, 2, 2))
    assert sum(terms.values()).item() == pytest.approx(0, abs=1e-4)
    assert set(terms) == {"image", "gradient", "kl", "cross_entropy", "dice"}


def test_an_uninformed_prediction_costs_the_entropy():
    label = torch.zeros(1, 1, 8, 8, 8)
    terms = AutoencoderLoss()(torch.zeros(1, 4, 8, 8, 8), torch.zeros(1, 1, 8, 8, 8), label, torch.zeros(1), torch.ones(1))
    assert terms["cross_entropy"].item() == pytest.approx(0.5 * math.log(3))


def test_spectral_distance_is_blind_to_place_and_sees_blur():
    x = torch.randn(1, 1, 8, 6, 10, generator=torch.Generator().manual_seed(0))
    assert spectral_l1(x.roll((3, 2, 5), (2, 3, 4)), x) < 1e-5
    assert spectral_l1(2 * x, x).item() == pytest.approx(torch.fft.rfftn(x, dim=(2, 3, 4), norm="ortho").abs().mean().item(), rel=1e-5)
    smooth = torch.nn.functional.avg_pool3d(x, 3, 1, 1)
    assert spectral_l1(smooth, x) > 0.3


def test_ssim_is_that_of_an_independent_implementation():
    from skimage.metrics import structural_similarity

    x = torch.rand(1, 1, 20, 18, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    y = (0.8 * x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(-1, 1)
    assert one_minus_ssim(x, x).item() == pytest.approx(0, abs=1e-6)
    full = structural_similarity(
        x[0, 0].double().numpy(), y[0, 0].double().numpy(), data_range=2.0, win_size=7, use_sample_covariance=False, full=True
    )
    assert one_minus_ssim(x, y).item() == pytest.approx(1 - full[1][3:-3, 3:-3, 3:-3].mean(), abs=1e-5)


def test_free_bits_leave_weak_channels_alone_and_press_the_others():
    mean = torch.stack([torch.full((2, 4, 4, 4), 0.1), torch.full((2, 4, 4, 4), 2.0)], dim=1).requires_grad_()
    std = torch.ones_like(mean)
    free = pressed(kl_from_normal(mean, std), 0.5)
    assert free.item() == pytest.approx((0.5 + 2.0) / 2)  # KL of means 0.1 and 2: 0.005, which counts as 0.5, and 2
    (gradient,) = torch.autograd.grad(free, mean)
    assert (gradient[:, 0] == 0).all() and (gradient[:, 1] > 0).all()
    assert pressed(kl_from_normal(mean, std), 0.0).item() == pytest.approx((0.005 + 2.0) / 2)


def test_the_divergence_warms_up_and_further_terms_come_only_when_asked_for():
    image, mean, std = torch.rand(1, 1, 8, 8, 8), torch.ones(1, 2, 2, 2, 2), torch.ones(1, 2, 2, 2, 2)
    loss = AutoencoderLoss(kl=1.0, kl_warm_up=10, squared=2.0, spectral=1.0, ssim=1.0)
    kl = [loss(image + 0.1, image, None, mean, std, step)["kl"].item() for step in (0, 5, 10, 50)]
    assert kl == pytest.approx([0, 0.25, 0.5, 0.5]) and loss(image, image, None, mean, std)["kl"].item() == pytest.approx(0.5)
    terms = loss(image + 0.1, image, None, mean, std)
    assert set(terms) == {"image", "gradient", "kl", "squared", "spectral", "ssim"} and terms["squared"].item() == pytest.approx(0.02, rel=1e-4)
    with pytest.raises(UserError, match=r"loss\.kl is -1"):
        AutoencoderLoss(kl=-1)


def test_quantised_latents_are_held_to_their_codes_in_place_of_a_divergence():
    image, mean = torch.zeros(1, 1, 8, 8, 8), torch.full((1, 2, 4, 4, 4), 3.0, requires_grad=True)
    codes = torch.full_like(mean, 1.0).requires_grad_()
    terms = AutoencoderLoss(commitment=0.5)(image, image, None, mean, torch.zeros_like(mean), quantised=codes)
    assert "kl" not in terms and terms["commitment"].item() == pytest.approx(0.5 * 4)
    terms["commitment"].backward()
    assert codes.grad is None and torch.allclose(mean.grad, torch.full_like(mean, 0.5 * 2 * 2 / mean.numel()))
