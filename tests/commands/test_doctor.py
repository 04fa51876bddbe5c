"""`medldm doctor`: a fit machine passes, an unfit one is refused with the reason."""

import subprocess
from types import SimpleNamespace

import pytest

from medldm.cli import main
from medldm.commands import doctor as module
from medldm.commands.doctor import doctor
from medldm.errors import UserError


@pytest.fixture(autouse=True)
def _no_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_this_machine_is_usable_and_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == 0
    table = capsys.readouterr().out
    assert [word for word in ("torch", "monai", "memory", "disk", "bfloat16", "tracking") if word not in table] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (("_installed", lambda name: "1.0.0" if name == "monai" else "99" if name == "torch" else "2.9"), "monai"),
        (("_installed", lambda name: None if name == "scipy" else module.version(name)), "scipy"),
        (("LEAST_MEMORY_GIB", 1e9), "memory"),
        (("LEAST_DISK_GIB", 1e9), "disk"),
    ],
)
def test_an_unfit_machine_is_refused(monkeypatch, wrong, named):
    monkeypatch.setattr(module, *wrong)
    monkeypatch.setattr(module, "store", lambda: module.Finding("tracking", "SQLite works"))
    with pytest.raises(UserError, match=f"{named}: "):
        doctor()


@pytest.mark.parametrize(("code", "problem"), [(0, False), (1, True)])
def test_a_torchvision_that_cannot_be_imported_is_a_problem(monkeypatch, code, problem):
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: SimpleNamespace(returncode=code))
    assert bool(module._torchvision().problem) is problem
