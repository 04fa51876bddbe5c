"""Make the average head that defacing registers from the one in the wheel of pydeface (MIT).

    pip download --no-deps pydeface==2.1.0 && unzip pydeface-2.1.0-py3-none-any.whl
    python benchmarks/deface_template.py --head pydeface/data/mean_reg2mean.nii.gz --out medldm/privacy/head/template.nii.gz

The head is turned by half of the rotation that carries it to its mirror image, averaged with the mirror image of the result, smoothed for 4 mm and
sampled there. Ends with the correlation between the turned head and its mirror image.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from medldm.files import atomic

FINE_MM, SHAPE = 2.0, (89, 129, 129)  # odd, so that a voxel lies on the mirror plane and every second one is kept


def upright(head: sitk.Image) -> tuple[np.ndarray, float]:
    """The head on a fine grid with its mirror plane in the middle [K J I], L and P first, and its correlation with its mirror image."""
    centre = np.array(head.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in head.GetSize()]))
    grid = sitk.Image(list(SHAPE), sitk.sitkFloat32)
    grid.SetSpacing([FINE_MM] * 3)
    grid.SetOrigin((centre - FINE_MM * (np.array(SHAPE) - 1) / 2).tolist())
    fixed = sitk.Resample(head, grid, sitk.Transform(), sitk.sitkLinear, 0.0)
    moving = sitk.GetImageFromArray(sitk.GetArrayFromImage(fixed)[:, :, ::-1].copy())
    moving.CopyInformation(fixed)
    turn = sitk.Euler3DTransform()
    turn.SetCenter(centre.tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsCorrelation()
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.2)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 100)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(turn, inPlace=True)
    method.Execute(fixed, moving)
    half = sitk.Euler3DTransform()
    half.SetCenter(centre.tolist())
    half.SetParameters([p / 2 for p in turn.GetParameters()])
    turned = sitk.GetArrayFromImage(sitk.Resample(head, grid, half.GetInverse(), sitk.sitkLinear, 0.0))
    return turned, float(np.corrcoef(turned.ravel(), turned[:, :, ::-1].ravel())[0, 1])


def main() -> None:
    """Write the template and print the RESULT line."""
    import nibabel

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--head", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    head = sitk.SmoothingRecursiveGaussian(sitk.ReadImage(str(options.head), sitk.sitkFloat32), 1.0)
    turned, symmetry = upright(head)
    ras = ((turned + turned[:, :, ::-1]) / 2).transpose(2, 1, 0)[::-1, ::-1]
    coarse = ndimage.gaussian_filter(ras, np.sqrt((4**2 - FINE_MM**2) / (8 * np.log(2))) / FINE_MM)[::2, ::2, ::2]
    voxels = np.clip(np.rint(coarse / np.percentile(coarse, 99.9) * 250), 0, 255).astype(np.uint8)
    voxels = np.maximum(voxels, voxels[::-1])  # rounding is no longer symmetric in the last bit
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -2.0 * (np.array(voxels.shape) - 1)
    image = nibabel.Nifti1Image(voxels, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    with atomic(options.out) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=9, mtime=0))
    print(f"RESULT symmetry={symmetry:.4f} bytes={options.out.stat().st_size}")


if __name__ == "__main__":
    main()
