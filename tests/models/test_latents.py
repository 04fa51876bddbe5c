import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medldm.models.latents import encode, foreground, grid_for, statistics, weights_digest, window
from medldm.models.lean import LeanAutoencoder
from medldm.randomness import keyed

sizes = st.tuples(*[st.integers(12, 40)] * 3)


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(0, 1000))
def test_every_window_is_whole_cells_inside_and_holds_the_structures(shape, seed):
    generator = keyed(seed)
    label = torch.zeros(1, *shape)
    low = [int(torch.randint(0, n - 8, (), generator=generator)) for n in shape]
    label[(0, *(slice(a, a + 8) for a in low))] = 1
    box = foreground(label, shape)
    grid = grid_for([shape], [box], 4, 2)
    for g in (None, generator):
        chosen = window(shape, box, 4, grid, g)
        for s, n, cells, (first, last) in zip(chosen, shape, grid, box, strict=True):
            assert 0 <= s.start < s.stop <= n and (s.stop - s.start) % 4 == 0 and (s.stop - s.start) // 4 <= cells
            assert s.start <= first and s.stop >= last


def test_the_largest_window_is_central():
    assert window((16, 18, 24), foreground(None, (16, 18, 24)), 4, (4, 4, 4), None) == (slice(0, 16), slice(1, 17), slice(4, 20))


def test_the_grid_holds_most_volumes_and_all_structures():
    shapes = [(16, 16, 16)] * 40 + [(40, 16, 16)]
    small, large = [(4, 8)] * 3, [(0, 30), (4, 8), (4, 8)]
    assert grid_for(shapes, [small] * 41, 4, 2) == (4, 4, 4)
    assert grid_for(shapes, [small] * 40 + [large], 4, 2) == (8, 4, 4)


def test_a_window_is_encoded_as_if_it_were_alone():
    model = LeanAutoencoder(1, 0, widths=(8, 16)).eval()
    image = torch.rand(1, 16, 20, 16)
    where = (slice(0, 16), slice(4, 20), slice(0, 16))
    latents = encode(model, image, None, [where])
    with torch.no_grad():
        mean, std = model.posterior(image[None, :, :, 4:20])
    assert torch.equal(latents["mean_0"], mean[0]) and torch.equal(latents["std_0"], std[0])


def test_statistics_are_those_of_all_cells_at_once():
    pairs = [(torch.randn(2, *shape) * 3 + 100, torch.rand(2, *shape)) for shape in ((3, 4, 5), (5, 5, 5), (1, 1, 2))]
    found = statistics(iter(pairs))
    flat = torch.cat([z.double().flatten(1) for z, _ in pairs], 1)
    noise = torch.cat([std.double().flatten(1) for _, std in pairs], 1).pow(2).mean(1)
    assert torch.allclose(found.mean, flat.mean(1), rtol=1e-12) and torch.allclose(found.variance, flat.var(1), rtol=1e-10)
    assert torch.allclose(found.noise, noise, rtol=1e-12) and torch.allclose(found.noise_share, noise / (noise + flat.var(1)))
    assert torch.allclose(found.std(drawn=True) ** 2, flat.var(1) + noise) and torch.allclose(found.std(drawn=False), flat.std(1))


def test_the_noise_share_is_that_of_draws():
    """A Gaussian toy: means and draws with known variances."""
    generator = torch.Generator().manual_seed(0)
    scale, sigma = torch.tensor([1.0, 3.0, 0.5])[:, None, None, None], torch.tensor([0.1, 1.0, 0.5])[:, None, None, None]
    pairs = [(torch.randn(3, 12, 12, 12, generator=generator) * scale + 2, sigma.expand(3, 12, 12, 12)) for _ in range(40)]
    drawn = torch.stack([mean + std * torch.randn(mean.shape, generator=generator) for mean, std in pairs])
    means = torch.stack([mean for mean, _ in pairs])
    found = statistics(pairs)
    measured = (drawn - means).var((0, 2, 3, 4)) / drawn.var((0, 2, 3, 4))
    assert torch.allclose(found.noise_share.float(), measured, rtol=0.02)
    whitened = (drawn - found.mean[:, None, None, None]) / found.std(drawn=True)[:, None, None, None]
    assert whitened.mean((0, 2, 3, 4)).abs().max() < 0.01 and (whitened.std((0, 2, 3, 4)) - 1).abs().max() < 0.01


def test_the_digest_tells_autoencoders_apart_but_not_their_whitening():
    torch.manual_seed(0)
    model = LeanAutoencoder(1, 0, widths=(8,))
    before = weights_digest(model)
    model.latent_mean.fill_(3)
    assert weights_digest(model) == before
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert weights_digest(model) != before
