"""Real scanners' files, where they are on this machine: against GDCM, nibabel and the lossless twins of one image."""

import numpy as np
import pytest

from medldm.data.dicom.archive import find_series
from medldm.data.dicom.headers import read_header
from medldm.data.dicom.pixels import codestream_size, read_planes
from medldm.data.sources import SET_ASIDE

EXPECTED = {
    "ct_ge_head_gantry_tilt": ["ok", "ok"],
    "ct_philips_phantom_tilt_subset": ["ok"],
    "dcmqi_ct_seg": ["ok"],
    "deid_burned_in": ["no_volume", "secondary_capture", "secondary_capture"],
    "mr_ge_fruit_refaced_tags_subset": ["ok"],
    "mr_philips_enhanced_fieldmap": ["ok", "ok"],
    "mr_siemens_mosaic": ["ok", "ok"],
    "mr_siemens_xa30_enhanced_t1_face": ["ok", "ok"],
    "mr_studyforrest_t1_defaced_subset": ["ok"],
    "sc_philips_burned_in": ["secondary_capture"],
}


@pytest.fixture(scope="module")
def dicom(shared_data):
    return shared_data / "dicom"


@pytest.mark.parametrize("name", EXPECTED)
def test_each_series_is_a_volume_or_set_aside(dicom, name):
    cases = find_series(dicom / name).cases
    assert sorted(case.status for case in cases) == EXPECTED[name]
    for case in cases:
        assert all(np.isfinite(image.read().data.numpy()).all() for image in case.images)


def test_the_malformed_files_crash_nothing(dicom):
    cases = find_series(dicom / "pydicom_small").cases
    refused = {case.status: case.reason for case in cases if case.status not in SET_ASIDE}
    assert set(refused) == {"no_position", "unreadable", "unsupported"} and not any(case.images for case in cases)


@pytest.mark.parametrize("name", ["RLE", "bigendian", "expb", "implicit", "jp2klossless", "jpeg_ls_lossless", "padded"])
def test_one_image_in_many_transfer_syntaxes(dicom, name):
    folder = dicom / "pydicom_small"
    if name == "jpeg_ls_lossless":
        pytest.importorskip("libjpeg")
    header = read_header(folder / f"MR_small_{name}.dcm")
    assert header.status == ""
    (twin,), (plane,) = (read_planes(path, [0], (64, 64), "x") for path in (folder / "MR_small.dcm", header.path))
    np.testing.assert_array_equal(plane, twin)


def test_what_compressed_planes_say_of_their_size(dicom):
    from pydicom import dcmread
    from pydicom.encaps import generate_frames

    for name in ("pydicom_small/MR_small_jp2klossless.dcm", "pydicom_small/MR_small_jpeg_ls_lossless.dcm", "deid_burned_in/cookie_image1.dcm"):
        dataset = dcmread(dicom / name)
        (stream,) = generate_frames(dataset.PixelData, number_of_frames=1)
        assert codestream_size(stream) == (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel)
        assert codestream_size(stream[:10]) is None


def test_a_plane_larger_than_announced_is_refused_before_it_is_decoded(dicom, tmp_path):
    from pydicom import dcmread

    from medldm.data.sources import BadCase

    dataset = dcmread(dicom / "pydicom_small/MR_small_jp2klossless.dcm")
    stream = bytes(dataset.PixelData)
    at = stream.index(b"\xff\x4f\xff\x51") + 8
    dataset.PixelData = stream[:at] + (60000).to_bytes(4, "big") + stream[at + 4 :]
    dataset.save_as(tmp_path / "bomb")
    with pytest.raises(BadCase, match="64x60000 pixels"):
        read_planes(tmp_path / "bomb", [0], (64, 64), "x")


@pytest.mark.parametrize("name", ["dcmqi_ct_seg/ct-3slice", "mr_ge_fruit_refaced_tags_subset", "mr_studyforrest_t1_defaced_subset"])
def test_classic_series_equal_gdcm(dicom, name):
    import SimpleITK as sitk

    (case,) = find_series(dicom / name).cases
    volume = case.images[0].read()
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(dicom / name)))
    image = reader.Execute()
    theirs = np.eye(4)
    theirs[:3, :3], theirs[:3, 3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing(), image.GetOrigin()
    np.testing.assert_allclose(volume.affine, np.diag([-1, -1, 1, 1]) @ theirs, atol=2e-4)  # GDCM rounds spacing and direction
    np.testing.assert_array_equal(volume.data[0].numpy(), sitk.GetArrayFromImage(image).T)


def test_a_mosaic_equals_nibabel(dicom):
    nicom = pytest.importorskip("nibabel.nicom.dicomwrappers")
    for case in find_series(dicom / "mr_siemens_mosaic").cases:
        volume = case.images[0].read()
        theirs = nicom.wrapper_from_file(case.images[0].files[0])
        affine = np.diag([-1, -1, 1, 1]) @ theirs.affine
        swap = np.eye(4)[[1, 0, 2, 3]]  # nibabel's first axis runs along rows
        np.testing.assert_allclose(volume.affine, affine @ swap, atol=1e-3)
        np.testing.assert_array_equal(volume.data[0].numpy(), theirs.get_data().transpose(1, 0, 2))
