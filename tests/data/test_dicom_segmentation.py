"""SEG and RTSTRUCT become label maps on the grid of the series that they refer to."""

import numpy as np
import pytest
from dicom_phantoms import (
    AXIAL,
    COLUMNS,
    GAP,
    MR,
    ROWS,
    RTSTRUCT,
    SEG,
    SLICES,
    SPACING,
    base,
    item,
    put_pixels,
    rotation,
    save,
    write_slices,
)
from pydicom import Dataset, dcmread

from medldm.commands.check import check_all
from medldm.data.dicom.archive import find_series
from medldm.data.dicom.segmentation import _clean
from medldm.data.dicom.tags import identifying
from medldm.data.layouts import find_cases
from medldm.data.sources import BadCase


def images(paths):
    """The slices in order."""
    return sorted((dcmread(path) for path in paths), key=lambda dataset: dataset.InstanceNumber)


def write_seg(path, slices, masks, fractional=False, refer=True, position=lambda p: p, orientation=None):
    """A SEG; `masks` maps a name to its mask [K rows columns]. Frames without any pixel are left out, as is usual."""
    frames, groups = [], []
    for number, mask in enumerate(masks.values(), start=1):
        for dataset, plane in zip(slices, mask, strict=True):
            if plane.any():
                frames.append(plane)
                groups.append(item(
                    PlanePositionSequence=[item(ImagePositionPatient=[f"{v:.10g}" for v in position(np.array(dataset.ImagePositionPatient, float))])],
                    SegmentIdentificationSequence=[item(ReferencedSegmentNumber=number)],
                ))  # fmt: skip
    seg = base(SEG, SeriesInstanceUID="1.2.90", Modality="SEG", SegmentationType="FRACTIONAL" if fractional else "BINARY", MaximumFractionalValue=200)
    seg.SegmentSequence = [item(SegmentNumber=n, SegmentLabel=name) for n, name in enumerate(masks, start=1)]
    shared = item(PixelMeasuresSequence=[item(PixelSpacing=list(SPACING))])
    shared.PlaneOrientationSequence = [item(ImageOrientationPatient=list(orientation or slices[0].ImageOrientationPatient))]
    seg.SharedFunctionalGroupsSequence, seg.PerFrameFunctionalGroupsSequence = [shared], groups
    if refer:
        instances = [item(ReferencedSOPInstanceUID=dataset.SOPInstanceUID) for dataset in slices]
        seg.ReferencedSeriesSequence = [item(SeriesInstanceUID=slices[0].SeriesInstanceUID, ReferencedInstanceSequence=instances)]
    put_pixels(seg, np.stack(frames).astype(np.uint8))
    if not fractional:
        seg.BitsAllocated = seg.BitsStored = 1
        seg.HighBit = 0
        seg.PixelData = np.packbits(np.stack(frames).astype(bool).ravel(), bitorder="little").tobytes()
        seg.PixelData += b"\0" * (len(seg.PixelData) % 2)
    return save(seg, path)


def write_rtstruct(path, slices, contours, by_series=True):
    """An RTSTRUCT; `contours` maps a name to (slice, points (column, row) in pixels) pairs."""
    rois, drawn = [], []
    for number, (name, polygons) in enumerate(contours.items(), start=1):
        rois.append(item(ROINumber=number, ROIName=name))
        lines = []
        for k, points in polygons:
            dataset = slices[k]
            axes = np.array(dataset.ImageOrientationPatient, float).reshape(2, 3)
            lps = np.array(dataset.ImagePositionPatient, float) + np.array(points) * SPACING[::-1] @ axes
            lines.append(item(ContourGeometricType="CLOSED_PLANAR", ContourData=[f"{v:.8g}" for v in lps.ravel()]))
        drawn.append(item(ReferencedROINumber=number, ContourSequence=lines))
    dataset = base(RTSTRUCT, SeriesInstanceUID="1.2.91", Modality="RTSTRUCT")
    dataset.StructureSetROISequence, dataset.ROIContourSequence = rois, drawn
    if by_series:
        series = item(SeriesInstanceUID=slices[0].SeriesInstanceUID)
        dataset.ReferencedFrameOfReferenceSequence = [item(RTReferencedStudySequence=[item(RTReferencedSeriesSequence=[series])])]
    return save(dataset, path)


def label_of(folder):
    archive = find_series(folder)
    (case,) = (case for case in archive.cases if case.images)
    assert case.label.short == f"{case.case}_label"
    label, image = case.label.read(), case.images[0].read()
    np.testing.assert_array_equal(label.affine, image.affine)
    assert label.shape == image.shape and label.unit == "label"
    return label.data[0].numpy(), archive


def random_mask(seed):
    return np.random.default_rng(seed).random((SLICES, ROWS, COLUMNS)) > 0.7


def expected(*masks):
    """Masks [K rows columns] as label values 1, 2 ... [I J K]; later ones win."""
    labels = np.zeros((COLUMNS, ROWS, SLICES))
    for value, mask in enumerate(masks, start=1):
        labels[np.transpose(mask, (2, 1, 0))] = value
    return labels


@pytest.mark.parametrize("fractional", [False, True])
@pytest.mark.parametrize("orientation", [AXIAL, rotation(4)], ids=["axial", "oblique"])
def test_a_segmentation(tmp_path, fractional, orientation):
    slices = images(write_slices(tmp_path, orientation))
    kidney, liver = random_mask(0), random_mask(1)
    liver[2] = False  # its frame is left out
    stored = [np.where(mask, 101, 100) if fractional else mask for mask in (liver, kidney)]  # above and at one half of 200
    write_seg(tmp_path / "seg", slices, {"Liver ": stored[0], "Kidney (left)": stored[1]}, fractional)
    labels, archive = label_of(tmp_path)
    assert archive.labels == {1: "Kidney_left", 2: "Liver"}
    np.testing.assert_array_equal(labels, expected(kidney, liver))


def test_a_segmentation_of_a_part_turned_over_is_placed_by_position(tmp_path):
    slices, mask = images(write_slices(tmp_path)), random_mask(2)
    cropped = mask[:, ::-1, :][:, 2:, 1:]  # rows run backwards, two rows and a column are cut off
    corner = np.array([SPACING[1], (ROWS - 3) * SPACING[0], 0])
    write_seg(tmp_path / "seg", slices, {"a": cropped}, position=lambda p: p + corner, orientation=(1, 0, 0, 0, -1, 0))
    labels, _ = label_of(tmp_path)
    kept = mask.copy()
    kept[:, ROWS - 2 :], kept[:, :, 0] = False, False
    np.testing.assert_array_equal(labels, expected(kept))


@pytest.mark.parametrize("shift, turned, words", [((0, 0, 1.2), None, "beside"), ((0, 0, 500), None, "no frame"), ((0, 0, 0), rotation(3), "turned")])
def test_a_segmentation_elsewhere_is_refused(tmp_path, shift, turned, words):
    slices = images(write_slices(tmp_path))
    write_seg(tmp_path / "seg", slices, {"a": random_mask(3)}, position=lambda p: p + shift, orientation=turned)
    with pytest.raises(BadCase) as refused:
        label_of(tmp_path)
    assert refused.value.status == "grid_mismatch" and words in refused.value.reason


def test_structures_are_filled_and_inner_contours_are_holes(tmp_path):
    slices = images(write_slices(tmp_path, rotation(6)))
    outer = [(0.5, 0.5), (5.5, 0.5), (5.5, 7.5), (0.5, 7.5)]
    hole = [(1.5, 2.5), (3.5, 2.5), (3.5, 4.5), (1.5, 4.5)]
    write_rtstruct(tmp_path / "rt", slices, {"organ": [(1, outer), (1, hole), (3, outer)]})
    mask = np.zeros((SLICES, ROWS, COLUMNS), bool)
    mask[1, 1:8, 1:6], mask[3, 1:8, 1:6], mask[1, 3:5, 2:4] = True, True, False
    labels, archive = label_of(tmp_path)
    assert archive.labels == {1: "organ"}
    np.testing.assert_array_equal(labels, expected(mask))


def test_structures_on_a_tilted_series_follow_its_image(tmp_path):
    """The image itself is the mask: after straightening, the label is where the image is bright."""

    def bright(dataset, k):
        pixels = np.zeros((ROWS, COLUMNS), np.int16)
        pixels[2:6, 1:5] = 1000
        dataset.PixelData, dataset.RescaleSlope = pixels.tobytes(), 1

    slices = images(write_slices(tmp_path, step=(0, 1.1, GAP), change=bright))
    box = [(0.5, 1.5), (4.5, 1.5), (4.5, 5.5), (0.5, 5.5)]
    write_rtstruct(tmp_path / "rt", slices, {"box": [(k, box) for k in range(SLICES)]})
    labels, archive = label_of(tmp_path)
    (case,) = (case for case in archive.cases if case.images)
    image = case.images[0].read().data[0].numpy()
    assert labels.any() and (image[labels == 1] >= 500 - 1).all() and (image[labels == 0] <= 500 + 1).all()


def test_one_value_for_a_name_across_an_archive(tmp_path):
    for number, names in enumerate((("b", "c"), ("a", "b"))):
        folder = tmp_path / str(number)
        slices = images(write_slices(folder, PatientID=str(number), SeriesInstanceUID=f"1.2.{number + 1}0"))
        masks = [np.zeros((SLICES, ROWS, COLUMNS), bool) for _ in names]
        masks[0][:, 1], masks[1][:, 2] = True, True
        write_seg(folder / "seg", slices, dict(zip(names, masks, strict=True)))
    archive = find_series(tmp_path)
    assert archive.labels == {1: "a", 2: "b", 3: "c"}
    assert sorted(case.label.read().data.unique().tolist() for case in archive.cases) == [[0, 1, 2], [0, 2, 3]]
    assert [row[7] for row in archive.key] == ["ok", "label", "ok", "label"]


def test_structures_find_the_only_series_of_their_coordinates(tmp_path):
    slices = images(write_slices(tmp_path))
    write_seg(tmp_path / "seg", slices, {"a": random_mask(5)}, refer=False)
    assert label_of(tmp_path)[0].any()
    write_slices(tmp_path / "second", SeriesNumber=9)
    assert sorted(case.status for case in find_series(tmp_path).cases) == ["no_volume", "ok", "ok"]  # no longer clear which


def test_structures_without_their_images_are_set_aside(tmp_path):
    paths = write_slices(tmp_path)
    write_rtstruct(tmp_path / "rt", images(paths), {"CANARY": [(1, [(0, 0), (3, 0), (3, 3)])]})
    write_rtstruct(tmp_path / "empty", images(paths), {"nothing": []})
    for path in paths:
        path.unlink()
    archive = find_series(tmp_path)
    assert [case.status for case in archive.cases] == ["no_volume", "no_volume"] and archive.labels == {}
    assert "CANARY" not in repr(archive.cases)


def test_a_damaged_segmentation_is_refused(tmp_path):
    slices = images(write_slices(tmp_path))
    path = write_seg(tmp_path / "seg", slices, {"a": random_mask(6)})
    whole = path.read_bytes()
    (case,) = (case for case in find_series(tmp_path).cases if case.images)
    rng = np.random.default_rng(0)
    for cut in (*rng.integers(0, len(whole), 15).tolist(), len(whole) - 3):
        path.write_bytes(whole[:cut])
        with pytest.raises(BadCase):
            case.label.read()


@pytest.mark.parametrize("name, left", [
    ("Lesion Muster 01.02.1950", "Lesion"), ("PTV_54 seen 19500201 by Arzt", "PTV_54_seen_by"), ("Muster, Anna", "structure_1"),
    ("GTV2 level IV 2019-03-04", "GTV2_level_IV"), ("T12 1987", "T12"), ("id-77 liver", "liver"),
])  # fmt: skip
def test_names_of_structures_tell_nothing_of_the_patient(tmp_path, name, left):
    slices = images(write_slices(tmp_path))
    path = write_seg(tmp_path / "seg", slices, {name: random_mask(0)})
    dataset = dcmread(path)
    dataset.PatientName, dataset.PatientID, dataset.ReferringPhysicianName = "Muster^Anna", "id-77", "Arzt"
    dataset.save_as(path)
    assert find_series(tmp_path).labels == {1: left}


def test_structures_that_name_another_patient_are_told(tmp_path):
    slices = images(write_slices(tmp_path))
    path = write_seg(tmp_path / "seg", slices, {"liver": random_mask(0)})
    dataset = dcmread(path)
    dataset.PatientID = "another"
    dataset.save_as(path)
    assert any("1 files of structures name another patient" in note for note in find_series(tmp_path).notes)


def test_a_modality_without_any_label_map_needs_none(tmp_path):
    slices = images(write_slices(tmp_path / "ct"))
    write_seg(tmp_path / "ct/seg", slices, {"liver": random_mask(0)})
    write_slices(tmp_path / "mr", sop_class=MR, Modality="MR", RescaleType="US")
    source = find_cases(tmp_path)
    assert {case.modality: bool(case.label) for case in source.cases} == {"CT": True, "MR": False}
    assert "no_label" not in {finding.status for finding in check_all(source, 1, False, ["not_hu"])}
    write_slices(tmp_path / "ct2", PatientID="other")
    found = {finding.status for finding in check_all(find_cases(tmp_path), 1, False, ["not_hu"])}
    assert "no_label" in found


@pytest.mark.parametrize(("person", "name", "kept"), [
    ("O'Shea^Pat", "GTV_OShea", "GTV"), ("O'Shea^Pat", "Patella", "Patella"), ("Koch^Anna", "CTV_AnnaKoch", "CTV"),
    ("Koch^Anna", "KochLung2", "Lung2"),
    ("Koch^Anna", "Kochlear", "Kochlear"), ("Koch^Anna", "ANNA koch 12.3.1950 liver", "liver"),
])  # fmt: skip
def test_names_of_structures_lose_those_of_people_also_joined_ones(person, name, kept):
    data = Dataset()
    data.PatientName = person
    assert _clean(name, identifying(data)) == kept
