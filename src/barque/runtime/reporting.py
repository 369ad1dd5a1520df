"""Facts for people and programs: what `status` and `overview` show.

A node may have ten thousand members. What tells of all of them is made in slices, and the event loop gets a
turn after each.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol, TypeVar

from barque.core.configuration import may_change
from barque.core.overview import waiting_reads
from barque.core.roles import WaitingRole
from barque.core.state import RaftState
from barque.runtime.cluster_clock import ClusterClock
from barque.runtime.liveness import Liveness
from barque.runtime.processes import Processes
from barque.runtime.reply_encoding import encode_or_why
from barque.runtime.requests import RequestRouter
from barque.runtime.server_process import ServerProcess
from barque.runtime.system import System
from barque.transport.contract import Transport

_REPR_MAX = 1_000
SLICE = 200
"""Members that are looked at before the loop gets a turn; a few milliseconds."""

T = TypeVar("T")


class Gateway(Protocol):
    """A gateway that serves other programs on this node."""

    @property
    def address(self) -> str:
        """Where it listens, as `host:port`."""
        ...


def member_status(process: ServerProcess) -> dict[str, Any]:
    """Where one member stands. `snapshot_index` is 0 before the first snapshot."""
    server = process.server
    last, written = server.log.last_index_term(), server.log.last_written()
    status: dict[str, Any] = {
        "server": str(server.id),
        "name": server.id.name,
        "node": server.id.node,
        "role": process.state,
        "voter": server.is_voter(server.id),
        "membership": str(server.membership),
        "leader": str(server.leader_id) if server.leader_id else None,
        "current_term": server.current_term,
        "commit_index": server.commit_index,
        "last_applied": server.last_applied,
        "last_index": last.index,
        "last_written_index": written.index,
        "last_written_term": written.term,
        "snapshot_index": server.log.snapshot_index_term().index,
    }
    if server.lost_quorum:
        status["lost_quorum"] = "it led, heard from no majority of the voters, and stepped down"
    if process.unknown_incarnations:
        status["stale_incarnations"] = [
            {"server": str(member), "uid": uid, "cure": process.cure_for(member)}
            for member, uid in sorted(process.unknown_incarnations.items())
        ]
    if process.digests.differing:
        status["state_differs"] = dict(sorted(process.digests.differing.items()))
    if process.failure is not None:
        status["failure"] = process.failure
    if process.restarts:
        status["restarts"] = process.restarts
    if isinstance(server.role, WaitingRole):
        status["waits_for"] = str(server.role.condition)
    return status


class Reporter:
    """Facts about one node. `gateway` is set once one serves the Redis protocol."""

    def __init__(
        self,
        system: System,
        transport: Transport,
        router: RequestRouter,
        liveness: Liveness,
        clock: ClusterClock,
        processes: Processes,
    ) -> None:
        self.gateway: Gateway | None = None
        self._name = system.node
        self._system = system
        self._transport = transport
        self._router = router
        self.liveness = liveness
        self._clock = clock
        self._processes = processes
        self._started_at = clock.monotonic()

    @property
    def uptime_s(self) -> float:
        """Seconds since the node started."""
        return self._clock.monotonic() - self._started_at

    def node_status(self) -> dict[str, Any]:
        """This node: its address, its disk, and the nodes that it is connected to."""
        guard = self._system.storage.guard
        failure = self._system.failure or (guard.reason() if guard.full else None)
        status: dict[str, Any] = {
            "name": self._name,
            "pid": os.getpid(),
            "address": self._transport.advertise,
            "resp_address": self.gateway.address if self.gateway is not None else None,
            "state": "running" if failure is None else "degraded",
            "uptime_s": round(self.uptime_s, 3),
            "longest_stall_ms": round(self.liveness.longest_stall_s * 1000, 1),
            "storage": self._system.storage.overview(),
            "requests": self._router.overview(),
            "peers": {
                name: {
                    "address": peer.address,
                    "connected": peer.connected,
                    "last_error": peer.last_error,
                    "dropped": peer.dropped,
                    "bytes_queued": peer.bytes_queued,
                }
                for name, peer in self._transport.status().items()
            },
            "detector": self.liveness.detector.overview(self._clock.monotonic()),
            "clock": self._clock.overview(),
            "other_machine_code": self.liveness.codes.overview(),
            "transport": self._transport.counters.overview(),
            "processes": self._processes.overview(),
        }
        if failure is not None:
            status["failure"] = failure
        return status

    def member_overview(self, process: ServerProcess) -> dict[str, Any]:
        """One member in all detail, with what its process waits for and when (OVW-01, OVW-04)."""
        server, rate = process.server, process.commit_rate
        leader = server.leader_id
        role = server.leadership()
        queued = sum(c.count for c in role.low_priority or ()) if role is not None else 0
        rates = {"commit_rate": 0.0, "commit_rate_last": 0.0}
        return {
            **cluster_overview(process),
            **(rates if rate is None else rate.overview(self._clock.monotonic())),
            "process": {
                "leader_silent_ms": None if leader is None else self.liveness.silence_ms(leader.node),
                "queued_commands": queued,
                "waits_for_sync": process.held is not None,
                "timers": self._system.server_timers.armed(process),
            },
        }

    async def node_overview(self, clusters: tuple[str, ...] | None = None) -> dict[str, Any]:
        """This node, with the figures and counters of its servers (API-24), or of these clusters' only."""
        servers: dict[str, Any] = {}
        async for part in in_slices(self._members(clusters)):
            for process in part:
                servers[process.server.id.name] = {
                    "cluster": process.server.cfg.cluster_name,
                    "uid": process.uid,
                    "state": process.state,
                    "counters": all_counters(process),
                }
        return {**self.node_status(), "servers": servers}

    async def local_report(self, clusters: tuple[str, ...] | None = None) -> dict[str, Any]:
        """This node and its members (of these clusters only, if given)."""
        members: list[dict[str, Any]] = []
        async for part in in_slices(self._members(clusters)):
            members += [{"cluster": p.server.cfg.cluster_name, **member_status(p)} for p in part]
        return {"node": self.node_status(), "members": members}

    def _members(self, clusters: tuple[str, ...] | None) -> list[ServerProcess]:
        processes = self._system.processes.values()
        return [p for p in processes if clusters is None or p.server.cfg.cluster_name in clusters]


async def in_slices(items: Sequence[T]) -> AsyncIterator[Sequence[T]]:
    """These items, some at a time; the loop gets a turn between two slices."""
    for first in range(0, len(items), SLICE):
        if first:
            await asyncio.sleep(0)
        yield items[first : first + SLICE]


def all_counters(process: ServerProcess) -> dict[str, int]:
    """What a server has counted, with its log and its snapshots."""
    return {**process.count_overview(), **process.server.log.counters()}


def _encodable(value: Any) -> Any:
    """A value of a machine's, or what it looks like if it cannot be sent."""
    return value if isinstance(encode_or_why(value), bytes) else repr(value)[:_REPR_MAX]


def cluster_overview(process: ServerProcess) -> dict[str, Any]:
    """One member in all detail (OVW-01)."""
    server = process.server
    machine, log = server.cfg.machine, server.log.overview()
    log.pop("counters", None)  # they have a place of their own
    waiting, pending = waiting_reads(server)
    return {
        **member_status(process),
        "cluster": server.cfg.cluster_name,
        "cluster_id": server.cfg.cluster_id,
        "uid": server.cfg.uid,
        "voted_for": str(server.voted_for) if server.voted_for else None,
        "cluster_change_permitted": may_change(server),
        "machine": {
            "type": type(machine).__name__,
            "version": machine.version,
            "effective_version": server.effective_machine_version,
            **server.machine.overview(server.machine_state),
        },
        "log": log,
        "commit_latency_ms": server.commit_latency_ms,
        "query_index": server.query_index,
        "waiting_queries": waiting,
        "pending_queries": pending,
        "cluster_index": server.cluster_index_term.index,
        "aux": _encodable(server.aux_state),
        "peers": {
            str(member): {
                "next_index": peer.next_index,
                "match_index": peer.match_index,
                "commit_index": peer.commit_index,
                "commit_index_sent": peer.commit_index_sent,
                "voter": peer.voter,
                "uid": peer.uid,
            }
            for member, peer in server.peers
        }
        if server.raft_state is RaftState.LEADER
        else {},
        "counters": all_counters(process),
    }


async def merge_reports(reports: list[dict[str, Any]], missing: dict[str, str]) -> dict[str, Any]:
    """Merge the reports of all nodes; a node that did not answer is in the result, with the reason.

    The leader of a cluster is the member that leads in the highest term: an old leader may not have
    noticed yet that it was replaced.
    """
    nodes = [report["node"] for report in reports]
    nodes += [
        {
            "name": name,
            "pid": None,
            "address": None,
            "resp_address": None,
            "state": "unreachable",
            "uptime_s": None,
            "failure": why,
        }
        for name, why in missing.items()
    ]
    clusters: dict[str, list[dict[str, Any]]] = {}
    for report in reports:
        async for members in in_slices(report["members"]):
            for member in members:
                clusters.setdefault(member["cluster"], []).append(member)
    merged: list[dict[str, Any]] = []
    async for names in in_slices(sorted(clusters)):
        merged += [_cluster_report(name, clusters[name]) for name in names]
    return {"nodes": sorted(nodes, key=lambda node: str(node["name"])), "clusters": merged}


def _cluster_report(name: str, members: list[dict[str, Any]]) -> dict[str, Any]:
    leaders = [m for m in members if m["role"] == str(RaftState.LEADER)]
    leader = max(leaders, key=lambda m: int(m["current_term"]), default=None)
    return {
        "name": name,
        "leader": leader["server"] if leader else None,
        "term": max(int(m["current_term"]) for m in members),
        "members": sorted(
            ({k: v for k, v in m.items() if k != "cluster"} for m in members), key=lambda m: str(m["server"])
        ),
    }
