"""DICOM series become volumes whose voxels lie where the headers say."""

import struct
from contextlib import suppress
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
from dicom_phantoms import (
    AXIAL,
    COLUMNS,
    ENHANCED_MR,
    GAP,
    MR,
    ORIGIN,
    ROWS,
    SLICES,
    SLOPE,
    SPACING,
    assert_in_place,
    base,
    csa,
    intensity,
    item,
    places,
    put_pixels,
    rotation,
    save,
    stored,
    write_slices,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from medldm.data.dicom.archive import find_series
from medldm.data.dicom.csa import read_csa
from medldm.data.sources import BadCase


def only(folder):
    """The only case of a folder."""
    (case,) = find_series(folder).cases
    return case


def volume_of(folder):
    case = only(folder)
    assert case.status == "ok", case.reason
    return case.images[0].read()


@given(seed=st.integers(0, 10**6), backwards=st.booleans())
@settings(max_examples=15, deadline=None)
def test_voxels_lie_in_place_whatever_the_orientation_and_the_order_of_files(tmp_path_factory, seed, backwards):
    folder, orientation = tmp_path_factory.mktemp("series"), rotation(seed)
    step = np.cross(orientation[:3], orientation[3:]) * (-GAP if backwards else GAP)
    write_slices(folder, orientation, step, seed=seed)
    volume = volume_of(folder)
    assert volume.shape == (COLUMNS, ROWS, SLICES) and volume.unit == "HU"
    np.testing.assert_allclose(volume.spacing, (SPACING[1], SPACING[0], GAP), atol=1e-6)
    assert_in_place(volume)


def test_a_landmark_keeps_its_place(tmp_path):
    orientation, landmark = rotation(3), (4, 2, 3)  # row, column, slice

    def mark(dataset, k):
        pixels = np.zeros((ROWS, COLUMNS), np.int16)
        pixels[landmark[:2]] = 1000 * (k == landmark[2])
        dataset.PixelData = pixels.tobytes()

    write_slices(tmp_path, orientation, change=mark)
    volume = volume_of(tmp_path)
    at = np.argwhere(volume.data[0].numpy() > 0)
    assert len(at) == 1
    normal = np.cross(orientation[:3], orientation[3:])
    lps = places(np.array(ORIGIN) + landmark[2] * GAP * normal, orientation)[landmark[:2]]
    np.testing.assert_allclose((volume.affine @ [*at[0], 1])[:3], lps * [-1, -1, 1], atol=1e-6)


def test_voxels_and_affine_equal_those_of_gdcm(tmp_path):
    import SimpleITK as sitk

    write_slices(tmp_path, rotation(8))
    volume = volume_of(tmp_path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    theirs = np.eye(4)
    theirs[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    theirs[:3, 3] = image.GetOrigin()
    np.testing.assert_allclose(volume.affine, np.diag([-1, -1, 1, 1]) @ theirs, atol=1e-5)
    np.testing.assert_allclose(volume.data[0].numpy(), sitk.GetArrayFromImage(image).T, atol=1e-4)


@given(tilt=st.floats(-30, 30), other=st.floats(-10, 10))
@settings(max_examples=15, deadline=None)
def test_a_tilted_gantry_is_straightened(tmp_path_factory, tilt, other):
    """Linear interpolation keeps a linear function: inside the slices every voxel must have the intensity of its place."""
    folder = tmp_path_factory.mktemp("tilt")
    step = GAP * np.array([np.tan(np.radians(other)), np.tan(np.radians(tilt)), 1])
    write_slices(folder, AXIAL, step)
    case = only(folder)
    volume, angle = case.images[0].read(), float(np.degrees(np.arccos(GAP / np.linalg.norm(step))))
    if angle < 0.2:
        assert case.images[0].tilt_degrees == 0
        assert_in_place(volume)
        return
    assert case.images[0].tilt_degrees == pytest.approx(angle, abs=1e-4)
    axes = volume.affine[:3, :3]
    gram = axes.T @ axes
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-6 and volume.spacing[2] == pytest.approx(GAP)
    lps = np.moveaxis(np.indices(volume.shape), 0, -1) @ axes.T + volume.affine[:3, 3]
    first = lps * [-1, -1, 1] - np.array(ORIGIN) - np.arange(SLICES)[:, None] * step
    index = first[..., :2] / [SPACING[1], SPACING[0]]
    inside = ((index > -1e-6) & (index < np.array([COLUMNS, ROWS]) - 1 + 1e-6)).all(-1)
    slack = 2 * SLOPE + 0.01 * WEIGHTS_IN_PIXELS  # drifts below a hundredth of a pixel are left out
    assert_in_place(volume, slack, inside)
    assert inside.any((0, 1)).all()
    outside = ((index < -1) | (index > np.array([COLUMNS, ROWS]))).any(-1)
    assert (volume.data[0].numpy()[outside] == case.images[0].stack().min()).all()


WEIGHTS_IN_PIXELS = 3 * SPACING[1] + 2 * SPACING[0]


def test_padding_is_not_averaged_with_measurements(tmp_path):
    def pad(dataset, k):
        pixels = np.full((ROWS, COLUMNS), 100, np.int16)
        pixels[:4] = -2000
        dataset.PixelData, dataset.RescaleSlope, dataset.PixelPaddingValue = pixels.tobytes(), 1, -2000

    write_slices(tmp_path, AXIAL, (0, 0.7, GAP), change=pad)
    assert set(np.unique(volume_of(tmp_path).data)) == {-2000, 100}


def test_rescale_of_each_slice_and_units(tmp_path):
    def rescale(dataset, k):
        dataset.RescaleSlope, dataset.RescaleIntercept = k + 1, 10 * k
        dataset.PixelData = np.full((ROWS, COLUMNS), 7, np.int16).tobytes()

    write_slices(tmp_path / "mr", sop_class=MR, change=rescale)
    volume = volume_of(tmp_path / "mr")
    assert [float(plane.unique()) for plane in volume.data[0].unbind(2)] == [7 * (k + 1) + 10 * k for k in range(SLICES)]
    assert volume.unit == "a.u."
    write_slices(tmp_path / "ct", RescaleType="HU")
    write_slices(tmp_path / "other", RescaleType="MGML")
    assert (volume_of(tmp_path / "ct").unit, volume_of(tmp_path / "other").unit) == ("HU", "a.u.")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.int32])
def test_pixel_types(tmp_path, kind):
    info = np.iinfo(kind)
    values = np.linspace(max(info.min, -(2**24)), min(info.max, 2**24), ROWS * COLUMNS).astype(kind).reshape(ROWS, COLUMNS)

    def store(dataset, k):
        put_pixels(dataset, values)
        dataset.RescaleSlope = 1

    write_slices(tmp_path, change=store)
    np.testing.assert_array_equal(volume_of(tmp_path).data[0, :, :, 2].numpy(), values.T.astype(np.float32))


def test_bits_above_those_stored_are_no_part_of_the_value(tmp_path):
    """Old scanners keep an overlay in the upper four of 16 bits."""

    def overlay(dataset, k):
        put_pixels(dataset, np.full((ROWS, COLUMNS), 0x9123, np.uint16))
        dataset.BitsStored, dataset.HighBit, dataset.RescaleSlope = 12, 11, 1

    write_slices(tmp_path, change=overlay)
    assert volume_of(tmp_path).data.unique().tolist() == [0x123]


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"])
def test_compressed_slices(tmp_path, syntax):
    """RLE and JPEG 2000 without loss."""
    from pydicom.pixels import get_encoder

    if not get_encoder(syntax).is_available:
        pytest.skip("no encoder for this transfer syntax")
    values = np.random.default_rng(0).integers(-2000, 3000, (64, 48)).astype(np.int16)

    def compress(dataset, k):
        put_pixels(dataset, values + np.int16(k))
        dataset.RescaleSlope = 1
        dataset.compress(syntax)

    write_slices(tmp_path, change=compress)
    np.testing.assert_array_equal(volume_of(tmp_path).data[0].numpy(), np.stack([values.T + k for k in range(SLICES)], axis=2))


def write_enhanced(path, frames, orientation=AXIAL, **attributes):
    """An enhanced MR object; each frame is (slice, echo time, component, time point, intensity offset)."""
    normal = np.cross(orientation[:3], orientation[3:])
    groups, pixels = [], []
    for k, echo, component, time, offset in frames:
        position = np.array(ORIGIN) + k * GAP * normal
        groups.append(
            item(
                FrameContentSequence=[
                    item(StackID="1", InStackPositionNumber=k + 1, TemporalPositionIndex=time, DimensionIndexValues=[1, k + 1, time])
                ],
                PlanePositionSequence=[item(ImagePositionPatient=[f"{value:.10g}" for value in position])],
                MREchoSequence=[item(EffectiveEchoTime=echo)],
                MRImageFrameTypeSequence=[item(FrameType=["ORIGINAL", "PRIMARY", "OTHER", "NONE"], ComplexImageComponent=component)],
                PixelValueTransformationSequence=[item(RescaleSlope=SLOPE, RescaleIntercept=offset)],
            )
        )
        pixels.append(stored(intensity(places(position, orientation))))
    dataset = base(ENHANCED_MR, SeriesInstanceUID="1.2.5", **attributes)
    pointers = (0x00209056, 0x00209057, 0x00209128)
    dataset.DimensionIndexSequence = [item(DimensionIndexPointer=pointer, FunctionalGroupPointer=0x00209111) for pointer in pointers]
    dataset.SharedFunctionalGroupsSequence = [
        item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=[f"{value:.10g}" for value in orientation])],
            PixelMeasuresSequence=[item(PixelSpacing=list(SPACING), SliceThickness=GAP)],
        )
    ]
    dataset.PerFrameFunctionalGroupsSequence = groups
    put_pixels(dataset, np.stack(pixels))
    return save(dataset, path)


def test_an_enhanced_object_is_one_volume(tmp_path):
    write_enhanced(tmp_path / "a", [(k, 5.0, "MAGNITUDE", 1, 0) for k in (3, 0, 4, 1, 2)], rotation(5))
    assert_in_place(volume_of(tmp_path))


@pytest.mark.parametrize("frames", [
    [(k, echo, "MAGNITUDE", 1, 1000 * echo) for echo in (1, 2) for k in range(SLICES)],
    [(k, 1, component, 1, 1000 * n) for k in range(SLICES) for n, component in enumerate(("MAGNITUDE", "PHASE"), 1)],
    [(k, 1, "MAGNITUDE", time, 1000 * time) for time in (1, 2) for k in range(SLICES)],
])  # fmt: skip
def test_an_enhanced_object_of_several_contrasts_is_several_volumes(tmp_path, frames):
    write_enhanced(tmp_path / "a", frames)
    cases = find_series(tmp_path).cases
    assert [case.status for case in cases] == ["ok", "ok"] and len({case.patient for case in cases}) == 1
    for n, case in enumerate(cases, start=1):
        volume = case.images[0].read()
        assert_in_place(volume.with_data(volume.data - 1000 * n))


def test_an_enhanced_object_whose_frames_are_not_all_described_is_refused(tmp_path):
    write_enhanced(tmp_path / "a", [(k, 5.0, "MAGNITUDE", 1, 0) for k in range(SLICES)])
    from pydicom import dcmread

    dataset = dcmread(tmp_path / "a")
    dataset.PerFrameFunctionalGroupsSequence = dataset.PerFrameFunctionalGroupsSequence[:-1]
    save(dataset, tmp_path / "a")
    assert only(tmp_path).status == "unreadable"


@pytest.mark.parametrize("tiles, reverse, private", [(5, False, False), (5, True, False), (9, False, False), (4, False, True)])
def test_a_mosaic_is_a_volume(tmp_path, tiles, reverse, private):
    orientation = rotation(2)
    axes, side = np.array(orientation).reshape(2, 3), int(np.ceil(np.sqrt(tiles)))
    normal = np.cross(*axes) * (-1 if reverse else 1)
    mosaic = np.zeros((side * ROWS, side * COLUMNS), np.int16)
    for n in range(tiles):
        row, column = divmod(n, side)
        plane = stored(intensity(places(np.array(ORIGIN) + n * GAP * normal, orientation)))
        mosaic[row * ROWS : (row + 1) * ROWS, column * COLUMNS : (column + 1) * COLUMNS] = plane
    dataset = base(MR, SeriesInstanceUID="1.2.6", RescaleSlope=SLOPE, RescaleIntercept=0, SpacingBetweenSlices=GAP, PixelSpacing=list(SPACING))
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    corner = np.array(ORIGIN) - (axes[0] * SPACING[1] * COLUMNS + axes[1] * SPACING[0] * ROWS) * (side - 1) / 2
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [f"{v:.10g}" for v in corner], [f"{v:.10g}" for v in orientation]
    if private:
        dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", tiles)
    else:
        header = csa(EchoLinePosition=(), SliceNormalVector=normal, NumberOfImagesInMosaic=(tiles,))
        dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", header)
    put_pixels(dataset, mosaic)
    save(dataset, tmp_path / "a.IMA")
    volume = volume_of(tmp_path)
    assert volume.shape == (COLUMNS, ROWS, tiles)
    assert_in_place(volume)


@given(st.binary(max_size=600), st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_damaged_csa_header_raises_nothing_strange(data, second):
    with suppress(struct.error, ValueError):
        read_csa(b"SV10\x04\x03\x02\x01" * second + data, frozenset({"NumberOfImagesInMosaic"}))


def test_a_series_that_changed_after_it_was_found_is_refused(tmp_path):
    paths = write_slices(tmp_path)
    series = ForkingPickler.loads(ForkingPickler.dumps(only(tmp_path))).images[0]  # as a worker process gets it
    paths[2].write_bytes(paths[2].read_bytes()[:-20])
    with pytest.raises(BadCase) as refused:
        series.read()
    assert refused.value.status == "unreadable" and "CANARY" not in str(refused.value) and str(tmp_path) not in str(refused.value)
