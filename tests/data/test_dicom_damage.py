"""DICOM files with flipped bytes and missing ends: refused with a word, never a crash."""

import numpy as np
import pytest
from dicom_phantoms import write_slices
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medldm.data.dicom.archive import find_series
from medldm.data.sources import SET_ASIDE, BadCase


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzzed")
    paths = write_slices(folder)
    return folder, paths, paths[2].read_bytes()


@given(data=st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_of_any_kind_is_refused_or_harmless(series, data):
    """Flipped bytes and truncation: nothing comes out of finding, and nothing but a refusal out of reading."""
    folder, paths, whole = series
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(128, len(whole) - 1))] = data.draw(st.integers(0, 255))
    paths[2].write_bytes(bytes(damaged[: data.draw(st.sampled_from([len(whole), data.draw(st.integers(0, len(whole)))]))]))
    for case in find_series(folder).cases:
        assert (case.status == "ok") == bool(case.images) and bool(case.reason) == (case.status != "ok")
        for image in case.images:
            try:
                assert np.isfinite(image.read().data.numpy()).all()
            except BadCase as bad:
                assert bad.status not in SET_ASIDE and "CANARY" not in str(bad)
