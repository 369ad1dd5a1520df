"""Real processes that are killed, frozen, and started again."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from tests.processes.support import Cluster, Writers, running, until

SIZE = 8 * 1024 * 1024

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("processes")]


async def test_leaders_killed_under_load(tmp_path: Path) -> None:
    """The leader is killed ten times under 64 writers: nothing acknowledged is lost, nothing doubled.

    Each killed node, started again, catches up.
    """
    async with running(tmp_path) as cluster, cluster.client() as one, cluster.client() as other:
        writers = Writers([one, other], 64)
        for _ in range(10):
            await writers.progress(500)
            leader = await cluster.leader(one)
            cluster.kill(leader)
            await writers.progress(200)
            cluster.start(leader)
            await cluster.leader(other)
        await writers.stop()
        await cluster.caught_up(one)
        await writers.check(one)


async def test_all_nodes_killed_at_once(tmp_path: Path) -> None:
    """All three nodes die at the same moment; started again, they have everything."""
    async with running(tmp_path) as cluster, cluster.client() as client:
        writers = Writers([client], 16)
        await writers.progress(1_000)
        cluster.kill()
        await writers_settled(writers)
        cluster.start()
        await cluster.caught_up(client)
        await writers.check(client)


async def writers_settled(writers: Writers) -> None:
    """Stop writers whose cluster is gone: each ends with `OutcomeUnknown` or a refusal."""
    await asyncio.wait_for(writers.stop(), 30)


async def test_a_frozen_leader_is_replaced_and_comes_back_harmless(tmp_path: Path) -> None:
    """A leader that stands still is replaced; when it wakes, no read is stale and one leader remains."""
    async with (
        running(tmp_path) as cluster,
        cluster.client("n1") as a,
        cluster.client("n2") as b,
        cluster.client("n3") as c,
    ):
        writers = Writers([a, b, c], 12)
        writers.add_readers(12)
        await writers.progress(300)
        frozen = await cluster.leader(a)
        cluster.signal(frozen, signal.SIGSTOP)
        await writers.progress(1_000)
        cluster.signal(frozen, signal.SIGCONT)
        await writers.progress(1_000)
        await writers.stop()
        members = await cluster.caught_up(a)
        assert [m.role for m in members].count("leader") == 1
        assert writers.reads > 0
        assert writers.stale == []
        await writers.check(b)


def large_files(cluster: Cluster, node: str) -> int:
    """How many log files of a node, which is dead, are not cut to what they hold."""
    return sum(path.stat().st_size >= SIZE // 2 for path in (cluster.directory / node / "wal").iterdir())


@pytest.mark.parametrize("lives", [int(os.environ.get("BARQUE_LIVES", "6"))])
async def test_d2_a_follower_that_is_killed_again_and_again_keeps_its_log_small(
    tmp_path: Path, lives: int
) -> None:
    """However often it dies under load: beside its records, its log has the size of three files.

    Each life lasts until a zero-filled file is in use.
    """
    settings = f"[log]\nwal_max_size_bytes = {SIZE}"
    async with running(tmp_path, settings) as cluster, cluster.client() as client:
        writers = Writers([client], 8)
        leader = await cluster.leader(client)
        follower = next(name for name in cluster.addresses if name != leader)
        used: set[Path] = set()
        for life in range(lives):

            async def is_filled() -> bool:
                await writers.progress(20)
                newest = max((tmp_path / follower / "wal").glob("0*.wal"))
                return newest not in used and newest.stat().st_size >= SIZE

            await until(is_filled, "a zero-filled file in use")
            used.update((tmp_path / follower / "wal").glob("0*.wal"))
            cluster.kill(follower)
            assert large_files(cluster, follower) <= 3, f"after {life + 1} lives"
            cluster.start(follower)
        await writers.stop()
        await cluster.caught_up(client)
        await writers.check(client)
