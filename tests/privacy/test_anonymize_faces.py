"""Faces in trees of files: what becomes air, what stays bit by bit, and what is refused when it cannot be told."""

import csv
import shutil
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import planted as p
import pydicom
import pytest
import torch
from dicom_phantoms import ENHANCED_MR, MR, SEG, assert_in_place, base, csa, item, put_pixels, save, write_slices
from heads import GRID, MATRIX, SHAPE, along, head, moved
from pydicom.uid import ExplicitVRBigEndian, RLELossless
from scipy import ndimage

from medldm.commands.anonymize import anonymize
from medldm.errors import UserError
from medldm.privacy import stacks
from medldm.privacy.faces import UNSCALED, Finding, look, may_show_face
from medldm.privacy.head_template import in_face
from medldm.privacy.nifti import find_face
from medldm.privacy.slices import slices_of
from medldm.privacy.voxels import without_face
from medldm.volume import Volume

FACE = Finding("removed", 0.146, tuple(map(tuple, MATRIX.tolist())), air=9.0)
TURN = moved((12, 4, -9), (1, 1, 1), (40, -25, 60))
SAGITTAL = TURN @ np.array([[0, 0, 4.0, -100], [-4, 0, 0, 132], [0, -4, 0, 128], [0, 0, 0, 1]])  # rows from front to back, columns downwards
COARSE, FEW = GRID @ np.diag([2.0, 2, 4, 1]), (26, 34, 16)  # 8 x 8 x 16 mm: where the search is replaced, a few slices are enough
SLOPE, INTERCEPT = 0.5, -20.0
REFUSED = ("poor registration", "wrong orientation", "not readable as a volume")
COPIED = ("already defaced", "no face found", "cut off", "not a head", "too small to show one")


def audit(out: Path) -> list[list[str]]:
    with open(out / "audit.csv", encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))[1:]


def faces(out: Path) -> set[str]:
    return {action for _, element, action in audit(out) if element == "face"}


def found(monkeypatch, finding: Finding | None) -> None:
    """Let every search end with this finding; None: no search may take place."""

    def answer(volume):
        assert finding is not None, "searched"
        return finding

    monkeypatch.setattr("medldm.privacy.stacks.look", answer)
    monkeypatch.setattr("medldm.privacy.voxels.look", answer)


def coarse() -> Volume:
    return head(MATRIX, affine=COARSE, shape=FEW)


def truth(affine: np.ndarray, shape: tuple[int, int, int], matrix: np.ndarray = MATRIX) -> np.ndarray:
    return in_face(*along(affine, shape, matrix))


def near(mask: np.ndarray, voxels: int) -> np.ndarray:
    return ndimage.binary_dilation(mask, iterations=voxels)


def deep(mask: np.ndarray, voxels: int) -> np.ndarray:
    return ndimage.binary_erosion(mask, iterations=voxels, border_value=1)


def write_nifti(path: Path, voxels: np.ndarray) -> Path:
    """Stored values with a slope and an intercept."""
    image = nibabel.Nifti1Image(voxels, GRID)
    data = bytearray(image.to_bytes())
    data[112:120] = np.array([SLOPE, INTERCEPT], "<f4").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def stored(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj.get_unscaled())


def as_stored(volume: Volume) -> np.ndarray:
    return np.rint((volume.data[0].numpy() - INTERCEPT) / SLOPE).astype(np.int16)


def write_head(
    folder: Path, affine: np.ndarray, volume: Volume, left_out: tuple[int, ...] = (), change=lambda dataset, k: None, **attributes
) -> None:
    """A classic series."""
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    for k in range(volume.shape[2]):
        if k in left_out:
            continue
        dataset = base(MR, SeriesInstanceUID="1.2.826.5", InstanceNumber=k, RescaleSlope=SLOPE, RescaleIntercept=INTERCEPT, **attributes)
        dataset.ImagePositionPatient = [f"{x:.8g}" for x in lps[:3, 3] + k * lps[:3, 2]]
        dataset.ImageOrientationPatient = [f"{x:.8g}" for x in (lps[:3, :2] / spacing[:2]).T.ravel()]
        dataset.PixelSpacing, dataset.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        put_pixels(dataset, np.ascontiguousarray(as_stored(volume)[:, :, k].T))
        change(dataset, k)
        save(dataset, folder / f"{k:03d}.dcm")


def by_number(out: Path) -> dict[int, pydicom.Dataset]:
    return {int(d.InstanceNumber): d for d in map(pydicom.dcmread, sorted(out.rglob("*.dcm")))}


def test_a_nifti_head_is_refused_or_loses_its_face_in_every_channel(tmp_path, monkeypatch, capsys):
    """A real search. The second channel has other intensities, and NaN is none."""
    one = as_stored(head(MATRIX))
    path = write_nifti(tmp_path / "in" / "Canarowska_t1.nii", np.stack([one, 3000 - one], 3))
    write_nifti(tmp_path / "in" / "crop.nii", one[:12, :12, :12])
    anonymize(tmp_path / "in", tmp_path / "out", faces="remove")
    (after,) = (tmp_path / "out").glob("*t1.nii")
    changed, face = stored(after) != stored(path), truth(GRID, SHAPE)
    assert (changed & ~near(face, 1)[..., None]).sum() == 0 and 0.13 < changed[..., 0].mean() < 0.25
    values = stored(after)[deep(face, 1)]
    assert (values == values[0]).all() and values[0, 0] * SLOPE + INTERCEPT == pytest.approx(9.4, abs=1.5)
    assert after.read_bytes()[:352] == path.read_bytes()[:352]
    assert {action.partition(":")[0] for action in faces(tmp_path / "out")} == {"removed", "too small to show one"}
    found(monkeypatch, FACE)
    with pytest.raises(UserError, match="1 refused: shows a face; --faces remove takes it out, --faces accept keeps it"):
        anonymize(tmp_path / "in", tmp_path / "refused")
    assert len(list((tmp_path / "refused").rglob("*.nii"))) == 1
    assert p.leaks(tmp_path / "refused", ["Canarowska"]) == {} and "Canarowska" not in "".join(capsys.readouterr())


def test_a_dicom_head_with_gaps_is_found_and_only_its_face_changes(tmp_path):
    """A real search, in oblique sagittal slices of which some are missing, all compressed."""
    volume = head(TURN @ MATRIX, affine=SAGITTAL, shape=(67, 65, 51))
    write_head(tmp_path / "in", SAGITTAL, volume, (10, 11, 30), lambda dataset, k: dataset.compress(RLELossless, generate_instance_uid=False))
    before = by_number(tmp_path / "in")
    anonymize(tmp_path / "in", tmp_path / "out", tmp_path / "key.json", faces="remove")
    after, face = by_number(tmp_path / "out"), truth(SAGITTAL, (67, 65, 51), TURN @ MATRIX)
    assert set(after) == set(before) and len(after) == 48
    fills = set()
    for k, old in before.items():
        new, mask = after[k], face[:, :, k].T
        changed = new.pixel_array != old.pixel_array
        assert not (changed & ~near(mask, 2)).any()
        fills |= set(new.pixel_array[deep(face, 2)[:, :, k].T].tolist())
        assert new.file_meta.TransferSyntaxUID == ("1.2.840.10008.1.2.1" if changed.any() else RLELossless)
        assert changed.any() or new.PixelData == old.PixelData
        assert (new.RecognizableVisualFeatures, new.PatientIdentityRemoved) == ("NO", "YES")
        assert "113102" in [code.CodeValue for code in new.DeidentificationMethodCodeSequence]
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "Rows", "BitsStored", "PixelRepresentation"):
            assert new[name] == old[name]
    assert len(fills) == 1 and fills.pop() * SLOPE + INTERCEPT == pytest.approx(9.4, abs=1.5)
    assert len([row for row in audit(tmp_path / "out") if row[1] == "face" and row[2].startswith("removed: 1")]) == 48


def enhanced(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Frames in an order of their own, each with its own slope."""
    affine, rng = GRID, np.random.default_rng(0)
    pixels = rng.integers(200, 900, (SHAPE[2], SHAPE[1], SHAPE[0])).astype(np.int16)
    order, frames = rng.permutation(SHAPE[2]), []
    for k in order:
        frames.append(item(
            PlanePositionSequence=[item(ImagePositionPatient=[100, 132, -128 + 4.0 * int(k)])],
            PixelValueTransformationSequence=[item(RescaleSlope=1.0 + int(k) % 3, RescaleIntercept=-1.0)],
        ))  # fmt: skip
    shared = item(PlaneOrientationSequence=[item(ImageOrientationPatient=[-1, 0, 0, 0, -1, 0])], PixelMeasuresSequence=[item(PixelSpacing=[4, 4])])
    dataset = base(ENHANCED_MR, SeriesInstanceUID="1.2.826.6", PerFrameFunctionalGroupsSequence=frames, SharedFunctionalGroupsSequence=[shared])
    put_pixels(dataset, pixels)
    save(dataset, folder / "enhanced.dcm")
    masks = truth(affine, SHAPE)[:, :, order].transpose(2, 1, 0)
    fills = np.rint((9.0 + 1) / (1.0 + order % 3)).astype(int)[:, None, None]
    return np.where(masks, fills, pixels), masks


def big_endian(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """A classic series whose bytes are the other way round, with a second contrast at each place."""
    volume = coarse()

    lps = np.diag([-1.0, -1, 1, 1]) @ COARSE
    for k in range(FEW[2]):
        for echo in (1, 2):
            dataset = base(MR, SeriesInstanceUID="1.2.826.5", InstanceNumber=2 * k + echo, EchoNumbers=echo, RescaleSlope=1, RescaleIntercept=0)
            dataset.ImagePositionPatient, dataset.ImageOrientationPatient = (lps[:3, 3] + k * lps[:3, 2]).tolist(), [-1, 0, 0, 0, -1, 0]
            dataset.PixelSpacing = [8, 8]
            put_pixels(dataset, np.ascontiguousarray(as_stored(volume)[:, :, k].T) * echo)
            dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
            folder.mkdir(exist_ok=True)
            pydicom.dcmwrite(folder / f"{k}-{echo}.dcm", dataset, enforce_file_format=True)
    masks = np.repeat(truth(COARSE, FEW).transpose(2, 1, 0), 2, 0)
    pixels = np.repeat(as_stored(volume).transpose(2, 1, 0), 2, 0)
    pixels[1::2] *= 2
    return np.where(masks, 9, pixels), masks


def mosaic(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """25 tiles of 40 x 40 pixels of 5 mm, 7 mm apart."""
    tiles, size, pixel, gap, side = 25, 40, 5.0, 7.0, 5
    corner = np.array([100.0, 100.0, -100.0])  # LPS, rows towards the left to the right
    affine = np.array([[pixel, 0, 0, -corner[0]], [0, pixel, 0, -corner[1]], [0, 0, gap, corner[2]], [0, 0, 0, 1]])
    dataset = base(MR, SeriesInstanceUID="1.2.826.7", ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"], SpacingBetweenSlices=gap)
    dataset.ImageOrientationPatient, dataset.PixelSpacing = [-1, 0, 0, 0, -1, 0], [pixel, pixel]
    dataset.ImagePositionPatient = (corner + np.array([1, 1, 0]) * pixel * (size * side - size) / 2).tolist()
    dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(
        0x10, "OB", csa(NumberOfImagesInMosaic=[tiles], SliceNormalVector=[0, 0, 1])
    )
    pixels = np.random.default_rng(1).integers(100, 900, (size * side, size * side)).astype(np.int16)
    put_pixels(dataset, pixels)
    save(dataset, folder / "mosaic.dcm")
    masks = truth(affine, (size, size, tiles)).transpose(2, 1, 0).reshape(side, side, size, size).transpose(0, 2, 1, 3).reshape(pixels.shape)
    return np.where(masks, 9, pixels), masks


@pytest.mark.parametrize("write", [enhanced, big_endian, mosaic])
def test_the_region_is_exact_in_every_form_of_images(tmp_path, monkeypatch, write):
    """The position being known, each pixel is either in the region and air, or the same."""
    expected, masks = write(tmp_path / "in")
    assert 0.02 < masks.mean() < 0.3
    found(monkeypatch, FACE)
    anonymize(tmp_path / "in", tmp_path / "out", faces="remove")
    after = [d.pixel_array for d in by_number(tmp_path / "out").values()] if write is big_endian else [
        pydicom.dcmread(path).pixel_array for path in (tmp_path / "out").rglob("*.dcm")
    ]  # fmt: skip
    np.testing.assert_array_equal(np.squeeze(np.stack(after)), expected)
    assert faces(tmp_path / "out") == {"removed: 14.6% of the head's voxels"}


def test_nifti_voxels_of_any_kind_and_unit(tmp_path, monkeypatch):
    """Big floats with NaN around a brain, and metres: each voxel is in the region and air, or the same."""
    volume = head(MATRIX)
    voxels = np.where(volume.data[0].numpy() > 30, volume.data[0].numpy(), np.nan).astype(">f8")
    metres = np.diag([1e-3, 1e-3, 1e-3, 1]) @ GRID
    image = nibabel.Nifti1Image(voxels, metres)
    image.header.set_xyzt_units("meter")
    (tmp_path / "in").mkdir()
    nibabel.save(image, tmp_path / "in" / "a.nii.gz")
    seen = []
    monkeypatch.setattr("medldm.privacy.voxels.look", lambda volume: seen.append(volume) or FACE)
    anonymize(tmp_path / "in", tmp_path / "out", faces="remove")
    after, face = stored(next((tmp_path / "out").glob("*.nii.gz"))), truth(GRID, SHAPE)
    assert after[~face].tobytes() == stored(tmp_path / "in" / "a.nii.gz")[~face].tobytes()
    assert len(set(after[face].tolist())) == 1 and after[face][0] < 60
    np.testing.assert_allclose(seen[0].affine, GRID)
    assert torch.isfinite(seen[0].data).all() and seen[0].unit == "a.u."


@pytest.mark.parametrize("status", [*REFUSED, *COPIED])
@pytest.mark.parametrize("faces_", ["refuse", "remove"])
def test_what_cannot_be_told_is_refused_and_what_has_no_face_is_copied(tmp_path, monkeypatch, status, faces_):
    one = as_stored(coarse())
    path = write_nifti(tmp_path / "in" / "a.nii", one)
    write_head(tmp_path / "in", COARSE, coarse())
    found(monkeypatch, Finding(status, 0.1, FACE.matrix, 9.0))
    if status in REFUSED:
        with pytest.raises(UserError, match=f"17 refused: may show a face, which cannot be told \\({status}\\); --faces accept"):
            anonymize(tmp_path / "in", tmp_path / "out", faces=faces_)
        assert not list((tmp_path / "out").rglob("*.nii")) and not list((tmp_path / "out").rglob("*.dcm"))
        return
    anonymize(tmp_path / "in", tmp_path / "out", faces=faces_)
    (after,) = (tmp_path / "out").rglob("*.nii")
    assert (stored(after) == stored(path)).all() and faces(tmp_path / "out") == {status}
    files = by_number(tmp_path / "out")
    assert len(files) == 16 and all((one[:, :, k] == files[k].pixel_array.T).all() and "RecognizableVisualFeatures" not in files[k] for k in files)


def test_a_search_that_breaks_down_is_a_refusal_without_its_words(tmp_path, monkeypatch, capsys):
    def breaks(volume):
        raise RuntimeError("Canarowska")

    monkeypatch.setattr("medldm.privacy.stacks.look", breaks)
    monkeypatch.setattr("medldm.privacy.voxels.look", breaks)
    write_nifti(tmp_path / "in" / "a.nii", as_stored(coarse()))
    write_head(tmp_path / "in", COARSE, coarse())
    with pytest.raises(UserError, match="17 refused: may show a face, which cannot be told") as error:
        anonymize(tmp_path / "in", tmp_path / "out", faces="remove")
    assert p.leaks(tmp_path / "out", ["Canarowska"]) == {} and "Canarowska" not in str(error.value) + "".join(capsys.readouterr())


def test_accepted_faces_are_not_even_sought(tmp_path, monkeypatch):
    found(monkeypatch, None)
    write_nifti(tmp_path / "in" / "a.nii", as_stored(coarse()))
    anonymize(tmp_path / "in", tmp_path / "out", faces="accept")
    assert faces(tmp_path / "out") == set()


@pytest.mark.parametrize("kind", ["inverted", "nowhere", "damaged", "no decoder", "colours"])
def test_slices_that_nobody_can_search_are_refused_and_nothing_of_them_is_written(tmp_path, monkeypatch, kind):
    """One contrast of a head is of no use, or all of it: in the first case the other one is searched."""
    found(monkeypatch, Finding("not a head"))

    def change(dataset, k):
        if kind == "inverted":
            dataset.PhotometricInterpretation = "MONOCHROME1"
        if kind == "nowhere":
            del dataset.ImagePositionPatient
        if kind == "damaged":
            dataset.RescaleSlope = 1e39
        if kind == "no decoder":
            dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.103"  # MPEG4
            dataset.PixelData = pydicom.encaps.encapsulate([b"\0" * 20])
            dataset["PixelData"].is_undefined_length = True
        if kind == "colours":
            dataset.PixelData, dataset.SamplesPerPixel, dataset.PlanarConfiguration = dataset.PixelData * 3, 3, 0

    write_head(tmp_path / "in", COARSE, coarse(), change=change)
    with pytest.raises(UserError, match="16 refused: may show a face, which cannot be told"):
        anonymize(tmp_path / "in", tmp_path / "out", faces="remove")
    if kind == "nowhere":
        return
    write_head(tmp_path / "in" / "other", COARSE, coarse(), EchoNumbers=2)
    with pytest.raises(UserError, match="16 refused"):
        anonymize(tmp_path / "in", tmp_path / "again", faces="remove")
    assert len(list((tmp_path / "again").rglob("*.dcm"))) == 16 and faces(tmp_path / "again") == {"not a head"}


def test_few_slices_are_copied_whatever_they_are(tmp_path, monkeypatch):
    found(monkeypatch, None)
    write_head(tmp_path / "in" / "a", GRID, head(MATRIX), tuple(range(14, 65)))  # 56 mm
    write_head(tmp_path / "in" / "b", GRID, head(MATRIX), tuple(range(5, 65)), lambda d, k: delattr(d, "ImagePositionPatient"), SeriesNumber=9)
    for path in (tmp_path / "in" / "b").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID = "1.2.826.99"
        dataset.save_as(path)
    seg = base(SEG, SeriesInstanceUID="1.2.826.5", Modality="SEG")
    put_pixels(seg, np.ones((60, 64, 64), np.uint8))
    save(seg, tmp_path / "in" / "seg")
    anonymize(tmp_path / "in", tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 20 and faces(tmp_path / "out") == {"too small to show one"}
    assert len([row for row in audit(tmp_path / "out") if row[1] == "face"]) == 19


def test_a_searched_volume_has_every_intensity_in_its_place(tmp_path):
    """Slices of a tilted gantry with a second contrast in the same place, and one that is missing: linear intensities tell where each is."""
    tilt = np.array([0, -1.0, 3.0])
    write_slices(tmp_path / "a", step=tilt, change=lambda dataset, k: setattr(dataset, "EchoNumbers", 1))
    write_slices(tmp_path / "b", step=tilt, change=lambda d, k: (setattr(d, "EchoNumbers", 2), setattr(d, "RescaleIntercept", 5000)))
    next(path for path in (tmp_path / "a").iterdir() if pydicom.dcmread(path).InstanceNumber == 3).unlink()
    next(path for path in (tmp_path / "b").iterdir() if pydicom.dcmread(path).InstanceNumber == 3).unlink()
    paths = sorted(tmp_path.rglob("IM*"))
    stack = stacks._Stack(tuple(one for n, path in enumerate(paths) for one in slices_of(pydicom.dcmread(path), n)))
    volume, bad = stack.volume(paths)
    assert not bad and len(stack.chosen) == 4 and volume.unit == "HU" and volume.spacing == pytest.approx((3.0, 2.0, 2.0))
    inside = ndimage.binary_erosion(volume.data[0].numpy() > float(volume.data.min()))
    assert inside.sum() > 20
    assert_in_place(volume, tolerance=0.3, where=inside)


@pytest.mark.parametrize(
    ("shape", "extent", "searched"),
    [
        ((256, 256, 180), (256, 256, 180), True),
        ((10, 256, 256), (60, 240, 240), True),
        ((10, 256, 256), (59, 240, 240), False),
        ((64, 64, 64), (250, 99, 64), False),
        ((5, 256, 256), (100, 240, 240), False),
        ((15, 15, 64), (150, 150, 150), False),
    ],
)
def test_what_is_large_enough_for_a_face(shape, extent, searched):
    assert may_show_face(shape, extent) is searched


def test_the_outline_decides_where_intensities_settle_nothing(monkeypatch):
    """As in label maps of brains, the names of whose structures are in no order."""
    labels = torch.zeros(1, 8, 8, 8)
    labels[0, 2:6, 2:6, 2:6] = torch.arange(3, 67).reshape(4, 4, 4)
    seen, answers = [], []

    def judge(volume, position):
        seen.append(volume.data)
        status = answers[len(seen) - 1]
        return SimpleNamespace(status=status, faceless=status in ("removed", "no face found"), removed=0.0, matrix=())

    monkeypatch.setattr("medldm.privacy.faces.find_head", lambda volume: None)
    monkeypatch.setattr("medldm.privacy.faces.judge", judge)
    for answers in (["poor registration", "no face found"], ["poor registration", "not a head"], ["wrong orientation"], ["not a head"]):
        seen.clear()
        assert look(Volume(labels, GRID)).status == (answers[-1] if answers[-1] != "not a head" else answers[0]) and len(seen) == len(answers)
    assert look(Volume(torch.full((1, 8, 8, 8), 3.0), GRID)).status == "not a head"


def test_a_real_enhanced_head_loses_its_face(shared_data, tmp_path):
    source = shared_data / "dicom" / "mr_siemens_xa30_enhanced_t1_face"
    path = sorted(path for path in source.rglob("*") if path.is_file())[0]
    (tmp_path / "in").mkdir()
    shutil.copy(path, tmp_path / "in")
    anonymize(tmp_path / "in", tmp_path / "out", faces="remove")
    before, after = pydicom.dcmread(path), pydicom.dcmread(next((tmp_path / "out").rglob("*.dcm")))
    changed = before.pixel_array != after.pixel_array
    assert 0.05 < changed.mean() < 0.3 and len(np.unique(after.pixel_array[changed])) == 1
    assert after.pixel_array[changed][0] < 20 and after.RecognizableVisualFeatures == "NO"
    # sagittal frames with rows downwards and columns backwards: in the middle ones nothing is left before the frontal bone below the brows
    tissue, middle = after.pixel_array > 100, len(changed) // 2
    nose = (before.pixel_array > 100)[middle - 3 : middle + 3].any(0)
    first_before, first_after = (np.where(t.any(1), t.argmax(1), 128) for t in (nose, tissue[middle - 3 : middle + 3].any(0)))
    assert ((first_after - first_before)[50:75] * 2 > 15).all()


def test_a_real_tilted_ct_with_two_gaps_loses_its_face(shared_data, tmp_path):
    source = shared_data / "dicom" / "ct_ge_head_gantry_tilt"
    anonymize(source, tmp_path / "out", tmp_path / "key.json", faces="remove")
    before = {float(d.ImagePositionPatient[2]): d for d in (pydicom.dcmread(q) for q in source.rglob("*") if q.is_file())}
    after = {float(d.ImagePositionPatient[2]): d for d in (pydicom.dcmread(q) for q in (tmp_path / "out").rglob("*.dcm"))}
    assert set(after) == set(before) and len(after) == 28
    changed = [(before[z].pixel_array != after[z].pixel_array) for z in sorted(after)]
    share = np.array([c.mean() for c in changed])
    assert share[:8].min() > 0.1 and share[-12:].max() == 0  # the vertex keeps its bits
    (fill,) = {int(v) for z, c in zip(sorted(after), changed, strict=True) for v in np.unique(after[z].pixel_array[c])}
    assert -1010 < fill * float(before[z0 := min(before)].RescaleSlope) + float(before[z0].RescaleIntercept) < -980


def forms() -> dict[str, tuple[np.ndarray, np.ndarray, str]]:
    """A head in forms that hide it from a search of the first volume in mm, and what is found in each."""
    plain = head(MATRIX)
    image, affine = plain.data[0].numpy(), plain.affine
    brain = np.where(truth(affine, image.shape), image.min(), image)
    brain[~ndimage.binary_erosion(image > image.min() + 0.2 * np.ptp(image), iterations=5)] = image.min()
    offset = (image - image.min()) / np.ptp(image) * 4000 - 32768
    metres = np.diag([0.001, 0.001, 0.001, 1.0]) @ affine
    return {
        "the second volume": (np.stack([brain, image], -1), affine, "removed"),
        "lowest values": (offset.astype(np.int16), affine, "removed"),
        "metres": (image, metres, UNSCALED),
    }


def test_two_faces_in_two_places_both_go(tmp_path):
    one = as_stored(head(MATRIX))
    write_nifti(tmp_path / "in" / "x.nii", np.stack([one, np.roll(one, 3, axis=1)], 3))
    anonymize(tmp_path / "in", tmp_path / "out", faces="remove")
    (path,) = (tmp_path / "out").rglob("*.nii")
    assert not any(finding.face for finding in find_face(path))
    assert len([row for row in audit(tmp_path / "out") if row[1] == "face"]) == 2


@pytest.mark.parametrize("order", [(3, 0, 1, 2), (0, 1, 3, 2)])
def test_a_head_whose_axes_are_not_the_first_three_is_refused(tmp_path, order):
    image = head(MATRIX).data[0].numpy()[..., None].transpose(order)
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(image), GRID), tmp_path / "x.nii.gz")
    assert find_face(tmp_path / "x.nii.gz")[0].refusal(remove=True)


def test_outliers_hide_no_volume(tmp_path):
    image = head(MATRIX).data[0].numpy()
    volumes = np.stack([np.random.default_rng(0).normal(0, 1, image.shape).astype(np.float32), image.copy()], 3)
    volumes[0, 0, 0] = -20000
    nibabel.save(nibabel.Nifti1Image(volumes, GRID), tmp_path / "x.nii.gz")
    assert any(finding.refusal(remove=False) for finding in find_face(tmp_path / "x.nii.gz"))


@pytest.mark.parametrize("form", ["the second volume", "lowest values", "metres"])
def test_faces_that_lie_where_few_would_look_are_found(tmp_path, form):
    voxels, affine, status = forms()[form]
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "x.nii.gz")
    finding = find_face(tmp_path / "x.nii.gz")[0]
    assert finding.status == status and finding.refusal(remove=False)
    assert bool(finding.refusal(remove=True)) == (status == UNSCALED)
    if finding.face:
        after = nibabel.Nifti1Image.from_bytes(without_face(nibabel.load(tmp_path / "x.nii.gz").to_bytes(), finding)).get_fdata()
        face = deep(truth(affine, voxels.shape[:3]), 2)
        last, before = (x.reshape(*voxels.shape[:3], -1)[..., -1] for x in (after, voxels.astype(float)))
        assert (last != before)[face].mean() > 0.5 and last[face].max() < np.percentile(before, 75)


def test_volumes_of_a_time_series_are_searched_once_and_others_each(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("medldm.privacy.voxels.look", lambda volume: seen.append(volume) or Finding("no face found"))
    rng = np.random.default_rng(0)
    series = coarse().data[0].numpy()[..., None] + rng.normal(0, 0.5, (*FEW, 6))
    series[..., 3] = 0
    series[:13, ..., 5] = series.min()
    nibabel.save(nibabel.Nifti1Image(series.astype(np.float32), COARSE), tmp_path / "x.nii.gz")
    assert find_face(tmp_path / "x.nii.gz") == (Finding("no face found"),)
    assert len(seen) == 2
