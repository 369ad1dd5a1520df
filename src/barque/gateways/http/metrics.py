"""The figures of a node, as families of samples.

A node may have ten thousand members: their figures are added up in slices, and the event loop gets a turn
after each. Only some members have samples of their own.
"""

import asyncio
import heapq
from collections.abc import Iterator, Mapping
from typing import Any

import barque
from barque.core.roles import RaftState
from barque.gateways.http import names
from barque.gateways.http.exposition import Families, Labels, Metric
from barque.runtime.node import Node
from barque.runtime.reporting import all_counters
from barque.runtime.server_process import ServerProcess

SLICE = 100
"""Members that are looked at before the loop gets a turn; a few milliseconds."""

Samples = dict[Metric, list[tuple[Labels, float]]]


async def node_families(node: Node, top: int) -> Families:
    """The node's own figures, sums over its members, and the `top` busiest members'."""
    totals = dict.fromkeys(names.COUNTERS, 0)
    states: dict[str, int] = {str(state): 0 for state in (RaftState.LEADER, RaftState.FOLLOWER)}
    busiest: list[tuple[int, str, ServerProcess]] = []
    leaderless = 0
    processes = node.servers.all()
    for first in range(0, len(processes), SLICE):
        for process in processes[first : first + SLICE]:
            own = all_counters(process)
            for name in totals:
                totals[name] += own[name]
            states[process.state] = states.get(process.state, 0) + 1
            leaderless += process.failure is None and process.server.leader_id is None
            work = own["commands"] + own["consistent_queries"] + own["local_queries"]
            place = (work, str(process.server.id), process)
            if len(busiest) < top:
                heapq.heappush(busiest, place)
            elif top:
                heapq.heappushpop(busiest, place)
        await asyncio.sleep(0)
    families: Samples = {}
    for metric, value in _node_figures(node):
        families[metric] = [((), value)]
    families[names.BUILD] = [((("node", node.name), ("version", barque.__version__)), 1)]
    families[names.MEMBERS] = [((("state", state),), count) for state, count in sorted(states.items())]
    families[names.LEADERLESS] = [((), leaderless)]
    families.update({names.TOTALS[name]: [((), total)] for name, total in totals.items()})
    families.update(_peers(node))
    chosen = [process for _, _, process in sorted(busiest, reverse=True)]
    return {**families, **member_families(chosen)}


async def page_families(node: Node, prefix: str, after: str, limit: int) -> Families:
    """The figures of the members whose clusters' names begin with `prefix` and come behind `after`."""
    found = []
    processes = node.servers.all()
    for first in range(0, len(processes), 10 * SLICE):
        for process in processes[first : first + 10 * SLICE]:
            cluster = process.server.cfg.cluster_name
            if cluster.startswith(prefix) and cluster > after:
                found.append((cluster, str(process.server.id), process))
        await asyncio.sleep(0)
    return member_families([process for _, _, process in heapq.nsmallest(limit, found)])


def member_families(processes: list[ServerProcess]) -> Samples:
    """All figures of these members."""
    families: Samples = {names.SHOWN: [((), len(processes))]}
    shown = [names.MEMBER_LEADS, names.MEMBER_HAS_LEADER, names.MEMBER_FAILED, *names.MEMBER.values()]
    families.update({metric: [] for metric in shown})
    for process in processes:
        server = process.server
        labels = (("cluster", server.cfg.cluster_name), ("member", str(server.id)))
        families[names.MEMBER_LEADS].append((labels, process.state == str(RaftState.LEADER)))
        families[names.MEMBER_HAS_LEADER].append((labels, server.leader_id is not None))
        families[names.MEMBER_FAILED].append((labels, process.state == "failed"))
        for name, value in all_counters(process).items():
            families[names.MEMBER[name]].append((labels, value))
    return families


def _node_figures(node: Node) -> Iterator[tuple[Metric, float]]:
    """What a node has one of."""
    storage, requests = node.system.storage.overview(), node.requests.overview()
    yield names.UPTIME, round(node.reporter.uptime_s, 3)
    yield names.STALL, node.liveness.longest_stall_s
    yield names.WAITING, requests["waiting"]
    yield names.WAITING_BYTES, requests["waiting_bytes"]
    yield names.CAMPAIGNS_WAITING, len(node.system.server_timers.campaigns)
    yield names.WAL_FAILED, storage["failed_reason"] is not None
    tables: tuple[tuple[Mapping[str, Metric], dict[str, Any]], ...] = (
        (names.STORAGE, storage),
        (names.WAL, storage["wal"]),
        (names.SEGMENT_WRITER, storage["segment_writer"]),
        (names.META, storage["meta"]),
        (names.TRANSPORT, node.transport.counters.overview()),
        (names.PROCESSES, node.processes.overview()),
    )
    for metrics, told in tables:
        for name, metric in metrics.items():
            if told[name] is not None:
                yield metric, told[name]


def _peers(node: Node) -> Samples:
    links = sorted(node.transport.status().items())
    detector = node.liveness.detector
    label = {name: (("peer", name),) for name, _ in links}
    return {
        names.PEER_CONNECTED: [(label[name], link.connected) for name, link in links],
        names.PEER_UP: [(label[name], detector.is_up(name)) for name, _ in links],
        names.PEER_QUEUED: [(label[name], link.bytes_queued) for name, link in links],
        names.PEER_DROPPED: [(label[name], link.dropped) for name, link in links],
    }
