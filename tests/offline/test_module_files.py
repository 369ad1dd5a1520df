"""The offline tools and the files of a snapshot module, of which they have no code."""

import asyncio
import json
from pathlib import Path

import pytest
from tests.cli.support import run_barque
from tests.log.modules import FileModule, NoteMachine
from tests.nodes import Nodes, until
from tests.offline.support import copy

import barque
from barque.log.disk import ReadingDisk
from barque.offline.inspection import snapshot_findings
from barque.offline.snapshot_files import export_snapshot, find_snapshots


async def write(directory: Path) -> Path:
    """A node with a snapshot that a module has written; its data directory."""
    made = Nodes(directory, 1, snapshots=barque.SnapshotsConfig(min_interval=1))
    await made.start(machines={"notes": NoteMachine(FileModule())})
    try:
        async with made.client() as client:
            await client.start_cluster("notes", "notes")
            await client.process_command("notes", ["one", "1"])

            async def kept() -> bool:
                return (await client.overview("notes")).log["snapshot_index"] > 0

            await until(kept, "a snapshot")
    finally:
        await made.stop()
    return directory / "n1"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of such a node, stopped."""
    return asyncio.run(write(tmp_path_factory.mktemp("module")))


def test_a_module_s_snapshot_is_listed_and_inspected(data_dir: Path) -> None:
    """The list names the module; `inspect` shows its facts and its files."""
    [found] = find_snapshots(ReadingDisk(), str(data_dir))
    assert "'files' version 2" in found.module
    assert not found.damage
    done = run_barque("snapshot", "inspect", found.path, "-o", "json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["module"], facts["module_version"], facts["facts"]) == ("files", 2, {"notes": 1})
    assert [file["name"] for file in facts["files"]] == ["count", "notes"]
    assert found.bytes == facts["bytes"] + sum(file["size"] for file in facts["files"])


def test_a_module_s_snapshot_is_not_exported(data_dir: Path, tmp_path: Path) -> None:
    """It is more than one file; the message says what to copy."""
    [found] = find_snapshots(ReadingDisk(), str(data_dir))
    with pytest.raises(barque.ConfigurationError, match="barque backup create"):
        export_snapshot(found.path, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["none", "byte", "gone", "more"])
def test_damage_of_a_module_s_files_is_found(data_dir: Path, tmp_path: Path, damage: str) -> None:
    """A file that differs, is missing, or is not listed is damage of its snapshot."""
    copied = copy(data_dir, tmp_path / "copy")
    [state] = copied.glob("servers/*/snapshots/*/state")
    if damage == "byte":
        (state / "count").write_text("2")
    elif damage == "gone":
        (state / "count").unlink()
    elif damage == "more":
        (state / "another").write_text("")
    findings = list(snapshot_findings(ReadingDisk(), str(state.parent / "snapshot"), "snapshot"))
    assert ["state/" in one.cause for one in findings] == [True] * (damage != "none")


def test_doctor_and_backup_take_the_files_as_they_are(data_dir: Path, tmp_path: Path) -> None:
    """Neither finds fault; what a backup restores has every file, and its checksums are right."""
    backup, again = str(tmp_path / "backup"), str(tmp_path / "again")
    for arguments in (
        ("doctor", "--data-dir", str(data_dir)),
        ("backup", "create", backup, "--data-dir", str(data_dir)),
        ("backup", "verify", backup),
        ("backup", "restore", backup, "--to", again),
    ):
        done = run_barque(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    [found] = find_snapshots(ReadingDisk(), again)
    assert list(snapshot_findings(ReadingDisk(), found.path, "snapshot")) == []
