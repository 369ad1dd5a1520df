"""`barque nemesis`: what needs no node."""

import json
from pathlib import Path

from tests.cli.support import run_barque


def test_presets_are_listed() -> None:
    """`--list` names every preset, for people and for programs, and runs nothing."""
    said = run_barque("nemesis", "--list").stdout
    presets = json.loads(run_barque("nemesis", "--list", "-o", "json").stdout)
    assert len(presets) == len(said.splitlines()) == 18
    assert all(line.split(":")[0] in presets for line in said.splitlines())


def test_a_wrong_preset_is_a_usage_error() -> None:
    """Nothing is tried; the exit code is 2, the line says where the names are."""
    done = run_barque("nemesis", "--preset", "wishes")
    assert done.returncode == 2
    assert "--list" in done.stderr


def test_a_run_that_is_there_already_is_not_overwritten(tmp_path: Path) -> None:
    """The same seed in the same directory is refused before anything starts."""
    (tmp_path / "crashes-7").mkdir()
    done = run_barque("nemesis", "--preset", "crashes", "--seed", "7", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "choose another" in done.stderr
