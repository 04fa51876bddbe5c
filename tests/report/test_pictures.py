"""Mosaics and plots: orientation, aspect, overlays, readable PNG files."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from medldm.errors import UserError
from medldm.report.mosaic import GAP, PIXELS_PER_MM, Picture, centre, colour, mosaic, planes
from medldm.report.plots import plot_curves, plot_intensities, plot_scatter, read_history


def pixels(png):
    return np.asarray(Image.open(BytesIO(png)))


def test_planes_show_right_on_the_left_anterior_and_superior_up():
    voxels = np.zeros((4, 5, 6))
    voxels[3, 2, 3] = 1  # far right
    voxels[1, 4, 3] = 2  # far anterior
    voxels[1, 2, 5] = 3  # far superior
    axial, coronal, sagittal = planes(voxels, (1, 2, 3))
    assert (axial.shape, coronal.shape, sagittal.shape) == ((5, 4), (6, 4), (6, 5))
    assert axial[2, 0] == 1 and axial[0, 2] == 2
    assert coronal[2, 0] == 1 and coronal[0, 2] == 3
    assert sagittal[2, 0] == 2 and sagittal[0, 2] == 3


def test_a_volume_is_cut_through_its_structures():
    label = np.zeros((10, 10, 10))
    label[7, 2, 1:4] = 1
    assert centre(Picture(label, label)) == (7, 2, 2)
    assert centre(Picture(label)) == (5, 5, 5)
    assert centre(Picture(label, label, at=(1, 2, 3))) == (1, 2, 3)
    ring = np.zeros((9, 9, 9))
    ring[:, 4, 4] = ring[:, 0, 4] = 1  # the centroid lies in neither of the two bars
    assert ring[centre(Picture(ring, ring))] == 1


def test_aspect_follows_the_spacing():
    isotropic = pixels(mosaic([[Picture(np.ones((8, 8, 8)))]]))
    thick = pixels(mosaic([[Picture(np.ones((8, 8, 4)), spacing=(1.0, 1.0, 2.0))]]))
    np.testing.assert_array_equal(isotropic, thick)
    assert (isotropic > 250).all(2).sum() == 3 * (8 * PIXELS_PER_MM) ** 2


def test_window_grey_values_and_outline():
    label = np.zeros((12, 12, 12))
    label[3:9, 3:9, 3:9] = 1
    plain = pixels(mosaic([[Picture(np.zeros((12, 12, 12)))]]))
    assert set(np.unique(plain)) <= {0, 127, 128}
    outlined = pixels(mosaic([[Picture(np.zeros((12, 12, 12)), label)]]))
    paint = np.array([int(colour(1)[n : n + 2], 16) for n in (1, 3, 5)])
    assert (np.abs(outlined.astype(int) - paint).max(2) < 30).sum() > 3 * 4 * 6 * PIXELS_PER_MM * 0.8


def test_rows_share_one_scale_and_names_add_space():
    large, small = Picture(np.ones((20, 20, 20))), Picture(np.ones((10, 10, 10)))
    both = pixels(mosaic([[large], [small]]))
    named = pixels(mosaic([[large], [small]], names=("real", "generated")))
    assert named.shape[0] > both.shape[0] and named.shape[1] == both.shape[1]
    lower = both[both.shape[0] // 2 :]
    assert (lower > 250).all(2).sum() == 3 * (10 * PIXELS_PER_MM) ** 2
    assert pixels(mosaic([[small]], box=(20, 20, 20))).shape[1] == both.shape[1] == GAP + 3 * (GAP + 20 * PIXELS_PER_MM + 1)


def test_history_is_read_and_bad_ones_are_named(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("step,name,value\n0,loss,2.0\n0,val/psnr,10\n1,loss,nan\n2,loss,0.5\n")
    curves = read_history(path)
    assert list(curves) == ["loss", "val/psnr"]
    np.testing.assert_array_equal(curves["loss"][0], [0, 1, 2])
    assert plot_curves(curves)[:8] == b"\x89PNG\r\n\x1a\n"
    for text in ("step,value\n0,1\n", "step,name,value\n0,loss,much\n", "step,name,value\n0,loss\n"):
        path.write_text(text)
        with pytest.raises(UserError, match="is not a training history"):
            read_history(path)
    path.write_text("step,name,value\n")
    assert read_history(path) == {} and plot_curves({})[:8] == b"\x89PNG\r\n\x1a\n"  # nothing was trained


def test_plots_are_transparent_and_the_same_every_time():
    x = np.linspace(1, 9, 20)
    shares = {"real": np.full((3, 100), 0.01), "generated": np.full((2, 100), 0.01)}
    for draw in (
        lambda: plot_scatter([("volume", "mm3", x, x + 1)] * 4),
        lambda: plot_curves({"loss": (np.arange(400.0), np.exp(-np.arange(400) / 50)), "one": (np.zeros(1), np.ones(1))}),
        lambda: plot_intensities(np.linspace(-1, 1, 101), shares, "a.u."),
    ):
        png = draw()
        assert png == draw()
        picture = pixels(png)
        assert picture.shape[2] == 4 and picture[0, 0, 3] == 0 and picture[..., 3].max() == 255
