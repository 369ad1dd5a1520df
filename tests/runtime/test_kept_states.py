"""States of the key-value machine and of machines that change in place, kept by nodes and started from."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.nodes import Nodes, nodes, until

import barque
from barque.config import LogConfig, SnapshotsConfig
from barque.log.log import WalLog
from barque.machine import kv_commands as kv
from barque.machine.effects import Checkpoint, ReleaseCursor
from barque.types import Index

SETTINGS: dict[str, Any] = {
    "machines": {"book": f"{__name__}:Book", "kv": "barque.machine.kv:KvMachine"},
    "log": LogConfig(wal_max_size_bytes=64 * 1024, prefill=False),
    "snapshots": SnapshotsConfig(
        min_interval=1, interval_bytes=1, checkpoint_min_interval=1, chunk_size_bytes=1000
    ),
}
"""Everything that the machine offers is written; small files, many chunks."""


class Book(barque.Machine[dict[str, Any]]):
    """Keeps the last words, in place, and offers its state at each tenth; `checkpoint` keeps a checkpoint."""

    def init(self, args: dict[str, Any]) -> dict[str, Any]:
        """No words."""
        return {"words": {}, "count": 0}

    def apply(self, meta: barque.CommandMeta, command: Any, state: dict[str, Any]) -> Any:
        """Note a word, and how many there were."""
        if not isinstance(command, str):
            return state, None
        state["count"] += 1
        state["words"][f"word{state['count'] % 50}"] = command
        effects: list[Any] = []
        if command == "checkpoint":
            effects.append(Checkpoint(meta.index, state))
        elif command == "promote":
            effects.append(ReleaseCursor(meta.index, promote=True))
        elif state["count"] % 10 == 0:
            effects.append(ReleaseCursor(meta.index, state))
        return state, state["count"], effects

    def query(self, query: Any, state: dict[str, Any]) -> Any:
        """All of it."""
        return state


def log_of(running: Nodes, name: str, cluster: str) -> WalLog:
    """A member's log."""
    process = running.running[name].system.processes[cluster]
    log = process.server.log
    assert isinstance(log, WalLog)
    return log


async def snapshot_at(running: Nodes, name: str, cluster: str, index: int) -> WalLog:
    """A member's log, once it has a snapshot at or above this entry and begins behind it."""

    async def has_one() -> WalLog | None:
        log = log_of(running, name, cluster)
        return log if log.snapshot_index_term().index >= index and log.first_index() > index else None

    found = await until(has_one, f"{name} has no snapshot at entry {index}")
    assert isinstance(found, WalLog)
    return found


def folder(running: Nodes, name: str, log: WalLog, what: str) -> list[str]:
    """What lies in a folder of a server, without half-written directories."""
    path = running.directory / name / "servers" / log.uid / what
    return sorted(entry.name for entry in path.iterdir() if "." not in entry.name) if path.exists() else []


async def say(client: barque.Client, count: int, word: str = "word") -> None:
    """Let the machine note so many words."""
    for number in range(count):
        await client.process_command("book", f"{word} {number}")


async def test_a_state_that_changes_in_place_is_captured_as_it_was(tmp_path: Path) -> None:
    """The default capture encodes at the effect: later commands leave no trace in the snapshot."""
    async with nodes(tmp_path, 1, **SETTINGS) as one, one.client() as client:
        await client.start_cluster("book", "book")
        await say(client, 30)
        log = await snapshot_at(one, "n1", "book", 20)
        meta = log.snapshots.current()
        assert meta is not None
        machine = Book()
        state = log.snapshots.load(meta, lambda pieces: machine.restore(pieces, {}))
        assert state["count"] % 10 == 0
        await say(client, 5)
        await one.stop()
        await one.start()
        assert await client.process_command("book", "end") == 36


async def test_a_checkpoint_is_a_faster_start_and_becomes_the_snapshot_when_asked(tmp_path: Path) -> None:
    """It keeps the log whole; promoted, it is the snapshot, and the log begins behind it."""
    async with nodes(tmp_path, 1, **SETTINGS) as one, one.client() as client:
        await client.start_cluster("book", "book")
        await say(client, 5)
        await client.process_command("book", "checkpoint")
        log = log_of(one, "n1", "book")

        async def kept() -> list[str]:
            return folder(one, "n1", log, "checkpoints")

        await until(kept, "no checkpoint")
        assert log.first_index() == 1
        await one.stop()
        await one.start()
        server = one.running["n1"].system.processes["book"].server
        assert server.start_meta is not None
        assert await client.process_command("book", "promote") == 7
        log = await snapshot_at(one, "n1", "book", server.start_meta.position.index)
        assert folder(one, "n1", log, "checkpoints") == []
        await one.stop()
        await one.start()
        assert await client.process_command("book", "end") == 8


@pytest.mark.parametrize("count", [1, 3])
async def test_the_key_value_machine_offers_its_state(tmp_path: Path, count: int) -> None:
    """A KvMachine that applies thousands of commands has snapshots, and restarts with all of its keys."""
    async with nodes(tmp_path, count, **SETTINGS) as some, some.client() as client:
        await client.start_cluster("kv", "kv")
        for start in range(0, 3000, 500):
            commands = [kv.Set(b"key%d" % (n % 700), b"value%d" % n) for n in range(start, start + 500)]
            await asyncio.gather(*(client.process_command("kv", command) for command in commands))
        for name in some.addresses:
            await snapshot_at(some, name, "kv", 1024)  # at 2048 it may still be writing
        await client.process_command("kv", kv.Expire(b"key1", 600_000))
        await some.stop()
        await some.start()
        assert await client.consistent_query("kv", kv.DbSize()) == 700
        assert await client.consistent_query("kv", kv.Get(b"key699")) == b"value2799"
        for name in some.addresses:
            server = some.running[name].system.processes["kv"].server
            assert server.start_meta is not None
            assert server.start_meta.position.index >= Index(1024)


async def test_a_deleted_cluster_leaves_no_snapshot(tmp_path: Path) -> None:
    """B50: also while snapshots are being written all the time."""
    async with nodes(tmp_path, 1, **SETTINGS) as one, one.client() as client:
        await client.start_cluster("book", "book")
        await say(client, 30)
        log = await snapshot_at(one, "n1", "book", 10)
        await client.delete_cluster("book")
        directory = one.directory / "n1" / "servers" / log.uid

        async def gone() -> bool:
            return not directory.exists()

        await until(gone, "the directory of the deleted server is still there")
