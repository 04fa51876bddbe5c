"""De-identification without a tracking store for each test: the one test that is about it brings it back."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest


@pytest.fixture(autouse=True)
def untracked(request, monkeypatch):
    """Leave MLflow out, unless a test asks for the fixture `tracking`."""
    if "tracking" not in request.fixturenames and request.module.__name__.startswith("test_anonymize"):
        from medldm.commands import anonymize

        @contextmanager
        def nothing(run, reads):
            yield SimpleNamespace(metrics=lambda values: None)

        monkeypatch.setattr(anonymize, "tracked", nothing)


@pytest.fixture
def tracking():
    """Asks for the real store."""
