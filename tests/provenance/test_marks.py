import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from medldm.errors import UserError
from medldm.provenance import latent_mark
from medldm.provenance.code import CHIPS, identity, key_of, most_likely, spread, threshold, words
from medldm.provenance.image_mark import WAYS, ImageMark

SECRET = b"0123456789abcdef0123456789abcdef"
MARK = ImageMark()


def head(seed: int, size: int = 48) -> np.ndarray:
    """A random texture inside of a ball with a soft border, -1 outside."""
    rng = np.random.default_rng(seed)
    texture = sum(ndimage.gaussian_filter(rng.normal(size=(size,) * 3), width) * width**1.5 for width in (1, 2, 4))
    ball = sum(axis**2 for axis in np.ogrid[(slice(-1, 1, 1j * size),) * 3]) < 0.8
    inside = np.where(ball, np.clip(texture / np.abs(texture).max(), -0.6, 1), -1)
    return np.where(ndimage.binary_dilation(ball, iterations=2), ndimage.gaussian_filter(inside, 0.7), -1).astype(np.float32)


def marked(seed: int, size: int = 48) -> tuple[np.ndarray, bytes, bytes]:
    name = identity(SECRET, seed)
    return MARK.embed(head(seed, size), key_of(SECRET, name), name), key_of(SECRET, name), name


def test_words_of_bytes_are_as_far_apart_as_the_code_says():
    every = np.array([words(bytes([value] * 8))[0, :128] for value in range(256)])
    products = every @ every.T
    assert sorted(set(products[~np.eye(256, dtype=bool)])) == [-128, 0]


def test_a_payload_is_read_from_chips_of_which_a_fifth_is_wrong():
    rng, payload = np.random.default_rng(0), bytes(range(100, 108))
    chips = words(payload).sum(0) * np.where(rng.random(CHIPS) < 0.2, -1, 1)
    assert most_likely(chips) == payload


def test_every_key_and_purpose_spreads_in_its_own_way():
    ways = [spread(key, purpose, 5000) for key, purpose in itertools.product((b"a" * 16, b"b" * 16), ("image", "latent"))]
    for (signs, chip), (others, other) in itertools.combinations(ways, 2):
        assert abs(signs @ others) < 5 * 5000**0.5
        assert (chip == other).mean() < 0.01
    assert np.bincount(ways[0][1]).min() >= 4
    assert len({identity(SECRET, 1, 2), identity(SECRET, 12), identity(SECRET, "1", 2), identity(SECRET[::-1], 1, 2)}) == 4


@pytest.mark.parametrize("seed", range(3))
def test_a_mark_is_read_costs_what_was_asked_and_stays_in_the_foreground(seed):
    plain, (image, key, payload) = head(seed), marked(seed)
    assert MARK.psnr - 1e-3 < 10 * np.log10(np.ptp(plain) ** 2 / ((image - plain) ** 2).mean()) < MARK.psnr + 1.5  # the range cuts some off
    assert image.min() >= plain.min() and image.max() <= plain.max()
    empty = ndimage.binary_erosion(plain == -1, iterations=4)
    assert empty.sum() > 1000 and (image == plain)[empty].all()
    assert MARK.read(image, key) == payload
    assert MARK.score(image, key, payload) > 2 * MARK.limit(1)
    assert MARK.score(plain, key, payload) < MARK.limit(1)


CHANGES = {
    "whole numbers": lambda x, rng: np.rint((x + 1) * 127.5),
    "another unit": lambda x, rng: 3 * x - 1000,
    "noise of 5 %": lambda x, rng: x + rng.normal(0, 0.1, x.shape),
    "blur": lambda x, rng: ndimage.gaussian_filter(x, 1),
    "gamma": lambda x, rng: ((x + 1) / 2) ** 1.5,
    "bias": lambda x, rng: (x + 1) * np.exp(np.linspace(-0.3, 0.3, len(x)))[:, None, None],
    "no background": lambda x, rng: np.where(x < -0.8, -1, x),
    "half the resolution": lambda x, rng: ndimage.zoom(ndimage.zoom(x, 0.5, order=1, mode="nearest"), 2, order=1, mode="nearest"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_mark_survives(change):
    for seed in range(5):
        image, key, payload = marked(seed)
        changed = CHANGES[change](image.astype(np.float64), np.random.default_rng(seed))
        assert MARK.score(changed, key, payload) > MARK.limit(1000)


def test_wrong_keys_find_nothing():
    image, _, payload = marked(0, 32)
    scores = [MARK.score(image, key_of(b"x" * 32, index.to_bytes(8, "big")), payload) for index in range(500)]
    assert max(scores) < MARK.limit(500)
    largest = np.random.default_rng(0).normal(size=(20000, WAYS)).max(1)  # of so many normal numbers, as the bound supposes
    assert np.mean(scores) == pytest.approx(largest.mean(), abs=0.15) and np.std(scores) == pytest.approx(largest.std(), abs=0.1)


@pytest.mark.parametrize(("trials", "allowed"), [(1, 0.05), (10, 0.05), (1, 1e-4)])
def test_the_limit_holds_for_random_signs_of_any_number(trials, allowed):
    """Of equal weights the exact chance is known; few signs have the heaviest tails."""
    limit = threshold(trials, allowed)
    worst = max(stats.binom.sf(np.ceil((limit * n**0.5 + n) / 2 - 1e-9) - 1, n, 0.5) for n in range(2, 400))
    assert allowed / trials / 4 < worst <= allowed / trials


def test_pairs_of_other_volumes_neither_remove_nor_forge_a_mark():
    pairs = [(head(seed), marked(seed)[0]) for seed in range(12)]
    pattern = np.mean([after - before for before, after in pairs], axis=0)
    pattern *= np.sqrt(12)  # as strong as one mark
    image, key, payload = marked(100)
    assert MARK.score(image - pattern, key, payload) > MARK.limit(1)
    forged, names = head(101) + pattern, [identity(SECRET, seed) for seed in range(12, 212)]  # not those that were averaged
    assert max(MARK.score(forged, key_of(SECRET, name), name) for name in names) < MARK.limit(200)


def test_volumes_that_cannot_carry_a_mark_are_refused():
    for image in (np.zeros((40, 40, 40), np.float32), head(0, 12), np.pad(head(0, 16), 40, constant_values=-1)):
        with pytest.raises(UserError, match="watermark"):
            MARK.embed(image, b"k" * 16, b"payload.")
    assert MARK.score(np.zeros((40, 40, 40)), b"k" * 16, b"payload.") == 0
    with pytest.raises(ValueError, match="16"):
        MARK.embed(head(0), b"short", b"payload.")
    with pytest.raises(ValueError, match="payload"):
        MARK.embed(head(0), b"k" * 16, b"seven..")


def test_marked_noise_is_as_normal_as_noise_is():
    noise = torch.randn(4, 20, 20, 20, generator=torch.Generator().manual_seed(0))
    values = np.concatenate([latent_mark.marked(noise, key_of(SECRET, bytes([k] * 8)), bytes(range(8))).flatten().numpy() for k in range(5)])
    assert stats.kstest(values[: noise.numel()], "norm").pvalue > 0.01
    assert np.abs(values.mean()) < 4 / len(values) ** 0.5
    neighbours = np.corrcoef(values[:-1], values[1:])[0, 1]
    assert abs(neighbours) < 4 / len(values) ** 0.5


def test_marked_noise_is_read_where_40_percent_of_the_signs_are_lost():
    generator = torch.Generator().manual_seed(1)
    noise, key, payload = torch.randn(4, 20, 20, 20, generator=generator), key_of(SECRET, b"12345678"), b"12345678"
    found = latent_mark.marked(noise, key, payload)
    assert torch.equal(found.abs(), noise.abs())
    assert latent_mark.read(found, key) == payload
    assert latent_mark.score(found, key, payload) == pytest.approx(noise.numel() ** 0.5)
    damaged = torch.where(torch.rand(found.shape, generator=generator) < 0.4, -found, found)
    assert latent_mark.score(damaged, key, payload) > threshold(1)
    assert latent_mark.score(damaged, key_of(SECRET, b"87654321"), payload) < threshold(1)
    assert latent_mark.score(noise, key, payload) < threshold(1)


def test_noise_outside_of_what_is_known_does_not_count():
    noise, key, payload = torch.randn(4, 12, 12, 12, generator=torch.Generator().manual_seed(2)), b"k" * 32, b"12345678"
    known = torch.zeros(1, 12, 12, 12)
    known[..., :6] = 1
    found = torch.where(known.bool(), latent_mark.marked(noise, key, payload), noise)
    assert latent_mark.score(found, key, payload, known) == pytest.approx((noise.numel() / 2) ** 0.5)
