"""What many tests need: phantoms, a prepared cohort, the folder of real images."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
os.environ.pop("MLFLOW_TRACKING_URI", None)  # the tests' runs belong into no store of a user


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images beside the repository; the test is skipped where it is absent."""
    folder = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real images (../shared/data) are not on this machine")
    return folder.resolve()


@pytest.fixture(scope="session")
def phantom_source(tmp_path_factory) -> Path:
    """A source folder of 8 patients, 10 scans of 16x20x16 voxels, 10 mm. Read only."""
    from medldm.data.phantom import write_phantoms

    folder = tmp_path_factory.mktemp("phantoms") / "source"
    write_phantoms(folder, patients=8, shape=(16, 20, 16), spacing=(10.0, 10.0, 10.0))
    return folder


@pytest.fixture(scope="session")
def phantom_cohort(phantom_source, tmp_path_factory):
    """The prepared `phantom_source`: two patients each in val and test. Read only."""
    from medldm.commands.prepare import prepare

    return prepare(phantom_source, tmp_path_factory.mktemp("cohorts") / "cohort", val=0.25, test=0.25)
