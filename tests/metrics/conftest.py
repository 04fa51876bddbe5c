"""Cohorts on disk from arrays."""

import numpy as np
import pytest
import torch

from medldm.cohort import Case, Cohort
from medldm.metrics.base import Images
from medldm.volume import Volume, write_volume


@pytest.fixture
def store(tmp_path):
    """A function that writes arrays as a cohort and opens it."""

    def write(images, labels=None, covariates=None, units=None, patients=None, spacing=1.0, name="cohort"):
        root, affine, cases = tmp_path / name, np.diag([spacing, spacing, spacing, 1.0]), []
        for i, image in enumerate(images):
            paths = [f"images/{i}.nii.gz", f"labels/{i}.nii.gz" if labels is not None else ""]
            write_volume(root / paths[0], Volume(torch.as_tensor(np.asarray(image), dtype=torch.float32)[None], affine))
            if labels is not None:
                write_volume(root / paths[1], Volume(torch.as_tensor(np.asarray(labels[i]), dtype=torch.float32)[None], affine, "label"))
            patient = patients[i] if patients else f"p{i}"
            values = {key: column[i] for key, column in (covariates or {}).items()}
            cases.append(Case(f"c{i}", patient, "", *paths, f"{name}{i}", np.shape(image), (spacing,) * 3, covariates=values))
        names = {1: "left", 2: "right"} if labels is not None else {}
        cohort = Cohort(root, tuple(cases), labels=names, covariates=units or dict.fromkeys(covariates or {}, ""))
        cohort.save()
        return Images(Cohort.load(root))

    return write
