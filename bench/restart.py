"""How long until a cluster answers again after all its nodes were killed, and how much memory does that take?

    python bench/restart.py                                # a million entries of 256 bytes, Barque and Ra
    python bench/restart.py --snapshot-every 100000        # with snapshots (Barque)
    python bench/restart.py --clusters 1000                # dealt out to a thousand clusters
    python bench/restart.py --entries 20000 --peer barque  # a trial

Three nodes are filled, all are killed with SIGKILL, and all are started again. The time runs from the kill to
the answer of a consistent read, of the first cluster that answers and of all; programs start in it. Without
snapshots the machine does nearly nothing, as the one of Ra's own benchmark; with them it is the key-value
store. Ra needs bench/setup-peers.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from drivers.common import NotInstalled, drive, processes
from drivers.ra import DRIVER, NAMES as RA_NAMES, Ra, RaCluster
from storage_nodes import MIB, NAMES, StorageNodes, storage_nodes

import barque
from barque.bench.cluster import check_directory
from barque.bench.facts import machine_facts, run
from barque.bench.measure import Settings
from barque.machine.kv_commands import Get, Set

_NEVER = {"min_interval": 10**12, "interval_bytes": 1024**4}
_WINDOW = 2_000
_KEYS = 1_000
_RESTART_S = 300.0


class Result:
    """Seconds to the first and to the last cluster's read, and the memory of each node in bytes."""

    def __init__(self, peer: str, first_s: float, all_s: float, memory: Sequence[int]) -> None:
        self.peer = peer
        self.first_s = first_s
        self.all_s = all_s
        self.memory = memory

    def __str__(self) -> str:
        sizes = ", ".join(f"{size / MIB:.0f}" for size in self.memory)
        times = f"first read {self.first_s:.2f} s, all clusters {self.all_s:.2f} s"
        return f"{self.peer}: {times}, memory {sizes} MiB"


class BarqueRestart:
    """Barque: fill, kill, start, read."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._with_snapshots = options.snapshot_every > 0
        self._clusters = [f"bench{i}" for i in range(options.clusters)]

    def run(self, directory: str) -> Result:
        """One run."""
        snapshots = dict(_NEVER)
        if self._with_snapshots:
            snapshots["min_interval"] = self._options.snapshot_every
        settings = {"snapshots": snapshots, "machines": {"bench": "barque.bench.machine:BenchMachine"}}
        with storage_nodes(directory, settings) as nodes:
            return run(self._measure(nodes))

    async def _measure(self, nodes: StorageNodes) -> Result:
        async with nodes.client() as client:
            machine = "kv" if self._with_snapshots else "bench"
            for first in range(0, len(self._clusters), 16):
                part = self._clusters[first : first + 16]
                await asyncio.gather(*(client.start_cluster(name, machine) for name in part))
            await self._fill(client)
        print("barque: filled; all nodes are killed", flush=True)
        await asyncio.sleep(self._options.pause_s)
        nodes.processes.kill(NAMES)
        began = time.perf_counter()
        nodes.start()
        times = await self._read_all(nodes, began)
        nodes.check()
        return Result("barque", min(times), max(times), [nodes.memory(name) for name in NAMES])

    async def _fill(self, client: barque.Client) -> None:
        """Keep commands in flight until all are acknowledged, dealt out to the clusters."""
        payload = b"x" * self._options.payload
        sent = answered = 0
        while answered < self._options.entries:
            while sent < min(self._options.entries, answered + _WINDOW):
                cluster = self._clusters[sent % len(self._clusters)]
                command: Any = Set(b"key:%d" % (sent % _KEYS), payload) if self._with_snapshots else payload
                client.pipeline_command(cluster, command, sent, priority="normal", timeout_s=120)
                sent += 1
            for told in await client.take_notifications():
                if told.error is not None:
                    raise told.error
                answered += 1

    async def _read_all(self, nodes: StorageNodes, began: float) -> list[float]:
        """The time of each cluster's first answer."""
        async with AsyncExitStack() as stack:
            while True:
                client = nodes.client(timeout_s=0.5)
                try:
                    await stack.enter_async_context(client)
                except barque.BarqueError:
                    nodes.check()
                    if time.perf_counter() - began > _RESTART_S:
                        raise
                    continue
                break
            return await asyncio.gather(*(self._read(client, name, began) for name in self._clusters))

    async def _read(self, client: barque.Client, cluster: str, began: float) -> float:
        query = Get(b"key:1") if self._with_snapshots else None
        while True:
            try:
                await client.consistent_query(cluster, query, timeout_s=2.0)
            except barque.BarqueError:
                if time.perf_counter() - began > _RESTART_S:
                    raise
                await asyncio.sleep(0.02)
            else:
                return time.perf_counter() - began


def run_ra(directory: str, options: argparse.Namespace) -> Result:
    """Ra, by bench/ra/barque_restart.erl. Raises `NotInstalled`."""
    Ra(inside=False).check()
    with processes(Settings(directory), "ra") as running:
        cluster = RaCluster(running, "barque_restart.erl")
        for name in RA_NAMES:
            cluster.start(name)
        arguments = [",".join(RA_NAMES), options.entries, options.payload, options.clusters]
        quoted = ",".join(f'"{argument}"' for argument in arguments)
        driver = cluster.start(DRIVER, f"barque_restart:main([{quoted}])", piped=True)
        found = json.loads(drive(driver, cluster.restart, 600 + _RESTART_S))
    return Result("ra 2.2.0", found["first_us"] / 1e6, found["all_us"] / 1e6, found["memory"])


def main() -> None:
    """Parse, run the programs in turn, print their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", type=int, default=1_000_000, help="in all (default: a million)")
    parser.add_argument("--payload", type=int, default=256, help="bytes of an entry (default: 256)")
    parser.add_argument("--clusters", type=int, default=1)
    parser.add_argument("--snapshot-every", type=int, default=0, help="entries; 0: never (default)")
    parser.add_argument("--pause-s", type=float, default=2.0, help="between the last command and the kill")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument(
        "--peer", action="append", choices=("barque", "ra"), help="repeatable (default: both)"
    )
    parser.add_argument("--dir", default=".", help="on the disk to be measured (default: here)")
    options = parser.parse_args()
    directory = check_directory(options.dir)
    print(machine_facts(directory))
    results: dict[str, list[Result]] = {}
    for _ in range(options.runs):
        for peer in options.peer or ["barque", "ra"]:
            try:
                is_ours = peer == "barque"
                result = BarqueRestart(options).run(directory) if is_ours else run_ra(directory, options)
            except NotInstalled as error:
                print(f"{peer}: not installed: {error}")
                continue
            print(result, flush=True)
            results.setdefault(peer, []).append(result)
    for ours, theirs in zip(results.get("barque", []), results.get("ra", []), strict=False):
        print(f"barque takes {ours.all_s / theirs.all_s:.2f} of Ra's time")
    sys.exit(0 if results else 1)


if __name__ == "__main__":
    main()
