"""Settings of the log reach the servers that they are for."""

from pathlib import Path

from tests.nodes import nodes, until

import barque
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
