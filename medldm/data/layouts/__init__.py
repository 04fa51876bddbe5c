"""Sources of images: which files form a case. Reads names and small tables only, never voxels.

table    a CSV file that names the images
nnunet   dataset.json with channel_names or file_ending, imagesTr/<case>_0000.nii.gz, labelsTr/<case>.nii.gz
msd      dataset.json, imagesTr/<case>.nii.gz, labelsTr/<case>.nii.gz
bids     sub-<name>[/ses-<name>]/anat/sub-<name>[_ses-<name>]_<suffix>.nii.gz, label maps also in derivatives/
plain    images/ and labels/, a folder for each contrast and for the label maps, a folder for each patient, or a folder of files
dicom    anything else that holds DICOM files

Wherever a file ends in .nii.gz above it may be any of `covariates.ENDINGS`, but in BIDS, which is NIfTI only.
"""

from medldm.data.layouts.find import find_cases
from medldm.data.layouts.labels import label_names

__all__ = ["find_cases", "label_names"]
