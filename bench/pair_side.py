"""One side of `bench/pairs.py`: measures the `barque` that its PYTHONPATH names, chunk by chunk.

Reads one line of JSON for each chunk (`workload`, `seconds`), and writes one with what it measured.
`pair_side.py WAY DIRECTORY` knows two ways:

- `live`: three node processes and this client; wall time.
- `inside`: three nodes and their client in this process; processor time, which a busy machine disturbs less.
"""

import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvloop

from barque.bench import workloads
from barque.bench.cluster import CLUSTER, LocalCluster, free_addresses
from barque.bench.machine import BenchMachine
from barque.client.client import Client
from barque.config import ClusterConfig, LogConfig, NodeConfig
from barque.runtime.node import Node

PAYLOAD = b"x" * 256
_SECRET = "only for this measurement"  # noqa: S105
_PIPELINES = {"pipeline": "normal", "pipeline low": "low"}


async def run(workload: str, clients: list[Client], seconds: float) -> workloads.Outcome:
    """One chunk of a workload."""
    if workload in _PIPELINES:
        return await workloads.pipeline(clients, CLUSTER, PAYLOAD, seconds, _PIPELINES[workload])
    if workload in ("sequential", "concurrent"):
        callers = 1 if workload == "sequential" else workloads.CONCURRENT
        return await workloads.synchronous(
            workloads.commands(clients[:1], CLUSTER, PAYLOAD, callers), seconds
        )
    callers = 1 if workload == "read" else workloads.CONCURRENT
    return await workloads.synchronous(workloads.reads(clients[:1], CLUSTER, callers), seconds)


@asynccontextmanager
async def inside(directory: str) -> AsyncIterator[tuple[list[str], bytes]]:
    """Three nodes on this loop."""
    addresses = dict(zip(("n1", "n2", "n3"), free_addresses(3), strict=True))
    nodes: list[Node] = []
    with tempfile.TemporaryDirectory(dir=directory) as home:
        try:
            for name in addresses:
                config = NodeConfig(
                    name=name,
                    data_dir=f"{home}/{name}",
                    secret=_SECRET,
                    nodes=addresses,
                    clusters=(ClusterConfig(CLUSTER, "bench"),),
                    log=LogConfig(writer="inline"),
                )
                node = Node(config, {"bench": BenchMachine()}, rng=random.Random(len(nodes)))  # noqa: S311
                nodes.append(node)
                await node.start()
            yield list(addresses.values()), _SECRET.encode()
        finally:
            for node in nodes:
                await node.stop()


@asynccontextmanager
async def live(directory: str) -> AsyncIterator[tuple[list[str], bytes]]:
    """Three node processes."""
    with LocalCluster(directory) as cluster:
        target = cluster.target()
        yield list(target.addresses), target.secret


WAYS = {"live": live, "inside": inside}


async def serve(way: str, directory: str) -> None:
    """Answer the requests of the parent until it closes the pipe."""
    async with WAYS[way](directory) as (addresses, secret):
        clients = [
            Client(addresses, secret=secret, timeout_s=60.0) for _ in range(workloads.PIPELINE_CLIENTS)
        ]
        for client in clients:
            await client.connect()
            await client.process_command(CLUSTER, PAYLOAD)
        loop = asyncio.get_running_loop()
        print("ready", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            asked = json.loads(line)
            cpu = time.process_time()
            outcome = await run(asked["workload"], clients, asked["seconds"])
            cpu = time.process_time() - cpu
            times = sorted(outcome.latencies_s)
            measured = {
                "cpu_us": cpu / outcome.commands * 1e6,
                "rate": outcome.commands / outcome.seconds,
                "p50_us": times[len(times) // 2] * 1e6,
            }
            print(json.dumps(measured), flush=True)
        for client in clients:
            await client.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(*sys.argv[1:3]))
