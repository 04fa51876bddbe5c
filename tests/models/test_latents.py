import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medldm.models.latents import encode, foreground, grid_for, statistics, window
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


def test_statistics_whiten_latents_of_any_size():
    latents = [torch.randn(2, 3, 4, 5) * 3 + 1, torch.randn(2, 5, 5, 5) * 3 + 1]
    mean, std = statistics(latents)
    flat = torch.cat([((z - mean[:, None, None, None]) / std[:, None, None, None]).flatten(1) for z in latents], 1)
    assert torch.allclose(flat.mean(1), torch.zeros(2, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(flat.std(1), torch.ones(2, dtype=torch.float64), atol=1e-6)
