"""What do thousands of clusters cost on three nodes, and do they harm each other?

    python bench/many.py --clusters 10000
    python bench/many.py --clusters 50 --seconds 2   # a trial
    python bench/restart.py --clusters 1000          # a restart beside Ra's

Three nodes in three processes form clusters of three members. Then come, in this order: the memory of a
member, what idle nodes use, the throughput over active clusters, the latency of a quiet cluster alone and
beside a busy one, and the time until every cluster answers a consistent read after SIGKILL of all nodes.
"""

import argparse
import asyncio
import itertools
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
from storage_nodes import MIB, NAMES, StorageNodes, storage_nodes

import barque
from barque.bench.cluster import check_directory
from barque.bench.facts import cpu_seconds, machine_facts, run
from barque.bench.measure import quantile

_FORMING_AT_ONCE = 32
_READING_AT_ONCE = 256
_ACTIVE_MAX = 1_000
_WINDOW = 2_000
_BUSY_WINDOW = 500
_BUSY_CLIENTS = 4
_QUIET_EVERY_S = 0.005
_SETTLE_S = 5.0
_RESTART_S = 300.0
_PAYLOAD = b"x" * 256


class Result(msgspec.Struct, kw_only=True):
    """What was measured. Processor use in percent of a core; memory of all three nodes in MiB."""

    clusters: int
    formed_s: float = 0.0
    formed_second_half_s: float = 0.0
    forming_cpu_ms_per_cluster: float = 0.0
    memory_mib: float = 0.0
    kib_per_member: float = 0.0
    leaders: dict[str, int] = {}
    idle_cpu_percent_per_node: float = 0.0
    idle_messages_per_s: float = 0.0
    active_clusters: int = 0
    commands_per_s: float = 0.0
    quiet_p50_ms: float = 0.0
    quiet_p99_ms: float = 0.0
    beside_busy_p50_ms: float = 0.0
    beside_busy_p99_ms: float = 0.0
    busy_commands_per_s: float = 0.0
    recovered_first_s: float = 0.0
    recovered_all_s: float = 0.0
    recovery_cpu_s: float = 0.0
    leaders_after: dict[str, int] = {}


async def in_turn(names: Sequence[str], at_once: int, work: Callable[[str], Awaitable[object]]) -> None:
    """Do this for each name, some at a time."""
    left = iter(names)

    async def worker() -> None:
        for name in left:
            await work(name)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(at_once, len(names))):
            group.create_task(worker())


class Many:
    """One run on running nodes."""

    def __init__(self, nodes: StorageNodes, clusters: int, seconds: float) -> None:
        self._nodes = nodes
        self._names = [f"many{number}" for number in range(clusters)]
        self._seconds = seconds
        self.result = Result(clusters=clusters)

    async def measure(self) -> None:
        """All of it; a killed node's client is of no use, so the last part makes its own."""
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(self._nodes.client(timeout_s=60.0))
                for _ in range(_BUSY_CLIENTS + 1)
            ]
            await self._form(clients[0])
            self.result.leaders = await leaders(clients[0])
            await self._idle(clients[0])
            await self._active(clients[0])
            await self._quiet(clients[0], clients[1:])
        await self._recover()

    async def _form(self, client: barque.Client) -> None:
        half = max(1, len(self._names) // 2)

        async def form(name: str) -> None:
            await client.start_cluster(name, "bench")

        cpu, began = self._cpu(), time.perf_counter()
        await in_turn(self._names[:half], _FORMING_AT_ONCE, form)
        between, memory = time.perf_counter(), self._memory()
        await in_turn(self._names[half:], _FORMING_AT_ONCE, form)
        ended, result = time.perf_counter(), self.result
        result.formed_s, result.formed_second_half_s = ended - began, ended - between
        result.forming_cpu_ms_per_cluster = (self._cpu() - cpu) * 1000 / len(self._names)
        await asyncio.sleep(_SETTLE_S)
        result.memory_mib = self._memory() / MIB
        members = 3 * (len(self._names) - half)
        result.kib_per_member = (self._memory() - memory) / 1024 / max(1, members)
        self._say("formed")

    async def _idle(self, client: barque.Client) -> None:
        before, cpu, began = await messages(client), self._cpu(), time.perf_counter()
        await asyncio.sleep(max(self._seconds, 1.0))
        used, elapsed = self._cpu() - cpu, time.perf_counter() - began
        self.result.idle_cpu_percent_per_node = 100 * used / elapsed / len(NAMES)
        self.result.idle_messages_per_s = (await messages(client) - before) / elapsed
        self._say("idle")

    async def _active(self, client: barque.Client) -> None:
        """Commands for many clusters in turn, so many in flight."""
        active = self._names[:_ACTIVE_MAX]
        turn = itertools.cycle(active)
        sent = answered = 0
        began = time.perf_counter()
        while (now := time.perf_counter() - began) < self._seconds or answered < sent:
            while now < self._seconds and sent < answered + _WINDOW:
                client.pipeline_command(next(turn), _PAYLOAD, sent, priority="normal")
                sent += 1
            answered += len(_good(await client.take_notifications()))
        self.result.active_clusters = len(active)
        self.result.commands_per_s = answered / (time.perf_counter() - began)
        self._say("active")

    async def _quiet(self, client: barque.Client, busy: Sequence[barque.Client]) -> None:
        """Call one cluster every few milliseconds; then do so beside a full pipeline of another."""
        quiet, loud = self._names[-1], self._names[0]
        alone = await self._latencies(client, quiet)
        stop = asyncio.Event()
        began = time.perf_counter()
        writers = [asyncio.create_task(_keep_busy(each, loud, stop)) for each in busy]
        beside = await self._latencies(client, quiet)
        stop.set()
        written = sum(await asyncio.gather(*writers))
        result = self.result
        result.busy_commands_per_s = written / (time.perf_counter() - began)
        result.quiet_p50_ms, result.quiet_p99_ms = quantile(alone, 0.5), quantile(alone, 0.99)
        result.beside_busy_p50_ms, result.beside_busy_p99_ms = quantile(beside, 0.5), quantile(beside, 0.99)
        self._say("a quiet cluster")

    async def _latencies(self, client: barque.Client, cluster: str) -> list[float]:
        found = []
        until = time.perf_counter() + self._seconds
        while (began := time.perf_counter()) < until:
            await client.process_command(cluster, _PAYLOAD)
            found.append((time.perf_counter() - began) * 1000)
            await asyncio.sleep(_QUIET_EVERY_S)
        return sorted(found)

    async def _recover(self) -> None:
        nodes = self._nodes
        nodes.processes.kill(NAMES)
        began = time.perf_counter()
        nodes.start()
        times: list[float] = []
        async with AsyncExitStack() as stack:
            client = await self._first_client(stack, began)

            async def read(name: str) -> None:
                while True:
                    try:
                        await client.consistent_query(name, None, timeout_s=2.0)
                    except barque.BarqueError:
                        nodes.check()
                        if time.perf_counter() - began > _RESTART_S:
                            raise
                        await asyncio.sleep(0.02)
                    else:
                        times.append(time.perf_counter() - began)
                        return

            await in_turn(self._names, _READING_AT_ONCE, read)
            self.result.recovery_cpu_s = self._cpu()
            self.result.leaders_after = await leaders(client)
        self.result.recovered_first_s, self.result.recovered_all_s = min(times), max(times)
        self._say("recovered")

    async def _first_client(self, stack: AsyncExitStack, began: float) -> barque.Client:
        while True:
            try:
                return await stack.enter_async_context(self._nodes.client(timeout_s=0.5))
            except barque.BarqueError:
                self._nodes.check()
                if time.perf_counter() - began > _RESTART_S:
                    raise

    def _cpu(self) -> float:
        return cpu_seconds(self._nodes.processes.pid(name) for name in NAMES)

    def _memory(self) -> int:
        return sum(self._nodes.memory(name) for name in NAMES)

    def _say(self, what: str) -> None:
        self._nodes.check()
        print(f"… {what}", file=sys.stderr, flush=True)


async def leaders(client: barque.Client) -> dict[str, int]:
    """How many clusters each node leads."""
    counts = dict.fromkeys(NAMES, 0)
    for cluster in (await client.status(timeout_s=60.0)).clusters:
        if cluster.leader is not None:
            counts[cluster.leader.node] += 1
    return counts


async def messages(client: barque.Client) -> int:
    """Messages that all nodes have received."""
    return sum(int(node.transport["messages_received"]) for node in (await client.status([])).nodes)


async def _keep_busy(client: barque.Client, cluster: str, stop: asyncio.Event) -> int:
    sent = answered = 0
    while not stop.is_set() or answered < sent:
        while not stop.is_set() and sent < answered + _BUSY_WINDOW:
            client.pipeline_command(cluster, _PAYLOAD, sent, priority="normal")
            sent += 1
        answered += len(_good(await client.take_notifications()))
    return answered


def _good(told: Sequence[barque.Notification]) -> Sequence[barque.Notification]:
    """These notifications; raises the first error."""
    for each in told:
        if each.error is not None:
            raise each.error
    return told


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clusters", type=int, default=1_000)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measured load (default: 10)")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--json", help="also write the results to this file")
    parser.add_argument("--dir", default=".", help="on the disk to be measured (default: here)")
    options = parser.parse_args()
    directory = check_directory(options.dir)
    facts = machine_facts(directory)
    print(facts)
    results = []
    for _ in range(options.runs):
        with storage_nodes(directory, {"machines": {"bench": "barque.bench.machine:BenchMachine"}}) as nodes:
            many = Many(nodes, options.clusters, options.seconds)
            run(many.measure())
        results.append(many.result)
        for name, value in msgspec.structs.asdict(many.result).items():
            print(f"{name}: {round(value, 3) if isinstance(value, float) else value}", flush=True)
    if options.json:
        data = msgspec.json.encode({"machine": facts, "results": results})
        Path(options.json).write_bytes(msgspec.json.format(data))


if __name__ == "__main__":
    main()
