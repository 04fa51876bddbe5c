"""Are DICOM series converted as dcm2niix converts them? Every series of a folder, ours beside an independent program.

    python benchmarks/dicom_oracle.py [FOLDER]

dcm2niix (its wheel is in the extra "dev") gets the files of one of our volumes at a time. Both results are brought to RAS. Affines are
compared by the largest distance between corresponding corners of the volume (at most 1e-3 mm), voxels by their largest difference
(at most the rounding of float32). Scaling is that of the DICOM attributes (dcm2niix -p n: not the private values of Philips).

A tilted gantry: the slices as they were taken are compared with dcm2niix's uncorrected file, voxel by voxel; our upright grid
with slices interpolated straight from each file's position, and with dcm2niix's "_Tilt" file where both interpolate (the grids may
differ in extent; dcm2niix rounds what it interpolates, hence a tolerance of 0.51). Where the slices drift the other way dcm2niix
(1.0.20260724) misplaces its "_Tilt" file by a part of a pixel; the row says so.

A row names the folder. The last line counts series by verdict; a refusal shows its status and reason.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dcm2niix
import nibabel
import numpy as np
import pydicom
from scipy import ndimage

from medldm.data.dicom.archive import find_series
from medldm.data.dicom.segmentation import Segmentation
from medldm.data.dicom.series import Series
from medldm.data.sources import SourceCase

MILLIMETRES = 1e-3
HEADERS = 0.05  # intensities; positions and directions are written with 7 digits
ROUNDED = 0.51  # dcm2niix rounds what it interpolates
DEFAULT = Path(__file__).resolve().parents[1] / ".." / "shared" / "data" / "dicom"


@dataclass
class Row:
    """One line of the table."""

    name: str
    ours: str = ""
    theirs: str = ""
    affine: float = float("nan")
    voxels: float = float("nan")
    verdict: str = "refused"
    remark: str = ""

    def __str__(self) -> str:
        figures = [f"{value:10.2g}" if np.isfinite(value) else " " * 10 for value in (self.affine, self.voxels)]
        return f"{self.name:48} {self.ours:12} {self.theirs:12} {figures[0]} {figures[1]}  {self.verdict:10} {self.remark}"


def run_dcm2niix(files: Sequence[Path], out: Path) -> dict[str, nibabel.Nifti1Image]:
    """File name -> image, of what dcm2niix makes of some files."""
    source = out / "in"
    source.mkdir(parents=True)
    for number, file in enumerate(files):
        (source / f"{number:05d}.dcm").symlink_to(file.resolve())
    command = [dcm2niix.bin, "-z", "n", "-b", "n", "-p", "n", "-f", "%s_%e", "-o", str(out), str(source)]
    subprocess.run(command, check=False, capture_output=True, timeout=600)
    return {path.name: nibabel.load(path) for path in sorted(out.glob("*.nii"))}


def difference(voxels: np.ndarray, affine: np.ndarray, theirs: nibabel.Nifti1Image) -> tuple[float, float]:
    """Largest distance of corners in mm and largest difference of voxels, relative to the largest value; both in RAS."""
    ours = nibabel.as_closest_canonical(nibabel.Nifti1Image(voxels, affine))
    theirs = nibabel.as_closest_canonical(theirs)
    if ours.shape != theirs.shape:
        return float("inf"), float("inf")
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * [*(np.array(ours.shape) - 1), 1]
    distance = np.linalg.norm((corners @ (ours.affine - theirs.affine).T)[:, :3], axis=1).max()
    a, b = np.asarray(ours.dataobj, np.float64), theirs.get_fdata()
    return float(distance), float(np.abs(a - b).max() / max(1, np.abs(b).max()))


def compare_plain(row: Row, voxels: np.ndarray, affine: np.ndarray, outputs: dict[str, nibabel.Nifti1Image]) -> None:
    """The best of dcm2niix's images: one file may hold several volumes."""
    usable = {name: image for name, image in outputs.items() if image.ndim == 3 and "_ROI" not in name}
    found = {name: difference(voxels, affine, image) for name, image in usable.items()}
    if not found:
        row.verdict, row.remark = "mismatched", "dcm2niix made no volume of it"
        return
    best = min(found, key=lambda name: sum(found[name]))
    row.theirs, (row.affine, row.voxels) = "x".join(map(str, usable[best].shape)), found[best]
    row.verdict = "converted" if row.affine <= MILLIMETRES and row.voxels <= np.finfo(np.float32).eps * 2 else "mismatched"


def compare_tilted(row: Row, series: Series, outputs: dict[str, nibabel.Nifti1Image]) -> None:
    """Slices as taken: equal voxels. Upright grid: as interpolated from the headers, and as dcm2niix's where both interpolate."""
    raw = next((image for name, image in outputs.items() if "_Tilt" not in name), None)
    upright = next((image for name, image in outputs.items() if "_Tilt" in name and "_Eq" not in name), None)
    if raw is None or upright is None:
        row.verdict, row.remark = "mismatched", "dcm2niix wrote no file without or with correction"
        return
    row.theirs = "x".join(map(str, upright.shape))
    row.voxels = difference(series.stack(), raw.affine @ _flip(raw.shape), raw)[1]
    own = from_headers(series)
    ours, theirs = (nibabel.as_closest_canonical(image) for image in (_nifti(series), upright))
    whole = np.rint(np.linalg.solve(theirs.affine, ours.affine)[:3, 3]).astype(int)  # our voxel -> theirs
    moved = theirs.affine.copy()
    moved[:3, 3] += theirs.affine[:3, :3] @ whole
    row.affine = difference(np.zeros(ours.shape), ours.affine, nibabel.Nifti1Image(np.zeros(ours.shape), moved))[0]
    row.remark = f"tilt {series.tilt_degrees:.1f} degrees; slices as taken compared; upright: differs by {own:.2g} from the headers"
    right = row.voxels <= np.finfo(np.float32).eps * 2 and own <= HEADERS
    if row.affine <= MILLIMETRES:
        a, b = _overlap(np.asarray(ours.dataobj, np.float64), theirs.get_fdata(), whole)
        interpolated = float(np.abs(a - b)[_inside(series, whole, theirs.shape)].max())
        row.remark += f", by {interpolated:.2f} from dcm2niix"
        right = right and interpolated <= ROUNDED
    else:
        row.remark += "; dcm2niix puts its upright file beside by a part of a pixel (it moves the origin by whole pixels)"
        right = right and row.affine <= max(series.read().spacing[:2])
    row.verdict = "converted" if right else "mismatched"


def from_headers(series: Series) -> float:
    """Largest difference between the upright voxels and slices interpolated at the same places, straight from each file's header."""
    volume, stack = series.read(), series.stack()
    ijk = np.moveaxis(np.indices(volume.shape), 0, -1)
    lps = (ijk @ volume.affine[:3, :3].T + volume.affine[:3, 3]) * [-1, -1, 1]
    worst = 0.0
    for k, (file, _) in enumerate(series.slices):
        header = pydicom.dcmread(series.paths[file], stop_before_pixels=True)
        axes = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
        away = lps[:, :, k] - np.array(header.ImagePositionPatient, float)
        worst = max(worst, float(np.abs(away @ np.cross(*axes)).max()))  # mm; the slice must lie in this plane
        at = np.moveaxis(away @ axes.T / np.array(header.PixelSpacing, float)[::-1], -1, 0)
        inside = ((at >= 0) & (at <= np.array(stack.shape[:2])[:, None, None] - 1)).all(0)
        padded = ndimage.map_coordinates((stack[:, :, k] == series.padding).astype(float), at, order=1) > 0
        error = np.abs(ndimage.map_coordinates(stack[:, :, k].astype(float), at, order=1) - volume.data[0, :, :, k].numpy())
        worst = max(worst, float(error[inside & ~padded].max()))
    return worst


def _nifti(series: Series) -> nibabel.Nifti1Image:
    volume = series.read()
    return nibabel.Nifti1Image(volume.data[0].numpy(), volume.affine)


def _flip(shape: Sequence[int]) -> np.ndarray:
    """dcm2niix turns the rows of a slice around; J of DICOM -> J of its file."""
    flip = np.diag([1.0, -1.0, 1.0, 1.0])
    flip[1, 3] = shape[1] - 1
    return flip


def _overlap(a: np.ndarray, b: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The voxels that two arrays share; voxel n of `a` is voxel n + shift of `b`."""
    low = np.maximum(0, -shift)
    high = np.minimum(a.shape, np.array(b.shape) - shift)
    return tuple(array[tuple(slice(x, y) for x, y in zip(low + move, high + move, strict=True))] for array, move in ((a, 0 * shift), (b, shift)))


def _inside(series: Series, shift: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Where both programs interpolate between two rows of a slice: a pixel away from its border."""
    upright, starts = series.grid.straight()
    columns, rows, slices = series.grid.shape
    inside = np.zeros(upright.shape, np.float32)
    for k in range(slices):
        i, j = np.arange(upright.shape[0]) - starts[k, 0], np.arange(upright.shape[1]) - starts[k, 1]
        inside[:, :, k] = ((i > -0.5) & (i < columns - 0.5))[:, None] & ((j > 1) & (j < rows - 2))
    canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(inside, upright.matrix))
    return _overlap(np.asarray(canonical.dataobj), np.empty(shape), shift)[0] > 0


def compare(case: SourceCase, name: str, folder: Path) -> list[Row]:
    """The rows of a case: its image, and its label map if there is one."""
    if case.status != "ok":
        return [Row(name, remark=f"[{case.status}] {case.reason}")]
    series = case.images[0]
    row = Row(name, "x".join(map(str, series.read().shape)))
    outputs = run_dcm2niix(series.files, folder / "image")
    if series.tilt_degrees:
        compare_tilted(row, series, outputs)
    else:
        compare_plain(row, series.stack(), series.grid.matrix, outputs)
    rows = [row]
    if isinstance(case.label, Segmentation):
        volume = case.label.read()
        row = Row(f"{name} (structures)", "x".join(map(str, volume.shape)))
        outputs = run_dcm2niix(case.label.files, folder / "label")
        compare_plain(row, volume.data[0].numpy(), volume.affine, outputs)
        rows.append(row)
    return rows


def main(folder: Path) -> int:
    """Compare every series, print the table, and return 1 where one differs."""
    archive = find_series(folder)
    folders = {row[0]: row[5] for row in archive.key if row[-1] != "label"}
    print(f"{'series':48} {'ours':12} {'dcm2niix':12} {'affine/mm':>10} {'voxels':>10}  verdict    remark")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        for case in archive.cases:
            made = compare(case, f"{case.case} {folders[case.case]}"[:48], Path(temporary) / case.case)
            rows += made
            print(*made, sep="\n", flush=True)
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("converted", "refused", "mismatched")}
    print(*archive.notes, sep="\n")
    print(f"RESULT series={len(rows)} " + " ".join(f"{verdict}={count}" for verdict, count in counts.items()))
    return 1 if counts["mismatched"] else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT)
    sys.exit(main(parser.parse_args().folder))
