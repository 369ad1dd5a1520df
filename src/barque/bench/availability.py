"""What clients see when a leader dies, and what nodes do when nobody asks them anything."""

import asyncio
import time
from collections.abc import Iterable, Sequence

from barque.bench.cluster import MACHINE, LocalCluster
from barque.bench.facts import cpu_seconds, resident_bytes
from barque.bench.workloads import Background, commands, first_success
from barque.client.client import Client
from barque.client.results import Status
from barque.errors import BarqueError, NoLeader

FAILOVER_CALLERS = 16
_LOAD_S = 1.0
_PROBE_EVERY_S = 0.002
_DEADLINE_S = 30.0
_CATCH_UP_ENTRIES = 2_000
_FORMING_AT_ONCE = 32
_SETTLE_S = 3.0


async def failover(nodes: LocalCluster, client: Client, payload: bytes, kills: int) -> list[float]:
    """Kill the leader under load, so many times: seconds from the kill to a newly acknowledged write.

    Only commands that were sent after the kill count. The killed node is started again, and has
    caught up, before the next kill.
    """
    target = nodes.target()
    asks = commands([client], target.cluster, payload, FAILOVER_CALLERS)
    times = []
    for _ in range(kills):
        background = Background(asks)
        await asyncio.sleep(_LOAD_S)
        leader = await client.leader(target.cluster)
        if leader is None:
            raise NoLeader(f"nobody leads {target.cluster!r} before the kill")
        nodes.kill(leader.node)
        times.append(await first_success(asks[0], _PROBE_EVERY_S, _DEADLINE_S))
        await background.stop()
        nodes.restart(leader.node)
        await settled([client], target.cluster)
    return times


async def settled(clients: Sequence[Client], cluster: str) -> None:
    """Wait until every node is up and its member has nearly all that is committed.

    Raises `NoLeader`, naming the state, if it takes too long.
    """
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        try:
            report = await clients[0].status([cluster])
        except BarqueError:
            report = Status(nodes=(), clusters=())
        if _is_settled(report):
            return
        if time.monotonic() > deadline:
            states = {node.name: node.state for node in report.nodes}
            raise NoLeader(f"{cluster!r} has not settled in {_DEADLINE_S:.0f} s; nodes: {states}")
        await asyncio.sleep(0.05)


def _is_settled(report: Status) -> bool:
    nodes, clusters = report.nodes, report.clusters
    if not nodes or not clusters or any(node.state != "running" for node in nodes):
        return False
    if clusters[0].leader is None:
        return False
    applied = [member.last_applied for member in clusters[0].members]
    return max(applied) - min(applied) <= _CATCH_UP_ENTRIES


async def idle(
    client: Client, processes: dict[str, int], clusters: int, seconds: float
) -> dict[str, float | int]:
    """Form so many clusters on all nodes, then watch the nodes while nobody uses them.

    Traffic and processor time are measured before, too, with one cluster: what is there then is
    the failure detector's, and the difference is the price of the clusters.
    """
    before = await _watch(client, processes.values(), seconds)
    names = [f"idle{number}" for number in range(clusters)]
    half = clusters // 2
    start = time.perf_counter()
    await _form(client, names[:half])
    # The first half fills memory that the process freed after its start; only the second shows a price.
    memory_before = sum(map(resident_bytes, processes.values()))
    await _form(client, names[half:])
    formed_s = time.perf_counter() - start
    memory = sum(map(resident_bytes, processes.values())) - memory_before
    await asyncio.sleep(_SETTLE_S)
    after = await _watch(client, processes.values(), seconds)
    extra = {f"extra_{name}": round(after[name] - before[name], 2) for name in after}
    return {
        "clusters": clusters,
        "formed_s": round(formed_s, 3),
        "kib_per_member": round(memory / 1024 / (clusters - half) / len(processes), 1),
        **{name: round(value, 2) for name, value in after.items()},
        **extra,
    }


async def _form(client: Client, names: Sequence[str]) -> None:
    left = iter(names)

    async def former() -> None:
        for name in left:
            await client.start_cluster(name, MACHINE)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(_FORMING_AT_ONCE, len(names))):
            group.create_task(former())


async def _watch(client: Client, pids: Iterable[int], seconds: float) -> dict[str, float]:
    """Processor use of a node in percent of a core, and traffic between all nodes in a second.

    Its two questions cost a few messages, the same number in every watch.
    """
    pids = list(pids)
    first, cpu, start = await client.status([]), cpu_seconds(pids), time.perf_counter()
    await asyncio.sleep(seconds)
    used = cpu_seconds(pids) - cpu
    elapsed = time.perf_counter() - start
    second = await client.status([])
    return {
        "cpu_percent_per_node": 100 * used / elapsed / len(pids),
        "messages_per_s": (_total(second, "messages_received") - _total(first, "messages_received"))
        / elapsed,
        "bytes_per_s": (_total(second, "bytes_received") - _total(first, "bytes_received")) / elapsed,
    }


def _total(report: Status, counter: str) -> int:
    return sum(node.transport[counter] for node in report.nodes)
