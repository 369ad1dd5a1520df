"""One run of one workload: a fresh cluster, a warm-up, the load, and what it cost."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec

from barque.bench import availability, workloads
from barque.bench.cluster import LocalCluster, Target
from barque.bench.facts import cpu_seconds
from barque.bench.workloads import CONCURRENT, PIPELINE_CLIENTS, Outcome
from barque.client.client import Client
from barque.client.results import Status
from barque.errors import ConfigurationError

_TIMEOUT_S = 30.0
_WARM_UP_MAX_S = 1.0

Load = Callable[[Sequence[Client], str, bytes, float], Awaitable[Outcome]]


class Settings(msgspec.Struct, frozen=True):
    """What the user asked for. `directory` is on the disk that is measured."""

    directory: str
    seconds: float = 5.0
    payload_bytes: int = 256
    kills: int = 5
    clusters: int = 1_000


class Sample(msgspec.Struct, omit_defaults=True):
    """What one run of one workload measured. None stands for what cannot be known or has no meaning.

    Processor times are of all nodes together, and of the client process, for each command.
    `longest_stall_ms` is how late a node's event loop was at worst since the nodes were started,
    which for clusters of the benchmark's own was just before the run.
    """

    workload: str
    commands: int = 0
    per_second: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    nodes_cpu_us: float | None = None
    client_cpu_us: float | None = None
    longest_stall_ms: float | None = None
    writer: str = ""
    sync_ms: float | None = None
    facts: dict[str, Any] = {}


async def _pipeline(clients: Sequence[Client], cluster: str, payload: bytes, seconds: float) -> Outcome:
    return await workloads.pipeline(clients, cluster, payload, seconds, "low")


async def _pipeline_normal(
    clients: Sequence[Client], cluster: str, payload: bytes, seconds: float
) -> Outcome:
    return await workloads.pipeline(clients, cluster, payload, seconds, "normal")


async def _sequential(clients: Sequence[Client], cluster: str, payload: bytes, seconds: float) -> Outcome:
    return await workloads.synchronous(workloads.commands(clients, cluster, payload, 1), seconds)


async def _concurrent(clients: Sequence[Client], cluster: str, payload: bytes, seconds: float) -> Outcome:
    return await workloads.synchronous(workloads.commands(clients, cluster, payload, CONCURRENT), seconds)


async def _read(clients: Sequence[Client], cluster: str, payload: bytes, seconds: float) -> Outcome:
    return await workloads.synchronous(workloads.reads(clients, cluster, 1), seconds)


async def _reads(clients: Sequence[Client], cluster: str, payload: bytes, seconds: float) -> Outcome:
    return await workloads.synchronous(workloads.reads(clients, cluster, CONCURRENT), seconds)


_LOADS: dict[str, tuple[int, Load]] = {
    "pipeline, low priority": (PIPELINE_CLIENTS, _pipeline),
    "pipeline, normal priority": (PIPELINE_CLIENTS, _pipeline_normal),
    "sequential": (1, _sequential),
    "concurrent, 1 connection": (1, _concurrent),
    "concurrent, 64 connections": (CONCURRENT, _concurrent),
    "read": (1, _read),
    "reads": (1, _reads),
}
"""Row → how many connections it has, and what they do."""

WORKLOADS: dict[str, tuple[str, ...]] = {
    "pipeline": ("pipeline, low priority", "pipeline, normal priority"),
    "sequential": ("sequential",),
    "concurrent": ("concurrent, 1 connection", "concurrent, 64 connections"),
    "reads": ("read", "reads"),
    "failover": ("failover",),
    "idle": ("idle",),
}
"""What the user names → the rows of the table that it makes."""

LOCAL_ONLY = ("failover", "idle")
"""Rows that kill nodes or fill them with clusters: never done to an installation of others."""


async def measure(row: str, settings: Settings) -> Sample:
    """Run one row once, on nodes of its own."""
    with LocalCluster(settings.directory) as nodes:
        if row == "failover":
            return await _measure_failover(nodes, settings)
        if row == "idle":
            return await _measure_idle(nodes, settings)
        return await measure_at(nodes.target(), row, settings)


async def measure_at(target: Target, row: str, settings: Settings) -> Sample:
    """Run one row once against nodes that run already.

    Raises `ConfigurationError` for a row that would harm them.
    """
    if row not in _LOADS:
        raise ConfigurationError(f"{row}: only measured on nodes that the benchmark starts itself")
    connections, load = _LOADS[row]
    payload = b"x" * settings.payload_bytes
    async with connected(target, connections) as clients:
        await load(clients, target.cluster, payload, min(_WARM_UP_MAX_S, settings.seconds / 4))
        nodes_before, client_before = cpu_seconds(target.processes.values()), time.process_time()
        outcome = await load(clients, target.cluster, payload, settings.seconds)
        client_s = time.process_time() - client_before
        nodes_s = cpu_seconds(target.processes.values()) - nodes_before
        report = await clients[0].status([])
    sample = _with_nodes(Sample(row, outcome.commands), report)
    latencies = sorted(outcome.latencies_s)
    sample.per_second = outcome.commands / outcome.seconds
    sample.p50_ms, sample.p99_ms = quantile(latencies, 0.5) * 1000, quantile(latencies, 0.99) * 1000
    sample.client_cpu_us = client_s / outcome.commands * 1e6
    if target.processes:
        sample.nodes_cpu_us = nodes_s / outcome.commands * 1e6
    return sample


@asynccontextmanager
async def connected(target: Target, count: int) -> AsyncIterator[list[Client]]:
    """So many clients, each of which has had a command answered and so knows the leader."""
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(count):
            client = Client(
                target.addresses,
                secret=target.secret,
                installation=target.installation,
                timeout_s=_TIMEOUT_S,
            )
            clients.append(await stack.enter_async_context(client))
        for client in clients:
            await client.process_command(target.cluster, b"hello")
        await availability.settled(clients, target.cluster)
        yield clients


def _with_nodes(sample: Sample, report: Status) -> Sample:
    """Add the nodes' own figures."""
    nodes = [node for node in report.nodes if node.state != "unreachable"]
    sample.longest_stall_ms = max(node.longest_stall_ms for node in nodes)
    sample.writer = "/".join(sorted({str(node.storage["writer"]) for node in nodes}))
    sample.sync_ms = max(float(node.storage["sync_seconds_measured"]) for node in nodes) * 1000
    return sample


async def _measure_failover(nodes: LocalCluster, settings: Settings) -> Sample:
    payload = b"x" * settings.payload_bytes
    async with connected(nodes.target(), 1) as [client]:
        times = sorted(await availability.failover(nodes, client, payload, settings.kills))
        report = await client.status([])
    sample = _with_nodes(Sample("failover", len(times)), report)
    sample.p50_ms, sample.p99_ms = quantile(times, 0.5) * 1000, times[-1] * 1000
    sample.facts = {"times_ms": [round(t * 1000, 1) for t in times]}
    return sample


async def _measure_idle(nodes: LocalCluster, settings: Settings) -> Sample:
    target = nodes.target()
    async with connected(target, 1) as [client]:
        facts = await availability.idle(client, target.processes, settings.clusters, settings.seconds)
        report = await client.status([])
    sample = _with_nodes(Sample("idle", settings.clusters), report)
    sample.facts = facts
    return sample


def quantile(ascending: Sequence[float], share: float) -> float:
    """The value below which that share of the values lies; 0.0 of nothing."""
    return ascending[min(len(ascending) - 1, int(len(ascending) * share))] if ascending else 0.0
