"""Intensities: into [-1, 1] and back within rounding; agreement with TorchIO; shading and blur."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medldm.data.steps.bias_field import BiasField, Shading
from medldm.data.steps.harmonise import HarmoniseResolution
from medldm.data.steps.history import History, apply_steps, restore
from medldm.data.steps.intensity import Percentile, PiecewiseLinear, Window, ZScore
from medldm.data.steps.nyul import PERCENTILES, Nyul
from medldm.data.steps.reorient import Reorient
from medldm.errors import UserError
from medldm.volume import Volume

AFFINE = np.array([[0, 2.0, 0, 10], [-1.5, 0, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1]])


def head(seed=0, channels=2, shape=(16, 14, 12), unit="a.u.") -> Volume:
    """Half air (values about 0), half tissue of two kinds."""
    rng = np.random.default_rng(seed)
    data = np.abs(rng.normal(0, 5, (channels, *shape)))
    data[:, 4:12] += rng.choice([300.0, 700.0], (channels, 8, *shape[1:])) * rng.uniform(0.5, 2)
    return Volume(torch.from_numpy(data.astype(np.float32)), AFFINE, unit)


FITTED = Nyul().fit([head(n) for n in range(3)])
INTENSITIES = [Percentile(), Percentile(1, 99, "mean"), Percentile(above=50.0), ZScore(), ZScore(2.0, None), Window(-100.0, 900.0), FITTED]
SHADING = Shading(tuple(map(tuple, AFFINE.tolist())), (3, 2, 2), (tuple(np.linspace(-1, 1, 12)), tuple(np.linspace(0.5, -0.2, 12))))


@pytest.mark.parametrize("step", INTENSITIES, ids=repr)
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 100), st.floats(-500, 500))
def test_intensities_come_back_within_rounding(step, seed, gain, offset):
    """All but what had been clipped, which comes back as the limit."""
    image = head(seed % 1000, unit="HU")
    image = image.with_data(image.data * gain + offset) if not isinstance(step, Window) else image
    step = Percentile(above="mean") if step.__class__ is Percentile and step.above == 50.0 and offset > 40 else step
    try:
        prepared, _, changes = apply_steps([step], image)
    except UserError as error:
        assert "No intensity lies above" in str(error)
        return
    assert prepared.unit == "a.u." and float(prepared.data.abs().max()) <= 1
    back = restore(prepared, History.from_plain(json.loads(json.dumps(History.of(image, changes).to_plain()))))
    assert back.unit == "HU"
    for before, after, knots in zip(image.data, back.data, changes[0].source, strict=True):
        rounding = 1e-6 * (knots[-1] - knots[0]) * max(1, len(knots) - 2) * 20 + 1e-6 * abs(before).max()
        assert (after - before.clamp(knots[0], knots[-1])).abs().max() <= rounding


def test_a_label_map_passes_all_steps_of_intensity():
    label = Volume(torch.zeros(1, 3, 3, 3), AFFINE, "label")
    for step in (*INTENSITIES, HarmoniseResolution((4.0, 4.0, 4.0))):
        assert step(label) is label
        change = step.plan(head(), None)
        assert change(label) is label and change.undo(label) is label
    assert SHADING(label) is label


def test_z_scores_are_those_of_the_foreground():
    image = head(channels=1)
    inside = image.data[0].numpy()[image.data[0].numpy() > image.data.double().mean().item()].astype(np.float64)
    expected = np.clip((image.data.numpy() - inside.mean()) / (3 * inside.std()), -1, 1)
    assert np.allclose(ZScore(3.0)(image).data.numpy(), expected, atol=1e-6)


def test_percentiles_of_the_foreground():
    image = head(channels=1)
    voxels = image.data[image.data > 100].numpy()
    assert Percentile(5, 95, 100.0).limits(image) == [tuple(float(v) for v in np.percentile(voxels, (5, 95)))]
    with pytest.raises(UserError, match="No intensity"):
        Percentile(above=1e9)(image)


def test_lines_between_knots():
    change = PiecewiseLinear(((0.0, 10.0, 30.0),), ((-1.0, 0.0, 1.0),), "HU")
    data = torch.tensor([-5.0, 0.0, 5.0, 10.0, 20.0, 30.0, 99.0]).reshape(1, 7, 1, 1)
    assert change(Volume(data, AFFINE, "HU")).data.flatten().tolist() == [-1, -1, -0.5, 0, 0.5, 1, 1]
    back = change.undo(change(Volume(data, AFFINE, "HU")))
    assert back.data.flatten().tolist() == [0, 0, 5, 10, 20, 30, 30] and back.unit == "HU"
    for wrong in (change, SHADING):
        with pytest.raises(UserError, match="channels"):
            wrong(head(channels=3))


def test_nyul_agrees_with_torchio(tmp_path):
    """Landmarks and mapped intensities; TorchIO's scale is 0 to 100, and it extrapolates where we clip."""
    import torchio

    rng = np.random.default_rng(1)
    images = [head(n, channels=1) for n in range(4)]
    images = [v.with_data(v.data + torch.from_numpy(rng.gamma(2, 40 + 20 * n, v.data.shape).astype(np.float32))) for n, v in enumerate(images)]
    paths = []
    for n, image in enumerate(images):
        paths.append(tmp_path / f"{n}.nii.gz")
        torchio.ScalarImage(tensor=image.data).save(paths[-1])
    theirs = torchio.HistogramStandardization.train(paths, progress=False)
    deciles = [0, 1, 2, 4, 5, 6, 7, 8, 10, 11, 12]  # without the quartiles 25 and 75, which TorchIO learns and does not use
    fitted = Nyul().fit(iter(images))
    assert np.allclose(fitted.landmarks[0], theirs[deciles] / 50 - 1, atol=1e-6)
    transform = torchio.HistogramStandardization({"image": theirs})
    for image in images:
        mapped = transform(torchio.Subject(image=torchio.ScalarImage(tensor=image.data)))["image"].data / 50 - 1
        assert (fitted(image).data - mapped.clamp(-1, 1)).abs().max() < 1e-5


def test_nyul_brings_scanners_together():
    """The same heads at another gain and offset have the same values afterwards."""
    a, b = head(5, channels=1), head(5, channels=1)
    b = b.with_data(b.data * 7 + 100)
    fitted = Nyul().fit([a, b])
    assert (fitted(a).data - fitted(b).data).abs().max() < 1e-4
    assert fitted.landmarks[0][0] == -1 and fitted.landmarks[0][-1] == 1 and len(fitted.landmarks[0]) == len(PERCENTILES)


def test_nyul_with_much_air_of_one_intensity_can_be_undone():
    data = torch.zeros(1, 10, 10, 10)
    data[:, 7:] = torch.rand(1, 3, 10, 10, generator=torch.Generator().manual_seed(0)) + 1
    image = Volume(data, AFFINE)
    change = Nyul().fit([image, head(channels=1)]).plan(image)
    assert all((np.diff(knots) > 0).all() for knots in (*change.source, *change.target))
    assert (change.undo(change(image)).data - data.clamp(change.source[0][0], change.source[0][-1])).abs().max() < 1e-4


def test_nyul_says_what_it_lacks():
    with pytest.raises(UserError, match="no training image"):
        Nyul().fit([])
    with pytest.raises(UserError, match="Fit it"):
        Nyul().plan(head())
    with pytest.raises(UserError, match="constant"):
        Nyul().fit([Volume(torch.ones(1, 4, 4, 4), AFFINE)])
    with pytest.raises(UserError, match="channels"):
        Nyul().fit([head(channels=1), head(channels=2)])
    with pytest.raises(UserError, match="landmarks"):
        Nyul(((0.0, 1.0),))


def shaded(shape=(36, 40, 32)) -> tuple[Volume, Volume, np.ndarray]:
    """A ball of two tissues, 5 mm voxels, without and with a smooth field; and its logarithm."""
    i, j, k = (np.linspace(-1, 1, n)[tuple(slice(None) if a == b else None for b in range(3))] for a, n in enumerate(shape))
    radius = np.sqrt(i**2 + j**2 + k**2)
    tissue = np.where(radius < 0.9, np.where(np.sin(9 * i) * np.sin(8 * j) * np.sin(7 * k) > 0, 700.0, 400.0), 0.0)
    tissue = ndimage.gaussian_filter(tissue, 0.6) + np.random.default_rng(0).normal(0, 4, shape)
    field = 0.35 * i + 0.2 * j * k - 0.15 * k**2
    affine = np.diag([-5.0, 5.0, 5.0, 1.0])
    plain = Volume(torch.from_numpy(np.maximum(tissue, 0).astype(np.float32))[None], affine)
    return plain, plain.with_data((plain.data * torch.from_numpy(np.exp(field))).float()), np.where(radius < 0.8, field, np.nan)


def logarithm(change: Shading, image: Volume) -> np.ndarray:
    """The field of a change at the voxels of an image."""
    return np.log(change.undo(image.with_data(torch.ones_like(image.data))).data[0].numpy())


def test_bias_field_finds_a_planted_field_and_nothing_is_lost():
    """The field is what the estimate gains when it is planted; undo is exact to rounding; the number of threads has no influence."""
    import SimpleITK as sitk

    plain, image, field = shaded()
    inside = np.isfinite(field)
    step = BiasField(resolution=10.0)
    change = step.plan(image)
    residual = (logarithm(change, image) - logarithm(step.plan(plain), image) - field)[inside]
    assert residual.std() < 0.15 * field[inside].std()
    assert torch.allclose(change.undo(change(image)).data, image.data, rtol=1e-5)
    again = History.from_plain(json.loads(json.dumps(History.of(image, [change]).to_plain()))).changes[0]
    assert torch.equal(again(image).data, change(image).data)
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    try:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(2 if threads == 1 else threads + 1)
        assert step.plan(image) == change
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def test_a_bias_field_lies_in_space_not_on_a_grid():
    """The same lattice on the reoriented grid gives the reoriented factors."""
    image = head()
    direct = Reorient()(SHADING(image))
    assert torch.allclose(SHADING(Reorient()(image)).data, direct.data, rtol=1e-5)
    assert not torch.allclose(direct.data, Reorient()(image).data, rtol=1e-2)


def test_bias_field_wants_positive_intensities():
    with pytest.raises(UserError, match="positive"):
        BiasField().plan(Volume(-torch.rand(1, 12, 12, 12) - 1, np.eye(4)))


def test_harmonised_images_have_one_point_spread():
    """An impulse gets the variance that lacks, in mm^2, along each axis; images of that resolution stay as they are."""
    data = torch.zeros(1, 41, 41, 41)
    data[0, 20, 20, 20] = 1
    affine = np.diag([-0.8, 1.0, 1.5, 1.0])
    step = HarmoniseResolution((3.0, 2.5, 1.5))
    after = step(Volume(data, affine)).data[0].double()
    for axis, (own, target) in enumerate(zip((0.8, 1.0, 1.5), (3.0, 2.5, 1.5), strict=True)):
        profile = after.sum([a for a in range(3) if a != axis])
        variance = float((profile * (torch.arange(41) - 20) ** 2).sum()) * own**2
        assert variance == pytest.approx((target**2 - own**2) / (8 * np.log(2)), rel=0.02, abs=1e-9)
    same = Volume(data, np.diag([3.0, 2.5, 1.5, 1.0]))
    assert step(same) is same
    with pytest.raises(UserError, match="coarser"):
        step.plan(Volume(data, np.diag([3.1, 2.5, 1.5, 1.0])))


@pytest.mark.parametrize("step, settings", [(ZScore, (0.0,)), (ZScore, (float("nan"),)), (HarmoniseResolution, ((1.0, -1.0, 1.0),))])
def test_wrong_settings_of_intensities(step, settings):
    with pytest.raises(UserError):
        step(*settings)


def test_given_landmarks_stay():
    assert FITTED.fit([head(7)]) is FITTED
    with pytest.raises(UserError, match="rising"):
        Nyul(((float("nan"),) * 11,))
