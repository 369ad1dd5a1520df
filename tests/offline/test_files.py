"""`barque segment` and `barque snapshot`, on the files of a node that has written them itself."""

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from click import Group
from click.testing import CliRunner
from tests.cli.support import run_barque
from tests.nodes import Adder, Nodes, until
from tests.offline.support import flip, uid_of

import barque
from barque.cli.segment import segment
from barque.cli.snapshot import snapshot
from barque.cli.wal import wal
from barque.core.log_contract import SnapshotMeta
from barque.log.snapshot_format import Description, encode_snapshot
from barque.machine.kv import KvMachine
from barque.machine.kv_commands import Get, Set
from barque.types import Index, IndexTerm, MemberRecord, ServerId, Term, Uid

SETTINGS: dict[str, Any] = {
    "log": barque.LogConfig(
        wal_max_size_bytes=1 << 14, prefill=False, writer="inline", segment_max_entries=32
    ),
    "snapshots": barque.SnapshotsConfig(min_interval=50),
}
MACHINES = {"kv": KvMachine(), "adder": Adder()}


async def write(directory: Path) -> Path:
    """Fill a node until it has segments, and a snapshot of its key-value store."""
    made = Nodes(directory, 1, **SETTINGS)
    await made.start(machines=MACHINES)
    try:
        async with made.client() as client:
            await client.start_cluster("kv", "kv")
            await client.start_cluster("sum", "adder")
            for first in range(0, 1_100, 100):  # the store lets go of its log each 1,024 entries
                numbers = range(first, first + 100)
                commands = [Set(b"key:%d" % (number % 20), b"%d" % number) for number in numbers]
                await asyncio.gather(*(client.process_command("kv", command) for command in commands))
                for _ in range(15):
                    await client.process_command("sum", "x" * 500)

            async def has_both() -> bool:
                kv, adder = await client.overview("kv"), await client.overview("sum")
                return bool(kv.log["snapshot_index"] and adder.log["segments"] > 1)

            await until(has_both, "a snapshot and segments")
    finally:
        await made.stop()
    return directory / "n1"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of such a node, stopped."""
    return asyncio.run(write(tmp_path_factory.mktemp("files")))


def lines(*arguments: str) -> list[dict[str, Any]]:
    """What a verb prints with `-o json`; it must succeed."""
    done = run_barque(*arguments, "-o", "json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def listed(data_dir: Path) -> list[dict[str, Any]]:
    """`barque snapshot list`."""
    done = run_barque("snapshot", "list", str(data_dir), "-o", "json")
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def test_segments_are_dumped_and_verified(data_dir: Path) -> None:
    """Every batch with its place, in the order of the indexes; a directory, a server or one file."""
    folder = data_dir / "servers" / uid_of(data_dir, "sum")
    batches = lines("segment", "dump", str(folder))
    assert len({batch["file"] for batch in batches}) > 1
    for before, after in itertools.pairwise(batches):
        assert after["first_index"] == before["last_index"] + 1
    [file, *_] = sorted(folder.rglob("*.segment"))
    assert lines("segment", "dump", str(file)) == [b for b in batches if b["file"] == str(file)]
    text = run_barque("segment", "dump", str(data_dir))
    assert f"server {folder.name}" in text.stdout
    done = run_barque("segment", "verify", str(data_dir))
    assert (done.returncode, done.stdout) == (0, "nothing is wrong\n")


@pytest.mark.parametrize(
    ("group", "verb"),
    [
        (wal, "dump"),
        (wal, "verify"),
        (segment, "dump"),
        (segment, "verify"),
        (snapshot, "list"),
        (snapshot, "verify"),
    ],
    ids=lambda part: part if isinstance(part, str) else part.name,
)
def test_a_verb_on_a_directory_takes_it_as_an_option_as_well(data_dir: Path, group: Group, verb: str) -> None:
    """`--data-dir DIR` is PATH; both at once, or neither, are a mistake."""
    run = CliRunner().invoke
    by_path = run(group, [verb, str(data_dir)])
    assert by_path.output
    assert run(group, [verb, "--data-dir", str(data_dir)]).output == by_path.output
    assert run(group, [verb, str(data_dir), "--data-dir", str(data_dir)]).exit_code == 2
    assert run(group, [verb]).exit_code == 2


def test_a_damaged_segment_is_found(data_dir: Path, tmp_path: Path) -> None:
    """Any byte: the finding names the file, and the exit code is that of damage."""
    [file, *_] = sorted(data_dir.rglob("*.segment"))
    size = file.stat().st_size
    for offset in (0, 12, 60, size // 2, size - 100, size - 1):
        copied = tmp_path / file.name
        copied.write_bytes(file.read_bytes())
        flip(copied, offset)
        done = run_barque("segment", "verify", str(copied), "-o", "json")
        assert done.returncode == 74
        [finding] = [json.loads(line) for line in done.stdout.splitlines()]
        assert (finding["path"], finding["severity"]) == (str(copied), "damage")
    assert run_barque("segment", "dump", str(tmp_path / "none")).returncode == 2


def test_snapshots_are_listed_and_inspected(data_dir: Path) -> None:
    """List shows position and size; inspect shows members, machine version and time."""
    [found] = [one for one in listed(data_dir) if one["kind"] == "snapshot"]
    assert found["uid"] == uid_of(data_dir, "kv")
    assert found["index"] == 1_024
    assert found["damage"] == ""
    done = run_barque("snapshot", "inspect", found["path"], "-o", "json")
    facts = json.loads(done.stdout)
    assert (facts["index"], facts["term"]) == (found["index"], found["term"])
    assert [member["server"] for member in facts["members"]] == ["kv@n1"]
    assert facts["machine_time_ms"] > 1_000_000_000_000
    done = run_barque("snapshot", "verify", str(data_dir))
    assert (done.returncode, done.stdout) == (0, "nothing is wrong\n")


def test_a_damaged_snapshot_is_found_and_not_exported(data_dir: Path, tmp_path: Path) -> None:
    """Any byte; and nothing is left of the copy."""
    [found] = [one for one in listed(data_dir) if one["kind"] == "snapshot"]
    copied = tmp_path / "copy"
    for offset in (1, 30, found["bytes"] // 2, found["bytes"] - 1):
        copied.write_bytes(Path(found["path"]).read_bytes())
        flip(copied, offset)
        assert run_barque("snapshot", "verify", str(copied)).returncode in (1, 74)
        assert run_barque("snapshot", "export", str(copied), str(tmp_path / "out")).returncode == 74
        assert not (tmp_path / "out").exists()


async def test_a_snapshot_moves_to_a_new_installation(data_dir: Path, tmp_path: Path) -> None:
    """Export, import, start: the state is there, in a cluster of one member, which takes commands."""
    [found] = [one for one in listed(data_dir) if one["kind"] == "snapshot"]
    out = tmp_path / "state"
    done = await asyncio.to_thread(run_barque, "snapshot", "export", found["path"], str(out))
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size == found["bytes"]
    arguments = ("--data-dir", str(tmp_path / "n1"), "--node", "n1", "--installation", "barque")
    done = await asyncio.to_thread(
        run_barque, "snapshot", "import", str(out), *arguments, "--cluster", "copy"
    )
    assert done.returncode == 0, done.stderr
    doctor = await asyncio.to_thread(run_barque, "doctor", "--data-dir", str(tmp_path / "n1"))
    assert (doctor.returncode, "nothing is wrong" in doctor.stdout) == (0, True), doctor.stdout
    made = Nodes(tmp_path, 1, **SETTINGS)
    await made.start(machines=MACHINES)
    try:
        async with made.client() as client:

            async def value() -> Any:
                return await client.consistent_query("copy", Get(b"key:7"))

            stored = int(await until(value, "the restored member to serve"))
            assert stored % 20 == 7
            assert 1_000 < stored < 1_024
            assert await client.process_command("copy", Set(b"key:7", b"new")) is True
            assert await value() == b"new"
    finally:
        await made.stop()
    again = await asyncio.to_thread(run_barque, "snapshot", "import", str(out), *arguments)
    assert again.returncode == 78, "nothing is written over"


def test_a_snapshot_that_needs_entries_is_not_exported(tmp_path: Path) -> None:
    """The file alone would not be the whole state."""
    meta = SnapshotMeta(IndexTerm(Index(9), Term(1)), (MemberRecord(ServerId("kv", "n1"), Uid("KV")),), 1)
    path = tmp_path / "snapshot"
    path.write_bytes(b"".join(encode_snapshot(Description(meta, ((Index(3), Index(5)),)), [b"state"])))
    done = run_barque("snapshot", "export", str(path), str(tmp_path / "out"))
    assert done.returncode == 78
    assert "barque backup create" in done.stderr
