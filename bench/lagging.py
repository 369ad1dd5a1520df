"""What does it cost to bring back a follower that is far behind?

    python bench/lagging.py                    # a follower that is 1 GiB behind
    python bench/lagging.py --behind-mib 20    # a trial

Three nodes under load; one follower is killed, the others go on for so many MiB, the follower starts again.
Printed are the throughput before and meanwhile, how long it took, and how much each process grew. It exits
with 1 if the leader kept less than 70 % of its throughput, or if a process grew by more than 256 MiB.
"""

import argparse
import asyncio
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

from storage_nodes import MIB, NAMES, StorageNodes, Writers, storage_nodes

import barque
from barque.bench.cluster import check_directory
from barque.bench.facts import machine_facts, run
from barque.machine.kv_commands import Set


async def leader_of(client: barque.Client) -> str:
    """The node that leads."""
    await client.process_command("kv", Set(b"first", b""))  # somebody leads now
    found = await client.leader("kv")
    assert found is not None
    return found.node


async def member(client: barque.Client, node: str) -> Any:
    """The member of `kv` on that node, as `status` shows it; None while it does not answer."""
    status = await client.status()
    [cluster] = [each for each in status.clusters if each.name == "kv"]
    return next((each for each in cluster.members if each.server.node == node), None)


async def measure(nodes: StorageNodes, options: argparse.Namespace) -> bool:
    """Kill, write, restart, watch."""
    async with AsyncExitStack() as stack:
        watcher = await stack.enter_async_context(nodes.client())
        leader = await leader_of(watcher)
        follower = next(name for name in NAMES if name != leader)
        others = [name for name in NAMES if name != follower]
        clients = [await stack.enter_async_context(nodes.client(*others)) for _ in range(options.clients)]
        writers = Writers(clients, options.keys, options.value_bytes, options.window)
        await writers.written(options.keys)
        before = await writers.rate(options.seconds)
        nodes.processes.kill([follower])
        print(f"{follower} is down; {leader} leads; {before:,.0f} commands/s", flush=True)
        behind = options.behind_mib * MIB // options.value_bytes
        await writers.written(writers.acknowledged + behind)
        without = await writers.rate(options.seconds)
        start_memory = {name: nodes.memory(name) for name in others}
        peaks = dict.fromkeys(NAMES, 0)
        done, began = writers.acknowledged, time.perf_counter()
        nodes.start(follower)
        goal: int | None = None
        while True:
            await asyncio.sleep(0.05)
            for name in NAMES:
                peaks[name] = max(peaks[name], nodes.memory(name))
            if goal is None:
                lead = await member(watcher, leader)
                goal = lead.last_index if lead is not None else None
            found = await member(watcher, follower)
            if found is not None and goal is not None and found.last_applied >= goal:
                break
            if time.perf_counter() - began > options.timeout_s:
                raise TimeoutError(f"{follower} is at {found and found.last_applied} of {goal}")
        took = time.perf_counter() - began
        meanwhile = (writers.acknowledged - done) / took
        after = await writers.rate(options.seconds)
        await writers.stop()
    share = meanwhile / before
    growth = {name: peaks[name] - start_memory.get(name, start_memory[leader]) for name in NAMES}
    print(f"commands/s: {before:,.0f} with three, {without:,.0f} with two, {after:,.0f} afterwards")
    print(
        f"{follower} was back after {took:.1f} s, {options.behind_mib} MiB behind; meanwhile {meanwhile:,.0f}"
    )
    print("growth: " + "; ".join(f"{name} {size / MIB:+.0f} MiB" for name, size in growth.items()))
    print(f"the leader kept {share:.0%} of its throughput")
    return share >= options.share_min and max(growth.values()) <= options.growth_max_mib * MIB


def main() -> None:
    """Parse, run, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--behind-mib", type=int, default=1_024)
    parser.add_argument("--keys", type=int, default=16_384)
    parser.add_argument("--value-bytes", type=int, default=4_096)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--window", type=int, default=100, help="commands in flight of each client")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement of the throughput")
    parser.add_argument("--share-min", type=float, default=0.7)
    parser.add_argument("--growth-max-mib", type=int, default=256)
    parser.add_argument("--timeout-s", type=float, default=600.0)
    parser.add_argument("--dir", default=".", help="on the disk to be measured (default: here)")
    options = parser.parse_args()
    directory = check_directory(options.dir)
    print(machine_facts(directory))
    with storage_nodes(directory, {}) as nodes:
        good = run(measure(nodes, options))
    print("good" if good else "NOT GOOD")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
