"""What do segments and snapshots cost while commands go on?

    python bench/snapshots.py                       # both figures, some minutes
    python bench/snapshots.py --state-mib 16 --chunks 4 --seconds 1   # a trial

Two figures:

- the rate of pipelined commands with snapshots and segments, beside that of nodes that keep everything in
  their write-ahead logs. Both are alive at once and take turns in short chunks;
- how long the event loop of a node stood still at worst, while a large state was captured and written.
"""

import argparse
import asyncio
import statistics
import time
from contextlib import AsyncExitStack

from storage_nodes import MIB, StorageNodes, Writers, storage_nodes

import barque
from barque.bench.cluster import check_directory
from barque.bench.facts import machine_facts, run

_NEVER = {"min_interval": 10**12, "interval_bytes": 1024**4}
_ONE_FILE = {"wal_max_size_bytes": 1 << 30}
"""What a run writes fits into it, so no segment is made."""
_VALUE_BYTES = 16_384
_WINDOW = 64
_PATIENCE_S = 300.0


async def rates(on: StorageNodes, off: StorageNodes, options: argparse.Namespace) -> float:
    """The median of the ratios on / off."""
    found: list[tuple[float, float]] = []
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(nodes.client()) for nodes in (on, off)]
        for number in range(options.chunks + 1):
            chunk = {}
            for at in (0, 1) if number % 2 else (1, 0):
                writers = Writers([clients[at]], options.keys, 256)
                await writers.written(1)
                chunk[at] = await writers.rate(options.seconds)
                await writers.stop()
            if number:  # the first pair warms up
                found.append((chunk[0], chunk[1]))
    with_them, without = (statistics.median(rates) for rates in zip(*found, strict=True))
    low, middle, high = statistics.quantiles([a / b for a, b in found], n=4)
    print(f"commands/s: {with_them:,.0f} with snapshots, {without:,.0f} without")
    print(f"ratio {middle:.3f} ({low:.3f} to {high:.3f})", flush=True)
    return middle


async def stall(nodes: StorageNodes, options: argparse.Namespace) -> float:
    """Fill the state, let it be written a few times, and return the longest stall since, in milliseconds."""
    async with nodes.client(timeout_s=120.0) as client:
        keys = options.state_mib * MIB // _VALUE_BYTES
        writers = Writers([client], keys, _VALUE_BYTES, _WINDOW)
        await writers.written(keys)
        print(f"{options.state_mib} MiB are there; the longest stall so far: {await longest(client):.0f} ms")
        began, seen, last = time.perf_counter(), 0, await oldest_snapshot(client)
        while seen < options.snapshots:  # one is due when the log has grown by as much as the state is large
            await asyncio.sleep(0.2)
            newest = await oldest_snapshot(client)
            seen, last = seen + (newest > last), newest
            if time.perf_counter() - began > _PATIENCE_S:
                raise TimeoutError("no snapshot was written")
        await writers.stop()
        worst = await longest(client)
        print(f"{options.snapshots} snapshots later: {worst:.0f} ms", flush=True)
        return worst


async def longest(client: barque.Client) -> float:
    """How late the loop of any node was at worst, since it was started; in milliseconds."""
    status = await client.status()
    return max(node.longest_stall_ms for node in status.nodes)


async def oldest_snapshot(client: barque.Client) -> int:
    """Up to which entry every member has a snapshot."""
    status = await client.status()
    [cluster] = [each for each in status.clusters if each.name == "kv"]
    return min(member.snapshot_index for member in cluster.members)


def main() -> None:
    """Print both figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chunks", type=int, default=12, help="pairs of chunks")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a chunk")
    parser.add_argument("--keys", type=int, default=1_000)
    parser.add_argument("--state-mib", type=int, default=256)
    parser.add_argument("--snapshots", type=int, default=3, help="of the large state, on each member")
    parser.add_argument("--dir", default=".", help="on the disk to be measured (default: here)")
    options = parser.parse_args()
    directory = check_directory(options.dir)
    print(machine_facts(directory))
    never = {"snapshots": _NEVER, "log": _ONE_FILE}
    with storage_nodes(directory, {}) as on, storage_nodes(directory, never) as off:
        run(rates(on, off, options))
    with storage_nodes(directory, {"snapshots": {"min_interval": 1_024}}) as nodes:
        run(stall(nodes, options))


if __name__ == "__main__":
    main()
