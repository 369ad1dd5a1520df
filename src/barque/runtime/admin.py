"""What a node does for administrators: one verb each, for clients and for other nodes.

Every verb has a deadline and works against any live node; those that need another node ask it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from barque.core.messages import ElectionTimeout, TransferLeadership
from barque.core.state import RaftState
from barque.core.transfer import best_successor
from barque.errors import (
    BarqueError,
    ConfigurationError,
    InvalidCommand,
    NoLeader,
    NotAvailableYet,
    NotLeader,
    UnknownCluster,
)
from barque.runtime.admin_members import MemberAdmin
from barque.runtime.directory import configured_cluster_id, new_cluster_id, new_uid
from barque.runtime.reporting import cluster_overview, local_report, merge_reports
from barque.types import ClientRef, IndexTerm, ServerId, Term, Uid

if TYPE_CHECKING:
    from barque.runtime.node import Node

_ASK_S = 2.0
_LATER = {"snapshot": "snapshots"}


class Admin:
    """The verbs of one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._established: dict[str, asyncio.Event] = {}
        self._verbs: dict[str, Callable[[dict[str, Any]], Awaitable[Any]]] = {
            "ping": self.ping,
            "nodes": self.nodes,
            "status": self.status,
            "local_report": self.local_report,
            "members": self.members,
            "overview": self.overview,
            "transfer_leadership": self.transfer_leadership,
            "start_cluster": self.start_cluster,
            "start_server": self.start_server,
            "trigger_election": self.trigger_election,
        }
        self._members = MemberAdmin(node, self._ask_at)
        self._verbs.update(self._members.verbs)

    async def handle(self, verb: str, arguments: dict[str, Any]) -> Any:
        """Serve one request. Raises `BarqueError`s; their text is for the person who asked."""
        if verb in _LATER:
            raise NotAvailableYet(f"{_LATER[verb]} are designed but not built in this release")
        function = self._verbs.get(verb)
        if function is None:
            raise InvalidCommand(f"unknown verb {verb!r}")
        return await function(arguments)

    async def ping(self, arguments: dict[str, Any]) -> Any:
        """Name and uptime; for a cluster, the state of its member here (API-22)."""
        cluster = arguments.get("cluster")
        node = self._node
        if cluster is None:
            return {"node": node.name, "uptime_s": node.clock.monotonic() - node.started_at}
        process = node.member_here(cluster)
        if process is None:
            raise UnknownCluster(f"no member of {cluster!r} runs on node {node.name}")
        return {"node": node.name, "server": str(process.server.id), "state": process.state}

    async def nodes(self, arguments: dict[str, Any]) -> Any:
        """Where every node of this installation is reached."""
        node = self._node
        return {**node.config.nodes, node.name: node.transport.advertise}

    async def local_report(self, arguments: dict[str, Any]) -> Any:
        """This node and its members."""
        return local_report(self._node, clusters=_names(arguments.get("clusters")))

    async def status(self, arguments: dict[str, Any]) -> Any:
        """All nodes and clusters. A node that does not answer in time is shown as unreachable."""
        clusters = _names(arguments.get("clusters"))
        timeout_s = min(_ASK_S, int(arguments.get("timeout_ms", 2_000)) / 1000 * 0.8)
        others = [name for name in self._node.config.nodes if name != self._node.name]
        asked = {"clusters": list(clusters) if clusters is not None else None}
        answers = await asyncio.gather(
            *(self._node.calls.call(name, "local_report", asked, timeout_s) for name in others),
            return_exceptions=True,
        )
        reports = [local_report(self._node, clusters=clusters)]
        missing: dict[str, str] = {}
        for name, answer in zip(others, answers, strict=True):
            if isinstance(answer, BarqueError):
                status = self._node.transport.status().get(name)
                missing[name] = status.last_error if status and status.last_error else str(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                reports.append(answer)
        return merge_reports(reports, missing)

    async def members(self, arguments: dict[str, Any]) -> Any:
        """Members and leader of a cluster, as this node knows them (API-18)."""
        cluster = str(arguments["cluster"])
        process = self._node.member_here(cluster)
        leader = self._node.front.leader_of(cluster)
        if process is not None:
            members = list(process.server.cluster)
        elif leader is not None:
            return await self._ask_at(leader.node, "members", arguments)
        else:
            raise UnknownCluster(f"node {self._node.name} knows no cluster {cluster!r}")
        return {"members": members, "leader": leader or process.server.leader_id}

    async def overview(self, arguments: dict[str, Any]) -> Any:
        """Everything about the member on this node (OVW-01)."""
        cluster = str(arguments["cluster"])
        process = self._node.member_here(cluster)
        if process is None:
            raise UnknownCluster(f"no member of {cluster!r} runs on node {self._node.name}")
        return cluster_overview(process)

    async def _ask_at(self, node: str, verb: str, arguments: dict[str, Any]) -> Any:
        timeout_s = int(arguments.get("timeout_ms", 2_000)) / 1000
        if node == self._node.name:
            return await self.handle(verb, arguments)
        return await self._node.calls.call(node, verb, arguments, timeout_s, patient=True)

    # --- leadership --------------------------------------------------------------------

    async def transfer_leadership(self, arguments: dict[str, Any]) -> Any:
        """Ask the leader to hand over (API-21). Answers `ok` or `already_leader`.

        Raises `UnknownMember`, `NonVoter`, `NotUpToDate`, `NoLeader`, `NotLeader`.
        """
        cluster = str(arguments["cluster"])
        leader = self._node.front.leader_of(cluster)
        if leader is None:
            raise NoLeader(f"nobody is known to lead {cluster!r}")
        if leader.node != self._node.name:
            if arguments.get("forwarded"):
                raise NotLeader(f"{leader} leads {cluster!r} now", leader)
            return await self._ask_at(leader.node, "transfer_leadership", {**arguments, "forwarded": True})
        target = _server_id(arguments["target"], cluster)
        return await self._transfer_here(leader, target, int(arguments.get("timeout_ms", 5_000)) / 1000)

    async def _transfer_here(self, leader: ServerId, target: ServerId, timeout_s: float) -> Any:
        def transfer(origin: ClientRef, correlation: int) -> TransferLeadership:
            return TransferLeadership(origin, correlation, target)

        return await self._members.ask_server(leader, transfer, timeout_s)

    async def hand_over(self, timeout_s: float) -> None:
        """Before a stop: give every leadership that another member can take at once to it."""
        leading = [
            process
            for process in self._node.system.processes.values()
            if process.failure is None and process.server.raft_state is RaftState.LEADER
        ]
        wanted = []
        for process in leading:
            successor = best_successor(process.server)
            if successor is not None and self._is_connected(successor.node):
                wanted.append(self._transfer_here(process.server.id, successor, timeout_s))
        if not wanted:
            return
        await asyncio.gather(*wanted, return_exceptions=True)
        for _ in range(20):  # a hint of patience: the successors are being elected
            if not any(p.server.leader_id == p.server.id for p in leading):
                return
            await asyncio.sleep(timeout_s / 20)

    def _is_connected(self, name: str) -> bool:
        status = self._node.transport.status().get(name)
        return status is not None and status.connected

    async def trigger_election(self, arguments: dict[str, Any]) -> Any:
        """Let the member here stand for election now (API-09)."""
        process = self._node.member_here(str(arguments["cluster"]))
        if process is None:
            raise UnknownCluster(f"no member of {arguments['cluster']!r} runs on node {self._node.name}")
        process.handle(ElectionTimeout())
        self._node.wake()
        return "ok"

    # --- clusters ----------------------------------------------------------------------

    async def start_server(self, arguments: dict[str, Any]) -> Any:
        """Start a new member here (API-05).

        `cluster_id`, `uids` (`name@node` → uid, its own too) and `joined_at` come from whoever forms or
        changes the cluster. Without the first it is the one that configurations form.
        """
        members = tuple(_server_id(m, str(arguments["cluster"])) for m in arguments["members"])
        cluster = str(arguments["cluster"])
        [name] = [m.name for m in members if m.node == self._node.name]
        node = self._node
        configured = configured_cluster_id(node.config.installation, cluster)
        cluster_id = str(arguments.get("cluster_id") or configured)
        uids = {str(member): Uid(str(uid)) for member, uid in (arguments.get("uids") or {}).items()}
        self._discard_leftover(name, cluster_id, uids, Term(int(arguments.get("term") or 0)))
        node.system.create(
            name,
            cluster,
            str(arguments["machine"]),
            dict(arguments.get("arguments") or {}),
            members,
            cluster_id=cluster_id,
            uids=uids,
            membership=str(arguments.get("membership") or "voter"),
            joined_at=msgspec.convert(arguments.get("joined_at") or (0, 0), IndexTerm),
        )
        return "ok"

    def _discard_leftover(self, name: str, cluster_id: str, uids: Mapping[str, Uid], term: Term) -> None:
        """A server of the same cluster that is no member of it by what its leader says may go.

        It was removed while it was away, or was started for a change that did not come about. One that has
        met a later leader than this of `term`, or was made to join by one, stays: this request is late.
        """
        process = self._node.system.processes.get(name)
        if process is None or process.identity[0] != cluster_id or not uids:
            return
        met = max(process.server.current_term, process.server.cfg.min_vote_position.term)
        if process.identity[1] not in uids.values() and met <= term:
            self._node.system.delete(process, "its cluster has another member here", whole_cluster=False)

    async def start_cluster(self, arguments: dict[str, Any]) -> Any:
        """Start a member on each node named, elect a leader, and wait for it (API-02).

        Answers which were started. Raises `ConfigurationError` for a name or machine that cannot
        be used, and `NoLeader` when no majority could be started or none was elected in time.
        """
        cluster = str(arguments["cluster"])
        nodes = [str(n) for n in arguments.get("nodes") or sorted(self._node.config.nodes)]
        timeout_s = int(arguments.get("timeout_ms", 5_000)) / 1000
        unknown = [n for n in nodes if n not in self._node.config.nodes]
        if unknown or len(set(nodes)) != len(nodes) or not nodes:
            raise ConfigurationError(f"start_cluster: bad node list {nodes}; unknown: {unknown}")
        members = [ServerId(cluster, n) for n in nodes]
        cluster_id = new_cluster_id(self._node.rng)
        request = {
            "cluster": cluster,
            "cluster_id": cluster_id,
            "uids": {str(member): new_uid(member.name, self._node.rng) for member in members},
            "machine": str(arguments["machine"]),
            "arguments": arguments.get("arguments") or {},
            "members": [str(m) for m in members],
        }
        answers = await asyncio.gather(
            *(
                self._ask_at(n, "start_server", {**request, "timeout_ms": int(timeout_s * 800)})
                for n in nodes
            ),
            return_exceptions=True,
        )
        problems = {n: a for n, a in zip(nodes, answers, strict=True) if isinstance(a, Exception)}
        started = [n for n in nodes if n not in problems]
        if len(started) <= len(nodes) // 2:
            first = next(iter(problems.values()))
            if isinstance(first, ConfigurationError):
                raise first
            raise NoLeader(f"only {started} of {nodes} could be started: {first}")
        chosen = self._node.name if self._node.name in started else started[0]
        await self._ask_at(chosen, "trigger_election", {"cluster": cluster, "timeout_ms": 2_000})
        try:
            await asyncio.wait_for(self._wait_established(cluster, cluster_id), timeout_s)
        except TimeoutError:
            raise NoLeader(
                f"{cluster!r} was started on {started}, but no leader was elected in time"
            ) from None
        return {"started": started, "not_started": {n: str(e) for n, e in problems.items()}}

    async def _wait_established(self, cluster: str, cluster_id: str) -> None:
        """The leader of another cluster of that name may wake us first."""
        while self._node.front.established_term(cluster, cluster_id) == 0:
            await self._established.setdefault(cluster, asyncio.Event()).wait()

    def leader_established(self, cluster: str) -> None:
        """Wake those who wait for a first leader."""
        event = self._established.pop(cluster, None)
        if event is not None:
            event.set()


def _names(value: Any) -> tuple[str, ...] | None:
    return None if value is None else tuple(str(name) for name in value)


def _server_id(value: Any, cluster: str) -> ServerId:
    """`name@node`, or the name of a node alone."""
    name, _, node = str(value).rpartition("@")
    return ServerId(name or cluster, node)
