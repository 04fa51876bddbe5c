"""Random changes while training: off by default, decided by the key, the label map with its image."""

from dataclasses import replace

import pytest
import torch

from medldm.data.steps.torchio_augment import Augment
from medldm.errors import UserError
from medldm.randomness import keyed
from medldm.run import build, describe
from medldm.training.data import JITTER, Crops, case_of

PLACE = Augment(flip=(0, 1, 2), degrees=12.0, scale=0.1, shift_mm=3.0, elastic_mm=1.0, probability=1.0)
ALL = replace(PLACE, bias=0.3, gamma=0.3, noise=0.1, blur_mm=1.0)


def pair(shape=(20, 18, 16)) -> tuple[torch.Tensor, torch.Tensor]:
    """A label map of two boxes and the image that shows them: -1, 0 and 1 for labels 0, 2 and 9."""
    label = torch.zeros(1, *shape)
    label[:, 5:15, 4:12, 5:11] = 2
    label[:, 5:9, 4:8, 5:11] = 9
    return torch.where(label == 9, 1.0, torch.where(label == 2, 0.0, -1.0)), label


def test_without_augmentation_crops_are_what_they_were(phantom_cohort):
    """The draws of place, contrast and brightness, spelled out."""
    cohort = phantom_cohort.split("train")
    crops = Crops(cohort, (8, 12, 8), 2, seed=5)
    for key in ((0, 0), (7, 1)):
        image, label = crops.volumes[case_of(*key, 2, len(cohort), 5)]
        generator = keyed(5, "crop", *key)
        i, j, k = (int(torch.randint(n - size + 1, (), generator=generator)) for n, size in zip(image.shape[1:], (8, 12, 8), strict=True))
        contrast, brightness = ((2 * torch.rand(2, generator=generator) - 1) * JITTER).tolist()
        cut = slice(None), slice(i, i + 8), slice(j, j + 12), slice(k, k + 8)
        assert torch.equal(crops[key][0], image[cut] * (1 + contrast) + brightness)
        assert torch.equal(crops[key][1], label[cut])


def test_a_crop_depends_on_its_key_alone(phantom_cohort):
    """In any order, after any other draws; and the generator of torch itself is left alone."""
    cohort = phantom_cohort.split("train")
    first, second = (Crops(cohort, (8, 8, 8), 2, 5, ALL) for _ in range(2))
    keys = [(0, 0), (0, 1), (3, 0), (9, 1)]
    forward = [first[key] for key in keys]
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    backward = [second[key] for key in reversed(keys)][::-1]
    assert torch.equal(torch.random.get_rng_state(), state)
    for a, b in zip(forward, backward, strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
        assert a[0].shape == (1, 8, 8, 8) and a[0].dtype == a[1].dtype == torch.float32 and bool(torch.isfinite(a[0]).all())
    plain = Crops(cohort, (8, 8, 8), 2, 5)
    assert all(not torch.equal(plain[key][0], a[0]) for key, a in zip(keys, forward, strict=True))


@pytest.mark.parametrize("seed", range(6))
def test_the_label_map_moves_with_the_image(seed):
    """The image says which label a voxel has, but for interpolated borders; label values stay what they were."""
    image, label = pair()
    moved, labels = PLACE(image, label, keyed(seed), (1.0, 1.5, 1.0))
    assert set(labels.unique().tolist()) <= {0, 2, 9} and not torch.equal(labels, label)
    shown = torch.where(moved > 0.5, 9.0, torch.where(moved > -0.5, 2.0, 0.0))
    borders = torch.nn.functional.max_pool3d(labels, 3, 1, 1) != -torch.nn.functional.max_pool3d(-labels, 3, 1, 1)
    assert torch.equal(shown[~borders], labels[~borders])
    assert (shown == labels)[label > 0].float().mean() > 0.8


def test_flips_reverse_axes_and_nothing_else():
    image, label = pair()
    seen = set()
    for seed in range(12):
        moved, labels = Augment(flip=(0, 2))(image, label, keyed(seed))
        for axes in ((), (1,), (3,), (1, 3)):
            if torch.equal(labels, label.flip(axes)):
                assert torch.equal(moved, image.flip(axes))
                seen.add(axes)
    assert seen == {(), (1,), (3,), (1, 3)}


@pytest.mark.parametrize("settings", [{"bias": 0.5}, {"gamma": 0.5}, {"noise": 0.2}, {"blur_mm": 2.0}])
def test_intensities_change_the_image_alone(settings):
    image, label = pair()
    changed, labels = Augment(**settings, probability=1.0)(image, label, keyed(1))
    assert torch.equal(labels, label) and not torch.allclose(changed, image, atol=1e-3)
    if set(settings) <= {"bias", "gamma"}:
        assert torch.equal(changed[label == 0], image[label == 0])  # air stays air
    if "noise" in settings:
        assert float((changed - image).std()) < 0.2 and abs(float((changed - image).mean())) < 0.02


def test_nothing_is_on_by_default():
    image, label = pair()
    same, labels = Augment()(image, label, keyed(0))
    assert torch.equal(same, image) and torch.equal(labels, label) and Augment().reach((8, 8, 8), (1.0, 1.0, 1.0)) == (0, 0, 0)


@pytest.mark.parametrize("seed", range(8))
def test_what_is_turned_into_a_crop_comes_from_the_volume(seed):
    """Around a crop enough is turned with it: in an image without border, no filling appears."""
    size, spacing = (10, 8, 6), (1.0, 2.0, 1.5)
    step = replace(PLACE, flip=())
    reach = step.reach(size, spacing)
    wide = [n + 2 * r for n, r in zip(size, reach, strict=True)]
    turned, labels = step(torch.ones(1, *wide), torch.ones(1, *wide), keyed(seed), spacing)
    inside = (slice(None), *(slice(r, r + n) for r, n in zip(reach, size, strict=True)))
    assert (labels[inside] == 1).all() and not (labels == 1).all()
    assert torch.allclose(turned[inside], torch.ones(1, *size))


def test_a_crop_at_the_border_is_filled_as_air_is(phantom_cohort):
    cohort = phantom_cohort.split("train")
    crops = Crops(cohort, (16, 20, 16), 1, 0, PLACE)  # whole volumes
    for step in range(4):
        image, label = crops[(step, 0)]
        assert image.shape == label.shape == (1, 16, 20, 16) and float(image.min()) >= -1 - 2 * JITTER - 0.01
        assert set(label.unique().tolist()) <= {0, *cohort.labels}


@pytest.mark.parametrize("wrong", [{"degrees": -1.0}, {"scale": 1.0}, {"flip": (3,)}, {"probability": 0.0}, {"noise": float("nan")}])
def test_wrong_settings_of_augmentation(wrong):
    with pytest.raises(UserError):
        Augment(**wrong)


def test_settings_can_be_stored():
    again = build(describe(ALL))
    assert replace(again, flip=tuple(again.flip)) == ALL


def test_a_command_takes_it(phantom_cohort, tmp_path):
    """Two steps; the weights differ from those of a training without it."""
    from medldm.commands.train_autoencoder import train_autoencoder
    from medldm.files import read_yaml, sha256
    from medldm.models.lean import LeanAutoencoder
    from medldm.training.options import Training

    settings = dict(model=LeanAutoencoder, training=Training(steps=2, batch=1))
    runs = [train_autoencoder(phantom_cohort.root, tmp_path / str(n), augment=a, **settings) for n, a in enumerate((None, ALL))]
    assert sha256(runs[0] / "model.safetensors") != sha256(runs[1] / "model.safetensors")
    assert read_yaml(runs[1] / "config.yaml")["augment"]["init_args"]["degrees"] == 12.0
