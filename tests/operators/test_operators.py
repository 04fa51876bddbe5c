"""What every operator promises: an exact adjoint, linearity, gradients, independence of the batch; and what single ones measure."""

import importlib.util
import math

import numpy as np
import pytest
import torch

from medldm.errors import UserError
from medldm.operators.base import Stacked, conjugate_gradients, dot_error, inner
from medldm.operators.cone import ConeCT
from medldm.operators.ct import FanCT, ParallelCT
from medldm.operators.deepinv import FromPhysics
from medldm.operators.masks import Equispaced, PoissonDisc, Uniform, VariableDensity
from medldm.operators.mri import CartesianMRI, Phase, coil_maps, image_space, kspace, smooth_phase
from medldm.operators.noncartesian import NonCartesianMRI, stack_of_stars
from medldm.operators.separable import Separable, blur, larger_voxels, slice_matrix, thick_slices
from medldm.operators.voxelwise import Identity, Inpainting, Scale, Weight
from medldm.randomness import keyed

SHAPE = (9, 12, 7)
MASK = VariableDensity(acceleration=2.5, calibration=3)(SHAPE, keyed("mask"))


def complex_noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.complex128, generator=keyed("noise", seed))


COILS = complex_noise(4, *SHAPE)
ANGLES = torch.arange(11) * math.pi / 11 + 0.05
MRI = CartesianMRI(MASK, COILS)
OPERATORS = {
    "fourier": CartesianMRI(MASK),
    "coils": MRI,
    "real image with a phase": MRI @ Phase(torch.randn(SHAPE, generator=keyed("phase"))),
    "ct": ParallelCT(SHAPE, ANGLES),
    "ct with long voxels": ParallelCT(SHAPE, ANGLES, (0.7, 1.9), bins=14, bin_width=1.3),
    "fan beam": FanCT(SHAPE, ANGLES, 20.0, 31.0, (0.7, 1.9)),
    "thick slices": thick_slices(SHAPE, 1, 4.0),
    "gapped slices": thick_slices(SHAPE, 2, 2.5, 1.6, "gauss"),
    "larger voxels": larger_voxels(SHAPE, (2, 3, 1)),
    "blur": blur(SHAPE, (0.8, 1.3, 0.0)),
    "missing": Inpainting(MASK),
    "identity": Identity(),
    "scaled ct of a blur": ParallelCT(SHAPE, ANGLES) @ Scale(0.02) @ blur(SHAPE, (1, 1, 1)),
    "weighted": Weight(torch.rand(SHAPE, generator=keyed("weight"))) @ blur(SHAPE, (1, 1, 1)),
    "two stacks of slices": Stacked([thick_slices(SHAPE, 0, 3), thick_slices(SHAPE, 1, 4)], [(1, 3, 12, 7), (1, 9, 3, 7)]),
}
COMPLEX = ["fourier", "coils"]


class HalfOfIt:
    """A physics as DeepInverse has them."""

    def A(self, x):
        return x[:, :, ::2] * 0.5

    def A_adjoint(self, y):
        x = y.new_zeros(*y.shape[:2], SHAPE[0], *y.shape[3:])
        x[:, :, ::2] = y * 0.5
        return x


OPERATORS["physics"] = FromPhysics(HalfOfIt())
if importlib.util.find_spec("torchkbnufft"):
    OPERATORS["stack of stars"] = NonCartesianMRI(SHAPE, stack_of_stars(SHAPE, 5), COILS)
    COMPLEX.append("stack of stars")
if importlib.util.find_spec("itk"):
    OPERATORS["cone beam"] = ConeCT(SHAPE, ANGLES, 20.0, 31.0, (0.7, 1.9, 1.2), 15, 13, (2.1, 1.7))


def images(name, count, dtype=torch.float64, seed=1):
    x = complex_noise(count, 1, *SHAPE, seed=seed)
    return x.to(torch.complex64 if dtype == torch.float32 else torch.complex128) if name in COMPLEX else x.real.to(dtype)


def measurements(name, count, dtype=torch.float64, seed=2):
    like = OPERATORS[name](images(name, count, dtype))
    y = complex_noise(*like.shape, seed=seed)
    return (y if like.is_complex() else y.real).to(like.dtype)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_the_adjoint_is_exact(name, dtype, limit):
    x = images(name, 3, dtype)
    assert OPERATORS[name](x).real.dtype == dtype and OPERATORS[name].adjoint(OPERATORS[name](x)).dtype == x.dtype
    assert dot_error(OPERATORS[name], x, measurements(name, 3, dtype)) <= limit


@pytest.mark.parametrize("name", OPERATORS)
def test_it_is_linear_and_treats_each_image_of_a_batch_alone(name):
    operator, a, b = OPERATORS[name], images(name, 2), images(name, 2, seed=5)
    assert torch.allclose(operator(2.5 * a - b), 2.5 * operator(a) - operator(b), atol=1e-12)
    assert torch.allclose(operator(a)[1:], operator(a[1:]), atol=1e-12)
    assert torch.allclose(operator.normal(a), operator.adjoint(operator(a)))


@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_are_those_of_the_adjoint_forwards_and_backwards(name):
    operator, x, y = OPERATORS[name], images(name, 2), measurements(name, 2)
    _, pull = torch.func.vjp(operator, x)
    assert torch.allclose(pull(y)[0], operator.adjoint(y), atol=1e-10)
    found, moved = torch.func.jvp(operator, (x,), (images(name, 2, seed=9),))
    assert torch.allclose(moved, operator(images(name, 2, seed=9)), atol=1e-10) and torch.allclose(found, operator(x))


@pytest.mark.parametrize("name", ["real image with a phase", "thick slices", "ct", "missing"])
def test_the_pseudo_inverse_explains_what_was_measured_and_has_least_norm(name):
    operator, truth = OPERATORS[name], images(name, 2)
    y = operator(truth)
    found = operator.pseudo_inverse(y, 400, 1e-12)
    assert float((operator(found) - y).norm() / y.norm()) < 1e-5
    assert (inner(found, found) <= inner(truth, truth) * (1 + 1e-6)).all()


def test_conjugate_gradients_solve_each_member_of_a_batch():
    matrix = torch.randn(3, 6, 6, dtype=torch.float64, generator=keyed("m"))
    matrix = matrix @ matrix.mT + 0.1 * torch.eye(6)
    right = torch.randn(3, 6, dtype=torch.float64, generator=keyed("b"))
    right[1] = 0  # solved from the beginning
    found = conjugate_gradients(lambda x: torch.einsum("bij,bj->bi", matrix, x), right, 40, 1e-12)
    assert torch.allclose(found, torch.linalg.solve(matrix, right), atol=1e-8) and not found[1].any()
    again = conjugate_gradients(lambda x: torch.einsum("bij,bj->bi", matrix, x), right, 0, start=found)
    assert torch.equal(again, found)


def test_kspace_is_orthonormal_and_centred():
    x = complex_noise(1, 1, *SHAPE)
    assert torch.allclose(image_space(kspace(x)), x) and torch.allclose(kspace(x).norm(), x.norm())
    constant = kspace(torch.ones(1, 1, *SHAPE, dtype=torch.float64))
    assert constant[0, 0, 4, 6, 3].real == pytest.approx(math.sqrt(math.prod(SHAPE))) and constant.abs().gt(1e-9).sum() == 1
    impulse = torch.zeros(SHAPE, dtype=torch.float64)
    impulse[4, 6, 3] = 1
    assert torch.allclose(kspace(impulse).imag, torch.zeros(SHAPE, dtype=torch.float64), atol=1e-12)


def test_coil_maps_are_found_again():
    """Smooth sensitivities of a smooth object, up to one phase for all coils."""
    shape = (24, 20, 16)
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape], indexing="ij"))
    places = torch.tensor([[1.5, 0, 0], [-1.5, 0, 0], [0, 1.5, 0], [0, -1.5, 0.5]], dtype=torch.float64)
    size = torch.stack([torch.exp(-(grid - p[:, None, None, None]).square().sum(0) / 4) for p in places])
    maps = torch.polar(size, torch.stack([0.6 * n * grid[n % 3] for n in range(4)]))
    maps = maps / maps.abs().square().sum(0).sqrt()
    image = torch.exp(-grid.square().sum(0)) + 0.5
    found = coil_maps(kspace(maps * image)[None], (24, 12, 10))
    assert CartesianMRI(torch.ones(shape, dtype=torch.bool), found).normalised and not MRI.normalised
    agreement = (found.conj() * maps).sum(0).abs()  # 1 where the maps agree up to a phase
    middle = tuple(slice(n // 5, -(n // 5)) for n in shape)
    assert float(agreement[middle].min()) > 0.995
    with pytest.raises(UserError, match="does not fit"):
        coil_maps(kspace(maps * image)[None], (25, 12, 10))


def test_a_smooth_phase_is_found_again():
    shape = (20, 18, 16)
    grid = torch.meshgrid(*[torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape], indexing="ij")
    phase, image = 0.8 * grid[0] - 0.5 * grid[1] * grid[2], 1 + 0.2 * torch.rand(shape, dtype=torch.float64, generator=keyed("i"))
    operator = CartesianMRI(torch.ones(shape, dtype=torch.bool))
    found = smooth_phase(operator(torch.polar(image, phase)[None, None]), operator)
    middle = tuple(slice(3, -3) for _ in shape)
    assert float((found - phase)[middle].abs().max()) < 0.1


MASKS = [VariableDensity, Uniform, PoissonDisc, Equispaced]


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("hermitian", [False, True])
@pytest.mark.parametrize("shape", [(8, 48, 40), (5, 31, 45)])
def test_masks_have_their_acceleration_their_centre_and_their_symmetry(kind, hermitian, shape):
    mask = kind(acceleration=4, calibration=6, hermitian=hermitian)(shape, keyed("m", 1))
    tolerance = 0.2 if kind is Equispaced else 0.05
    assert mask.shape == shape and math.prod(shape) / int(mask.sum()) == pytest.approx(4, rel=tolerance)
    assert (mask == mask[:1]).all(), "the first axis is read out whole"
    j, k = shape[1] // 2, shape[2] // 2
    assert mask[0, j - 3 : j + 3, k - 3 : k + 3].all()
    assert torch.equal(mask, kind(acceleration=4, calibration=6, hermitian=hermitian)(shape, keyed("m", 1)))
    if hermitian:
        where = torch.fft.ifftshift(mask)
        back = torch.fft.ifftn(where.to(torch.complex128))
        assert float(back.imag.abs().max()) < 1e-12, "a symmetric mask has a real point spread"


def test_density_falls_from_the_centre_and_discs_keep_their_distance():
    shape = (1, 64, 64)
    mask = VariableDensity(acceleration=5, calibration=0)(shape, keyed("v"))[0].float()
    assert mask[24:40, 24:40].mean() > 3 * mask[:16].mean() > 0
    points = PoissonDisc(acceleration=6, calibration=0, slope=1.0)(shape, keyed("p"))[0].nonzero().double()
    distances = torch.cdist(points, points) + 1e9 * torch.eye(len(points))
    assert float(distances.min()) > 1.9
    lines = Equispaced(acceleration=4, calibration=0, axes=(1,))((4, 40, 6), keyed("e"))
    assert lines[0, :, 0].nonzero().diff(dim=0).unique().tolist() == [4] and (lines == lines[:, :, :1]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VariableDensity(acceleration=0.5), "acceleration"),
        (lambda: VariableDensity(axes=(0, 1, 2)), "axes"),
        (lambda: VariableDensity(acceleration=8, calibration=8)((4, 10, 10), keyed(0)), "leaves 12"),
        (lambda: CartesianMRI(torch.zeros(SHAPE, dtype=torch.bool)), "no point"),
        (lambda: CartesianMRI(torch.ones(SHAPE)), "True or False"),
        (lambda: CartesianMRI(MASK, COILS[:, 1:]), "do not fit"),
        (lambda: CartesianMRI(MASK, COILS * float("nan")), "nan"),
        (lambda: Inpainting(torch.zeros(SHAPE, dtype=torch.bool)), "at one at least"),
        (lambda: ParallelCT(SHAPE, torch.arange(0, 180, 3.0)), "radians"),
        (lambda: ParallelCT(SHAPE, ANGLES, (0.0, 1.0)), "positive"),
        (lambda: FanCT(SHAPE, ANGLES, 5.0, 31.0), "diagonal"),
        (lambda: FanCT(SHAPE, ANGLES, 20.0, 19.0), "diagonal"),
        (lambda: FromPhysics(object()), "A_adjoint"),
        (lambda: ParallelCT(SHAPE, ANGLES)(torch.zeros(1, 1, 9, 9, 7)), "whose images have shape"),
        (lambda: ParallelCT(SHAPE, ANGLES, (1.0, float("nan"))), "positive and finite"),
        (lambda: ParallelCT(SHAPE, ANGLES).adjoint(ParallelCT(SHAPE, ANGLES)(torch.zeros(1, 1, *SHAPE)).mT), "whose measurements have shape"),
        (lambda: CartesianMRI(MASK, COILS).adjoint(torch.zeros(1, 1, *SHAPE, dtype=torch.complex64)), "whose measurements have shape"),
        (lambda: CartesianMRI(MASK)(torch.zeros(1, 1, *SHAPE[:2], 1, dtype=torch.complex64)), "whose images have shape"),
        (lambda: CartesianMRI(MASK)(torch.zeros(1, 2, *SHAPE, dtype=torch.complex64)), "whose images have shape"),
        (lambda: Inpainting(MASK)(torch.zeros(1, 1, *SHAPE[:2], 1)), "whose images have shape"),
        (lambda: Stacked([Identity(), CartesianMRI(MASK) @ Phase()], [(1, *SHAPE)] * 2)(torch.zeros(1, 1, *SHAPE)), "complex and others are real"),
        (lambda: blur(SHAPE, (1.0, -1.0, 0.0)), "at least 0"),
        (lambda: blur(SHAPE, (1.0, float("nan"), 0.0)), "at least 0"),
        (lambda: thick_slices(SHAPE, 0, 3, thickness=0.0), "thickness=0.0 positive"),
        (lambda: VariableDensity(power=-1.0), "power"),
        (lambda: PoissonDisc(slope=-3.0), "slope"),
        (lambda: thick_slices(SHAPE, 0, 12), "do not fit"),
        (lambda: thick_slices(SHAPE, 5, 3), "axis=5"),
        (lambda: thick_slices(SHAPE, 0, 3, profile="sinc"), "box or gauss"),
        (lambda: thick_slices(SHAPE, 0, 3)(torch.zeros(1, 1, 8, 12, 7)), "takes 9"),
    ],
)
def test_what_cannot_be_measured_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_slices_are_means_over_their_profile():
    assert torch.equal(slice_matrix(6, 2, 2, "box"), torch.kron(torch.eye(3), torch.full((1, 2), 0.5)).double())
    overlapping = slice_matrix(7, 2, 4, "box")
    assert overlapping.shape == (2, 7) and overlapping[1].tolist() == [0, 0, 0.25, 0.25, 0.25, 0.25, 0]
    gauss = slice_matrix(64, 4, 4, "gauss")
    profile = gauss[8] / gauss[8].max()
    at = torch.arange(64) + 0.5 - (2 + 4 * 8)
    wanted = torch.exp(-4 * math.log(2) * (at / 4) ** 2)
    assert torch.allclose(profile, (wanted / wanted.max()).double(), atol=0.02)
    assert torch.allclose(Separable({0: torch.eye(9)})(images("identity", 1)), images("identity", 1))


def disk(shape, spacing, radius, centre=(0.0, 0.0)):
    axes = [(torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    distance = ((axes[0][:, None] - centre[0]) ** 2 + (axes[1][None] - centre[1]) ** 2).sqrt()
    return (0.5 + (radius - distance) / max(spacing)).clamp(0, 1)


@pytest.mark.parametrize(("shape", "spacing"), [((65, 65), (1.0, 1.0)), ((80, 48), (0.8, 1.4))])
def test_ct_measures_chords_and_keeps_mass(shape, spacing):
    image = disk(shape, spacing, 20.0, (3.0, -5.0))
    angles = torch.arange(24) * math.pi / 24
    operator = ParallelCT((*shape, 1), angles, spacing)
    sinogram = operator(image[None, None, :, :, None])[0, 0, :, :, 0]
    offsets = (torch.arange(operator.bins) - (operator.bins - 1) / 2) * operator.bin_width
    chord = offsets[None] - (3 * angles.cos() - 5 * angles.sin())[:, None]
    wanted = 2 * (400 - chord.square()).clamp(min=0).sqrt()
    assert float((sinogram - wanted).abs().mean() / wanted.mean()) < 0.02
    masses = sinogram.sum(1) * operator.bin_width
    assert np.allclose(masses, float(image.sum()) * spacing[0] * spacing[1], rtol=5e-3)


def test_a_fan_measures_chords():
    shape, centre, radius, source, detector = (80, 64, 1), (3.0, -5.0), 20.0, 90.0, 150.0
    image = disk(shape[:2], (0.8, 1.0), radius, centre)
    views = torch.arange(24, dtype=torch.float64) * 2 * math.pi / 24
    operator = FanCT(shape, views, source, detector, (0.8, 1.0))
    sinogram = operator(image[None, None, :, :, None])[0, 0, :, :, 0]
    at = (torch.arange(operator.bins) - (operator.bins - 1) / 2) * operator.bin_width
    for view, angle in enumerate(views):
        toward, across = torch.stack([angle.sin(), -angle.cos()]), torch.stack([angle.cos(), angle.sin()])
        direction = at[:, None] * across - detector * toward
        offset = torch.tensor(centre) - source * toward
        distance = (direction[:, 0] * offset[1] - direction[:, 1] * offset[0]).abs() / direction.norm(dim=1)
        wanted = 2 * (radius**2 - distance.square()).clamp(min=0).sqrt()
        assert float((sinogram[view] - wanted).abs().mean() / wanted.mean()) < 0.03


def test_the_middle_row_of_a_cone_is_a_fan():
    pytest.importorskip("itk", reason="itk-rtk is not installed")
    shape, spacing, angles = (20, 24, 9), (1.3, 0.9, 1.1), torch.arange(7) * 2 * math.pi / 7 + 0.3
    grid = torch.meshgrid(*[torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape], indexing="ij")
    x = torch.exp(-12 * ((grid[0] - 0.3) ** 2 + (grid[1] + 0.2) ** 2)).expand(1, 1, *shape)
    cone = ConeCT(shape, angles, 60.0, 100.0, spacing, 31, 15, (2.0, 2.0))(x)[0, 0, :, :, 7]
    fan = FanCT(shape, angles, 60.0, 100.0, spacing[:2], 31, 2.0)(x)[0, 0, :, :, 4]
    assert float((cone - fan).abs().max() / fan.max()) < 3e-3
    with pytest.raises(UserError, match="single slice"):
        ConeCT((20, 24, 1), angles, 60.0, 100.0, spacing, 31, 15, (2.0, 2.0))


def test_a_cartesian_trajectory_is_cartesian():
    pytest.importorskip("torchkbnufft", reason="torchkbnufft is not installed")
    points = torch.meshgrid(*[(torch.arange(n, dtype=torch.float64) - n // 2) / n for n in SHAPE], indexing="ij")
    operator, x = NonCartesianMRI(SHAPE, torch.stack([p.flatten() for p in points]), COILS), images("coils", 2)
    wanted = CartesianMRI(torch.ones(SHAPE, dtype=torch.bool), COILS)(x).flatten(2)
    assert float((operator(x) - wanted).abs().max() / wanted.abs().max()) < 1e-4
    flat = (9, 12, 1)
    plane = NonCartesianMRI(flat, torch.stack([p[:, :, 3].flatten() for p in points]), COILS[..., :1])
    wanted = CartesianMRI(torch.ones(flat, dtype=torch.bool), COILS[..., :1])(x[..., :1]).flatten(2)
    assert float((plane(x[..., :1]) - wanted).abs().max() / wanted.abs().max()) < 1e-4, "a single slice has two axes"
    assert dot_error(plane, x[..., :1], torch.randn(wanted.shape, dtype=torch.complex128, generator=keyed("y"))) < 1e-10
    with pytest.raises(UserError, match="at least 3"):
        NonCartesianMRI((9, 12, 2), torch.zeros(3, 4))
    for wrong, message in ((torch.full((3, 4), 0.6), "0.6"), (torch.zeros(4, 3), "3 samples"), (torch.full((3, 4), torch.nan), "nan")):
        with pytest.raises(UserError, match=message):
            NonCartesianMRI(SHAPE, wrong)


def test_between_the_points_it_is_the_sum_that_it_stands_for():
    pytest.importorskip("torchkbnufft", reason="torchkbnufft is not installed")
    trajectory = torch.rand(3, 200, dtype=torch.float64, generator=keyed("places")) - 0.5
    x = images("coils", 1)
    places = torch.stack([p.flatten() for p in torch.meshgrid(*[torch.arange(n) - n // 2 for n in SHAPE], indexing="ij")]).double()
    wave = torch.exp(-2j * torch.pi * (trajectory.T @ places))
    wanted = torch.einsum("sv,nv->ns", wave, (COILS * x[0]).flatten(1).to(wave)) / math.sqrt(math.prod(SHAPE))
    assert float((NonCartesianMRI(SHAPE, trajectory, COILS)(x)[0] - wanted).abs().max() / wanted.abs().max()) < 3e-4


def test_a_fourier_transform_is_the_one_of_sigpy():
    sigpy = pytest.importorskip("sigpy", reason="sigpy is not installed")
    x = complex_noise(1, 1, *SHAPE)
    every = CartesianMRI(torch.ones(SHAPE, dtype=torch.bool))
    assert np.allclose(sigpy.linop.FFT((1, *SHAPE), axes=(-3, -2, -1)) * x[0].numpy(), every(x)[0].numpy(), atol=1e-10)


def test_maps_of_the_wrong_size_are_told_however_small_they_are():
    power = COILS.abs().square().sum(0).sqrt()
    for factor, fits in ((1.0, True), (2.0, False), (1e-2, False), (1e-5, False)):
        assert CartesianMRI(MASK, factor * COILS / power).normalised == fits


def test_sense_is_the_one_of_sigpy():
    linop = pytest.importorskip("sigpy.mri.linop", reason="sigpy is not installed")
    x = complex_noise(1, 1, *SHAPE).numpy()
    theirs = linop.Sense(COILS.numpy(), weights=MASK.numpy().astype(float))
    assert np.allclose(theirs * x[0, 0], MRI(torch.from_numpy(x))[0].numpy(), atol=1e-10)
    y = complex_noise(4, *SHAPE, seed=3)
    assert np.allclose(theirs.H * y.numpy(), MRI.adjoint(y[None])[0, 0].numpy(), atol=1e-10)
