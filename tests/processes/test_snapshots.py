"""Real processes that are killed while they write, send and install snapshots."""

import random
from pathlib import Path

import pytest
from tests.processes.support import Cluster, Writers, running

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("processes")]

SETTINGS = """
[snapshots]
min_interval = 1
interval_bytes = 1
chunk_size_bytes = 5000

[log]
wal_max_size_bytes = 65536
segment_max_entries = 500
prefill = false
"""
"""Every offer of the machine is taken, log files are small, and a snapshot is sent in many chunks."""


def snapshots(cluster: Cluster, node: str) -> list[Path]:
    """The snapshots of a node that are complete."""
    found = cluster.directory.glob(f"{node}/servers/*/snapshots/*")
    return [path for path in found if not path.name.endswith(".writing")]


async def test_nodes_killed_amid_snapshots_lose_nothing(tmp_path: Path) -> None:
    """All nodes die at once, again and again, at any moment of a snapshot: what was acknowledged is there."""
    pause = random.Random(1)
    async with running(tmp_path, SETTINGS) as cluster, cluster.client() as client:
        writers = Writers([client], 32)
        for _ in range(5):
            await writers.progress(1200 + pause.randrange(300))
            cluster.kill()
            cluster.start()
            await cluster.all_serve(client)
        await writers.progress(1200)
        await writers.stop()
        await cluster.caught_up(client)
        await writers.check(client)
        for node in ("n1", "n2", "n3"):
            assert len(snapshots(cluster, node)) == 1, (node, snapshots(cluster, node))
        cluster.kill()
        cluster.start()
        await cluster.caught_up(client)
        await writers.check(client)


async def test_a_node_killed_amid_installations_catches_up(tmp_path: Path) -> None:
    """It was away while the others cut their logs, and dies several times while it catches up."""
    pause = random.Random(2)
    async with running(tmp_path, SETTINGS) as cluster, cluster.client() as client:
        writers = Writers([client], 32)
        await writers.progress(500)
        leader = await cluster.leader(client)
        away = next(node for node in ("n1", "n2", "n3") if node != leader)
        for _ in range(4):
            cluster.kill(away)
            await writers.progress(3000)
            cluster.start(away)
            await writers.progress(pause.randrange(1, 400))
        await writers.stop()
        await cluster.caught_up(client)
        await writers.check(client)
        assert len(snapshots(cluster, away)) == 1
        sent = 0
        for node in ("n1", "n2", "n3"):
            async with cluster.client(node) as one:
                sent += (await one.overview("kv")).counters["snapshots_sent"]
        assert sent > 0
