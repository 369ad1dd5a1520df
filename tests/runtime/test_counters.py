"""`barque.runtime.counters`: plain integers by Ra's names."""

import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.nodes import Nodes, until

import barque
from barque.runtime.counters import ServerCounters

RUNTIME = Path(barque.__file__).parent / "runtime"


def test_counters_begin_at_zero_and_count() -> None:
    """All names are there at once, so that a dashboard needs no special case."""
    counters = ServerCounters()
    assert set(counters.overview().values()) == {0}
    counters.commands += 2
    assert counters.overview()["commands"] == 2


def test_a_misspelled_counter_is_an_error() -> None:
    """Slots refuse names that do not exist, so a typing error cannot count into the void."""
    with pytest.raises(AttributeError):
        ServerCounters().elction = 1  # type: ignore[attr-defined]


def test_gauges_are_counters() -> None:
    """Every gauge is among the names."""
    assert set(ServerCounters.__slots__) > ServerCounters.GAUGES


def test_every_counter_is_set_somewhere() -> None:
    """A counter that nothing sets would be shown as zero forever; it must be absent instead."""
    source = "\n".join(path.read_text() for path in RUNTIME.glob("*.py"))
    set_somewhere = set(re.findall(r"counters\.(\w+) \+?= ", source))
    assert set_somewhere == set(ServerCounters.__slots__)


class Keeper(barque.Machine[int]):
    """Counts commands; asks for a checkpoint at each, and for a snapshot when it is told to."""

    def init(self, args: dict[str, Any]) -> int:
        """Nothing yet."""
        return 0

    def apply(self, meta: barque.CommandMeta, command: Any, state: int) -> Any:
        """One more."""
        state += 1
        match command:
            case "snapshot":
                return state, state, [barque.ReleaseCursor(meta.index, state)]
            case "promote":
                return state, state, [barque.ReleaseCursor(meta.index, promote=True)]
            case "checkpoint":
                return state, state, [barque.Checkpoint(meta.index, state)]
            case _:
                return state, state


@contextlib.asynccontextmanager
async def stopped_at_the_end(made: Nodes) -> AsyncIterator[None]:
    """Whatever happens, the nodes stop."""
    try:
        yield
    finally:
        await made.stop()


async def test_the_counters_of_log_and_snapshots_are_fed(tmp_path: Path) -> None:
    """CNT-01, CNT-02, CNT-06, CNT-07: under Ra's names, in `overview` and `status`; each one moves."""
    settings = {
        "log": barque.LogConfig(
            wal_max_size_bytes=1 << 14, writer="inline", prefill=False, segment_max_entries=64
        ),
        "snapshots": barque.SnapshotsConfig(min_interval=1, checkpoint_min_interval=1),
    }
    made = Nodes(tmp_path, 3, **settings)
    machines = {"keeper": Keeper()}
    async with stopped_at_the_end(made):
        await made.start(machines=machines)
        async with made.client("n1") as client:
            await count_everything(made, client, machines)


async def count_everything(made: Nodes, client: barque.Client, machines: dict[str, Any]) -> None:
    """Make each counter move, and wait until it has."""
    await client.start_cluster("keep", "keeper")
    await client.transfer_leadership("keep", "n1")

    async def send(what: Any, times: int = 1) -> None:
        for _ in range(times):
            await client.process_command("keep", what)

    async def fed(*names: str) -> bool:
        counters = (await client.overview("keep")).counters
        return all(counters[name] > 0 for name in names)

    async def storage() -> dict[str, Any]:
        return next(node.storage for node in (await client.status()).nodes if node.name == "n1")

    await made.stop("n3")
    await send("checkpoint")
    await until(lambda: fed("checkpoints_written", "checkpoint_bytes_written"), "a checkpoint")
    await send("promote")
    await until(lambda: fed("checkpoints_promoted"), "its promotion")
    await send("x" * 300, 300)

    async def flushed() -> bool:
        writer = (await storage())["segment_writer"]
        return all(writer[name] > 0 for name in ("mem_tables", "segments", "entries", "bytes_written"))

    await until(flushed, "segments")
    await made.start("n3", machines=machines)
    await until(lambda: fed("read_segment", "open_segments", "num_segments"), "reads of segments")
    await made.stop("n3")
    await send("snapshot")
    await until(lambda: fed("snapshots_written", "snapshot_bytes_written", "minor_compactions"), "a snapshot")
    assert await fed("write_ops", "read_ops", "read_mem_table", "fetch_term", "snapshot_index")
    wal = (await storage())["wal"]
    assert all(wal.values())
    assert wal.keys() == {
        *("wal_files", "batches", "writes", "bytes_written", "current_file_size", "max_file_size")
    }
    assert wal["wal_files"] > 3
    await made.start("n3", machines=machines)
    async with made.client("n3") as other:

        async def installed() -> bool:
            return (await other.overview("keep")).counters["snapshot_installed"] > 0

        await until(installed, "the leader's snapshot on the member that was away")


class Busy(Keeper):
    """A keeper of version 1 that also tells, and has an aux machine."""

    @property
    def version(self) -> int:
        """Not the first."""
        return 1

    def apply(self, meta: barque.CommandMeta, command: Any, state: int) -> Any:
        """`"tell"` sends the caller a message."""
        if command == "tell":
            return state, state, [barque.SendMsg(meta.origin, state)]
        return super().apply(meta, command, state)

    def query(self, query: Any, state: int) -> Any:
        """How many commands there were."""
        return state

    def init_aux(self, name: str) -> Any:
        """Nothing."""
        return 0

    def handle_aux(self, raft_state: str, kind: Any, command: Any, aux: Any, member: Any) -> Any:
        """Count the calls."""
        return barque.AuxResult(aux + 1, reply=aux + 1)


async def test_every_counter_of_a_server_moves(tmp_path: Path) -> None:
    """CNT-03, CNT-04, CNT-05: each counter and gauge of Ra's that a server has grows above 0 on some member.

    What should never happen, and calls of functions, have tests of their own.
    """
    settings = {
        "log": barque.LogConfig(
            wal_max_size_bytes=1 << 14, writer="inline", prefill=False, segment_max_entries=64
        ),
        "snapshots": barque.SnapshotsConfig(min_interval=1, checkpoint_min_interval=1),
    }
    made, machines = Nodes(tmp_path, 3, **settings), {"keeper": Busy()}
    moved: set[str] = set()

    async def look(*at: str) -> None:
        for name in at:
            async with made.client(name) as one:
                counters = (await one.overview("keep")).counters
                moved.update(counter for counter, value in counters.items() if value > 0)

    async def all_moved(*names: str) -> bool:
        await look(*made.running)
        return moved.issuperset(names)

    async with stopped_at_the_end(made):
        await made.start(machines=machines)
        async with made.client("n1") as client:
            await client.start_cluster("keep", "keeper")
            await client.transfer_leadership("keep", "n1")
            await client.process_command("keep", "tell")
            client.pipeline_command("keep", "later", 1)
            await client.take_notifications()
            await client.consistent_query("keep")
            await client.local_query("keep")
            await client.aux_command("keep", "count")
            await client.process_command("keep", "checkpoint")
            await until(lambda: all_moved("checkpoints", "checkpoint_index"), "a checkpoint")
            await made.stop("n3")
            for _ in range(200):
                await client.process_command("keep", "x" * 300)
            await client.process_command("keep", "snapshot")
            await until(lambda: all_moved("snapshot_index", "release_cursors"), "a snapshot")
            await made.start("n3", machines=machines)
            await until(lambda: all_moved("snapshots_sent", "snapshot_installed"), "its transfer")
        await look("n1")
        await made.stop("n1")
        async with made.client("n2") as client:
            await made.leader(client, "keep")
            await client.process_command("keep", "more")
            missing = set(ServerCounters.__slots__) - _ELSEWHERE

            async def none_missing() -> bool:
                return await all_moved(*missing)

            try:
                await until(none_missing, "all counters")
            except TimeoutError:
                assert missing <= moved, sorted(missing - moved)


_ELSEWHERE = {
    *("foreign_messages", "stale_incarnations", "terms_refused", "invalid_reply_mode_commands"),
    *("mod_calls", "mod_call_failures", "forced_gcs"),
}
