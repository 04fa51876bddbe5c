"""Networks as features of cohorts: rows per volume, or per slice in three views."""

from types import SimpleNamespace

import numpy as np
import torch

from medldm.models.encoder import FeatureEncoder
from medldm.models.feature_net import FeatureNet
from medldm.report.network_features import NetworkFeatures

SHAPES = [(9, 10, 11), (8, 8, 12), (16, 9, 8)]


class Counted(SimpleNamespace):
    def __len__(self):
        return len(SHAPES)


def images():
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(-1, 1, (1, *shape)).astype(np.float32) for shape in SHAPES]
    return Counted(image=arrays.__getitem__, features={}, part_of=None, cohort=SimpleNamespace(root=SimpleNamespace(name="c"))), arrays


class MeanOfSlices(FeatureNet):
    """Its one feature is the mean of a slice."""

    def __init__(self):
        super().__init__("means", 2, 1)
        self.weight = torch.nn.Parameter(torch.ones(()))

    def levels(self, x):
        return [x]


def test_a_network_of_volumes_gives_a_row_for_each():
    about, arrays = images()
    net = FeatureEncoder(1, (8,)).eval()
    (view,) = NetworkFeatures(net).of(about)
    assert view.case.tolist() == [0, 1, 2]
    np.testing.assert_allclose(view.rows[1], net.vector(torch.from_numpy(arrays[1])[None])[0], rtol=1e-5)


def test_a_network_of_slices_gives_a_row_for_each_slice_in_three_views():
    about, arrays = images()
    views = NetworkFeatures(MeanOfSlices()).of(about)
    assert len(views) == 3
    for axis, view in enumerate(views):
        assert np.bincount(view.case).tolist() == [shape[axis] for shape in SHAPES]
        wanted = np.concatenate([a[0].mean(tuple(other for other in range(3) if other != axis)) for a in arrays])
        np.testing.assert_allclose(view.rows[:, 0], wanted, atol=1e-6)
