"""Settings of the log reach the servers that they are for."""

from pathlib import Path

from tests.nodes import nodes

import barque


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
