"""Settings of the log reach the servers that they are for."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.nodes import Adder, Nodes, nodes, until

import barque
from barque.errors import ConfigurationError
from barque.log.segment_format import TAIL_SIZE, SegmentTail, decode_tail


async def test_the_pipelines_limits_reach_each_server(tmp_path: Path) -> None:
    """A small limit of bytes slows replication down, and loses nothing."""
    log = barque.LogConfig(wal_max_size_bytes=4 << 20, max_pipeline_count=3, max_pipeline_bytes=1_000)
    async with nodes(tmp_path, 3, log=log) as three, three.client() as client:
        await client.start_cluster("sum", "adder")
        leader = await three.leader(client, "sum")
        cfg = three.running[leader].system.processes["sum"].server.cfg
        assert (cfg.max_pipeline_count, cfg.max_pipeline_bytes) == (3, 1_000)
        for number in range(100):
            client.pipeline_command("sum", 1, number)
        told = []
        while len(told) < 100:
            told += await client.take_notifications()
        assert await client.consistent_query("sum", "value") == 100


async def test_cfg4_settings_reach_the_servers_and_one_clusters_come_first(tmp_path: Path) -> None:
    """CFG-01, CFG-04, CFG-05, REPL-05, SYS-05, SYS-17, SYS-19, SYS-22, TIME-03: of the node, of a cluster,
    and with other values after a restart; what small limits cut loses nothing.
    """
    log = barque.LogConfig(
        wal_max_size_bytes=4 << 20,
        max_append_entries_rpc_batch_size=2,
        max_append_entries_rpc_bytes=1_000,
        low_priority_commands_flush_size=3,
        wal_flush_bytes_max=2_000,
    )
    snapshots = barque.SnapshotsConfig(receive_timeout_ms=1_234, silence_ticks_max=7, backoff_ms=321)
    own = barque.ServerSettings(low_priority_commands_flush_size=5, receive_snapshot_timeout_ms=99)
    some = Nodes(tmp_path, 3, log=log, snapshots=snapshots, servers={"sum": own})
    await some.start()
    try:
        async with some.client() as client:
            await client.start_cluster("sum", "adder")
            await client.start_cluster("other", "adder")
            for name in ("sum", "other"):
                for number in range(60):
                    client.pipeline_command(name, 1, number)
            told = []
            while len(told) < 120:
                told += await client.take_notifications()
            assert await client.consistent_query("sum") == await client.consistent_query("other") == 60
        node = some.running["n1"]
        assert node.system.storage.wal._flush_bytes_max == 2_000
        other = node.system.processes["other"].server.cfg
        assert (other.max_append_entries_rpc_batch_size, other.max_append_entries_rpc_bytes) == (2, 1_000)
        assert (other.low_priority_commands_flush_size, other.receive_snapshot_timeout_ms) == (3, 1_234)
        assert (other.snapshot_silent_ticks_max, other.snapshot_backoff_ms) == (7, 321)
        sum_ = node.system.processes["sum"].server.cfg
        assert (sum_.low_priority_commands_flush_size, sum_.receive_snapshot_timeout_ms) == (5, 99)
        assert sum_.max_append_entries_rpc_batch_size == 2
        await some.stop("n1")
        some.settings["servers"] = {}
        await some.start("n1")
        again = some.running["n1"].system.processes["sum"].server.cfg
        assert again == msgspec.structs.replace(
            sum_, low_priority_commands_flush_size=3, receive_snapshot_timeout_ms=1_234, machine=again.machine
        )
    finally:
        await some.stop()


class Third(Adder):
    """An adder of version 3 that tells its version."""

    version = 3

    def apply(self, meta: barque.CommandMeta, command: Any, state: int) -> Any:
        """The version in force, for the command `"version"`."""
        return (state, meta.machine_version) if command == "version" else super().apply(meta, command, state)


async def test_ver6_a_new_cluster_begins_with_the_version_that_was_asked_for(tmp_path: Path) -> None:
    """VER-06: on all members, later ones too, and after a restart; a version that nodes lack is refused."""
    some = Nodes(tmp_path, 3)
    machines = {"adder": Third()}
    await some.start(machines=machines)
    try:
        async with some.client("n1") as client:
            with pytest.raises(ConfigurationError, match="invalid_initial_machine_version"):
                await client.start_cluster("sum", "adder", initial_machine_version=4)
            await client.start_cluster("sum", "adder", nodes=["n1", "n2"], initial_machine_version=2)
            await client.add_member("sum", "n3")
            assert await client.process_command("sum", "version") == 3
        await some.stop()
        await some.start(machines=machines)
        for node in ("n1", "n2", "n3"):
            server = some.running[node].system.processes["sum"].server
            assert server.cfg.initial_machine_version == 2
            assert server.machine_versions[0] == (0, 2)
    finally:
        await some.stop()


def tails(data_dir: Path) -> list[SegmentTail]:
    """What each segment file of a node says that it holds."""
    found = []
    for path in sorted(data_dir.glob("servers/*/segments/*.segment")):
        data = path.read_bytes()
        found.append(decode_tail(data[-TAIL_SIZE:], len(data)))
    return found


async def segments_with(directory: Path, **log: int) -> tuple[list[SegmentTail], int]:
    """Fill a node with such settings: its segments, and how many log files it has begun."""
    settings = barque.LogConfig(writer="inline", prefill=False, **{"wal_max_size_bytes": 1 << 14, **log})  # type: ignore[arg-type]  # names of integers
    async with nodes(directory, 1, log=settings) as single, single.client() as client:
        await client.start_cluster("sum", "adder")
        for _ in range(120):
            await client.process_command("sum", "x" * 400)

        async def flushed() -> bool:
            [node] = (await client.status()).nodes
            return len(tails(directory / "n1")) > 1 and not node.storage["segment_writer"]["closed_files"]

        await until(flushed, "segments")
        [node] = (await client.status()).nodes
        return tails(directory / "n1"), node.storage["wal"]["wal_files"]


async def test_segments_keep_to_their_number_of_entries(tmp_path: Path) -> None:
    """SYS-12: no segment file holds more entries than the setting says, and none is lost between files."""
    found, _ = await segments_with(tmp_path, segment_max_entries=10)
    assert max(tail.entries for tail in found) <= 10
    assert sum(tail.entries for tail in found) == found[-1].last.index


async def test_segments_keep_to_their_size(tmp_path: Path) -> None:
    """SYS-14: bodies beyond the setting begin another file."""
    found, _ = await segments_with(tmp_path, segment_max_size_bytes=4_000)
    assert max(tail.index_offset for tail in found) <= 4_000 + 50 * tail_overhead(found)
    assert sum(tail.entries for tail in found) == found[-1].last.index


def tail_overhead(found: list[SegmentTail]) -> int:
    """The most batches of a file: each has a head beside its body, which the limit does not count."""
    return max(tail.batches for tail in found)


async def test_a_log_file_ends_after_so_many_entries(tmp_path: Path) -> None:
    """SYS-06: a small number of entries makes many files of a large size."""
    _, files = await segments_with(tmp_path, wal_max_size_bytes=1 << 20, wal_max_entries=20)
    assert files >= 6
