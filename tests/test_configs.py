"""Every preset is complete and fits its command; a misspelt key in it is refused."""

from pathlib import Path

import pytest
import yaml

from medldm.cli import COMMANDS, arguments_of, main

CONFIGS = Path(__file__).parents[1] / "configs"
PRESETS = sorted(CONFIGS.rglob("*.yaml"))


def command_of(preset: Path) -> str:
    """A preset is named after its command."""
    return preset.stem.replace("_", "-")


def required(preset: Path) -> list[str]:
    """Options that a preset leaves to the user: folders."""
    content = yaml.safe_load(preset.read_text(encoding="utf-8")) or {}
    from medldm.cli import parser_of

    parser = parser_of(command_of(preset))
    missing = [key for key in parser.required_args if key not in content]
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
    wrong.write_text(yaml.safe_dump({f"{key}x" if name == key else name: value for name, value in content.items()}), encoding="utf-8")
    assert main([command_of(preset), "--config", str(wrong), *required(wrong)]) == 2
    assert f"{key}x" in capsys.readouterr().err
