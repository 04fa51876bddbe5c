"""Every preset is complete and fits its command; a misspelt key in it is refused."""

import inspect
from pathlib import Path

import pytest
import yaml

from medldm.cli import COMMANDS, arguments_of, load, main

CONFIGS = Path(__file__).parents[1] / "configs"
PRESETS = sorted(CONFIGS.rglob("*.yaml"))


def command_of(preset: Path) -> str:
    """A preset is named after its command."""
    return preset.stem.replace("_", "-")


def required(preset: Path) -> list[str]:
    """Options that a preset leaves to the user: folders."""
    content = yaml.safe_load(preset.read_text(encoding="utf-8")) or {}
    parameters = inspect.signature(load(command_of(preset))).parameters.values()
    missing = [p.name for p in parameters if p.default is p.empty and p.name not in content]
    return [part for key in missing for part in (f"--{key}", "folder")]


def test_presets_exist():
    assert PRESETS, "configs/ is empty"


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_a_preset_fits_its_command(preset):
    assert command_of(preset) in COMMANDS
    assert arguments_of(command_of(preset), ["--config", str(preset), *required(preset)])


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_a_misspelt_key_is_refused_by_name(preset, tmp_path, capsys):
    content = yaml.safe_load(preset.read_text(encoding="utf-8"))
    key = next(iter(content))
    wrong = tmp_path / preset.name
    wrong.write_text(yaml.safe_dump({**content, f"{key}x": 1}), encoding="utf-8")
    assert main([command_of(preset), "--config", str(wrong), *required(wrong)]) == 2
    assert f"{key}x" in capsys.readouterr().err


def test_the_phantom_presets_are_what_the_demo_does():
    from medldm.commands.demo import PHANTOM_SETTINGS
    from medldm.run import plain

    for name, settings in zip(("train_autoencoder", "train_diffusion", "train_features"), PHANTOM_SETTINGS, strict=True):
        preset = CONFIGS / "phantom" / f"{name}.yaml"
        given = arguments_of(command_of(preset), ["--config", str(preset), *required(preset)])
        assert {key: plain(given[key]) for key in settings} == plain(settings)
