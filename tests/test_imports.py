"""What is imported when: a fresh interpreter for every question."""

import json
import resource
import subprocess
import sys

import pytest

from medldm.cli import COMMANDS, main

HEAVY = {"torch", "monai", "pytorch_lightning", "mlflow", "torchvision", "jsonargparse", "numpy", "nibabel", "matplotlib"}
REPORT = "import json, sys; print('\\n' + json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"


def loaded_by(statement: str) -> tuple[set[str], float]:
    """Top-level modules that a statement loads, and the processor's seconds that it took: other work on the machine does not count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", f"{statement}\n{REPORT}"], capture_output=True, text=True, timeout=120, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return set(json.loads(done.stdout.splitlines()[-1])), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    "statement",
    ["import medldm", *(f"from medldm.cli import main; main(['{word}'])" for word in ("--help", "--version", "prepar"))],
)
def test_what_is_asked_before_a_command_loads_nothing_heavy(statement):
    attempts = [loaded_by(statement) for _ in range(2)]
    assert attempts[0][0] & HEAVY == set()
    assert min(seconds for _, seconds in attempts) < 1.0


@pytest.mark.parametrize("name", ["prepare", "train-autoencoder", "train-diffusion", "evaluate"])
def test_help_of_a_command_is_quick_and_loads_no_torchvision(name):
    modules, seconds = loaded_by(f"from medldm.cli import main; assert main(['{name}', '--help']) == 0")
    assert "torchvision" not in modules
    assert "mlflow" not in modules or "monai" in modules  # MONAI imports it by itself
    assert seconds < 8.0


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert [name for name in COMMANDS if f"  {name} " not in text] == []
