"""The benchmark against dcm2niix: series of known geometry, and the real ones where they are on this machine."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from dicom_phantoms import GAP, MR, rotation, write_slices

pytest.importorskip("dcm2niix", reason="dcm2niix is in the extra 'dev'")


@pytest.fixture(scope="module")
def oracle():
    spec = importlib.util.spec_from_file_location("dicom_oracle", Path(__file__).parents[2] / "benchmarks" / "dicom_oracle.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_oblique_and_tilted_series_agree(oracle, tmp_path, capsys):
    for number in range(2):
        write_slices(tmp_path / f"oblique{number}", rotation(number), PatientID=str(number), sop_class=MR)
    for tilt in (12, -12):
        c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
        made = dict(PatientID=str(tilt), Manufacturer="Philips", GantryDetectorTilt=tilt)
        write_slices(tmp_path / f"tilt{tilt}", (1, 0, 0, 0, c, -s), (0, 0, GAP / c), **made)
    assert oracle.main(tmp_path) == 0
    assert "RESULT series=4 converted=4 refused=0 mismatched=0" in capsys.readouterr().out


def test_a_wrong_affine_and_a_wrong_voxel_are_found(oracle, tmp_path, monkeypatch, capsys):
    from medldm.data.dicom.series import Series

    write_slices(tmp_path, rotation(1))
    right = Series.stack
    monkeypatch.setattr(Series, "stack", lambda self: right(self)[::-1].copy())
    assert oracle.main(tmp_path) == 1 and "mismatched=1" in capsys.readouterr().out


def test_the_real_series_agree(oracle, shared_data, capsys):
    assert oracle.main(shared_data / "dicom") == 0
    assert "converted=13 refused=19 mismatched=0" in capsys.readouterr().out
