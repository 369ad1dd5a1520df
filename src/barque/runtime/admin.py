"""The administrative verbs of a node, for clients and for other nodes.

Every verb has a deadline and works against any live node; a verb that needs another node asks it.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from barque.config import NodeConfig
from barque.core.entries import EntryKind, kind_of
from barque.core.log_contract import Log, read_batches
from barque.core.messages import ElectionTimeout, TransferLeadership
from barque.core.state import RaftState
from barque.core.transfer import best_successor
from barque.errors import (
    BarqueError,
    ChangeNotPermitted,
    ConfigurationError,
    InvalidCommand,
    NoLeader,
    NotAvailableYet,
    NotLeader,
    Refused,
    UnknownCluster,
    WalDown,
)
from barque.machine.arguments import canonical_arguments
from barque.runtime.admin_members import MemberAdmin
from barque.runtime.admin_queries import QueryAdmin
from barque.runtime.admin_servers import ServerAdmin
from barque.runtime.client_session import InProcessSession
from barque.runtime.clock import Clock
from barque.runtime.directory import new_cluster_id, new_uid
from barque.runtime.dispatcher import Dispatcher
from barque.runtime.effect_sink import EffectSink
from barque.runtime.node_rpc import NodeRpc
from barque.runtime.reporting import Reporter, merge_reports
from barque.runtime.requests import RequestRouter
from barque.runtime.server_process import ServerProcess
from barque.runtime.server_record import check_name, configured_cluster_id
from barque.runtime.server_table import Ending
from barque.runtime.system import System
from barque.transport.contract import Transport
from barque.transport.wire import MemberRemoved
from barque.types import ClientRef, Index, IndexTerm, Membership, ServerId, Term, Uid

_ASK_S = 2.0
_UNDO_S = 0.5
_AGAIN_S = 0.02
_LATER = {"snapshot": "snapshots"}


class Admin:
    """The verbs of one node."""

    def __init__(
        self,
        config: NodeConfig,
        system: System,
        router: RequestRouter,
        session: InProcessSession,
        dispatcher: Dispatcher,
        sink: EffectSink,
        rpc: NodeRpc,
        reporter: Reporter,
        transport: Transport,
        clock: Clock,
        rng: random.Random,
        wake: Callable[[], None],
    ) -> None:
        self._name = config.name
        self._config = config
        self._system = system
        self._servers = system.servers
        self._router = router
        self._removals = dispatcher.removals
        self._rpc = rpc
        self._reporter = reporter
        self._transport = transport
        self._clock = clock
        self._rng = rng
        self._wake = wake
        nodes = tuple(config.nodes)
        self._members = MemberAdmin(
            self._name,
            nodes,
            self._ask_at,
            system,
            router,
            session,
            dispatcher,
            sink,
            reporter.liveness,
            clock,
            rng,
            wake,
        )
        self._verbs: dict[str, Callable[[dict[str, Any]], Awaitable[Any]]] = {
            "ping": self.ping,
            "nodes": self.nodes,
            "status": self.status,
            "local_report": self.local_report,
            "members": self.members,
            "overview": self.overview,
            "node_overview": self.node_overview,
            "transfer_leadership": self.transfer_leadership,
            "start_cluster": self.start_cluster,
            "start_or_restart_cluster": self.start_or_restart_cluster,
            "describe_server": self.describe_server,
            "start_server": self.start_server,
            "discard_server": self.discard_server,
            "trigger_election": self.trigger_election,
            "make_linked_copy": self.make_linked_copy,
            "remove_linked_copy": self.remove_linked_copy,
        }
        servers = ServerAdmin(
            self._name, nodes, self._ask_at, system, self.start_server, self._hand_over_these, rng, wake
        )
        self._verbs.update(self._members.verbs)
        self._verbs.update(servers.verbs)
        leader_of = self._members.leader_of
        queries = QueryAdmin(self._name, nodes, self._ask_at, leader_of, system, router, clock)
        self.waits = queries.waits
        self._verbs.update(queries.verbs)

    async def handle(self, verb: str, arguments: dict[str, Any]) -> Any:
        """Serve one request. Raises `BarqueError`s, with texts for people."""
        if verb in _LATER:
            raise NotAvailableYet(f"{_LATER[verb]} are designed but not built in this release")
        function = self._verbs.get(verb)
        if function is None:
            raise InvalidCommand(f"unknown verb {verb[:80]!r}")
        if "cluster" in arguments:
            check_name("cluster", str(arguments["cluster"]))
        return await function(arguments)

    async def make_linked_copy(self, arguments: dict[str, Any]) -> Any:
        """Copy this node's directory by links, for `barque backup live`; returns the copy's path."""
        deadline = self._clock.monotonic() + int(arguments.get("timeout_ms", 5_000)) / 1000 * 0.8
        while (path := self._system.storage.make_linked_copy()) is None:
            if self._clock.monotonic() >= deadline:
                raise WalDown("the log is busy, or cannot be written: no copy was made; see `barque status`")
            await asyncio.sleep(0.002)
        return {"node": self._name, "path": path}

    async def remove_linked_copy(self, arguments: dict[str, Any]) -> Any:
        """Remove that copy."""
        self._system.storage.remove_linked_copy()
        return {"node": self._name}

    async def ping(self, arguments: dict[str, Any]) -> Any:
        """Name and uptime; for a cluster, the state of its member here (API-22)."""
        cluster = arguments.get("cluster")
        if cluster is None:
            return {"node": self._name, "uptime_s": self._reporter.uptime_s}
        process = self._member_here(cluster)
        return {"node": self._name, "server": str(process.server.id), "state": process.state}

    def _member_here(self, cluster: str) -> ServerProcess:
        process = self._servers.member_of(cluster)
        if process is None:
            raise UnknownCluster(f"no member of {cluster!r} runs on node {self._name}")
        return process

    async def nodes(self, arguments: dict[str, Any]) -> Any:
        """The address of every node of this installation."""
        return {**self._config.nodes, self._name: self._transport.advertise}

    async def local_report(self, arguments: dict[str, Any]) -> Any:
        """This node and its members."""
        return await self._reporter.local_report(_names(arguments.get("clusters")))

    async def status(self, arguments: dict[str, Any]) -> Any:
        """All nodes and clusters. A node that does not answer in time is shown as unreachable."""
        clusters = _names(arguments.get("clusters"))
        timeout_s = min(_ASK_S, int(arguments.get("timeout_ms", 2_000)) / 1000 * 0.8)
        others = [name for name in self._config.nodes if name != self._name]
        asked = {"clusters": list(clusters) if clusters is not None else None}
        answers = await asyncio.gather(
            *(self._rpc.call(name, "local_report", asked, timeout_s) for name in others),
            return_exceptions=True,
        )
        reports = [await self._reporter.local_report(clusters)]
        missing: dict[str, str] = {}
        for name, answer in zip(others, answers, strict=True):
            if isinstance(answer, BarqueError):
                status = self._transport.status().get(name)
                missing[name] = status.last_error if status and status.last_error else str(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                reports.append(answer)
        return await merge_reports(reports, missing)

    async def members(self, arguments: dict[str, Any]) -> Any:
        """Members and leader of a cluster, as this node knows them (API-18)."""
        cluster = str(arguments["cluster"])
        process = self._servers.member_of(cluster)
        leader = self._router.leader_of(cluster)
        if process is not None:
            members = list(process.server.cluster)
        elif leader is not None:
            return await self._ask_at(leader.node, "members", arguments)
        else:
            raise UnknownCluster(f"node {self._name} knows no cluster {cluster!r}")
        return {"members": members, "leader": leader or process.server.leader_id}

    async def overview(self, arguments: dict[str, Any]) -> Any:
        """Everything about the member on this node (OVW-01)."""
        return self._reporter.member_overview(self._member_here(str(arguments["cluster"])))

    async def node_overview(self, arguments: dict[str, Any]) -> Any:
        """Everything about this node, or about `node`, and the counters of its servers (API-24)."""
        node = str(arguments.get("node") or self._name)
        if node not in self._config.nodes:
            raise ConfigurationError(f"node {node[:64]!r} is not among the nodes of this installation")
        if node != self._name:
            return await self._ask_at(node, "node_overview", arguments)
        return await self._reporter.node_overview(_names(arguments.get("clusters")))

    async def _ask_at(self, node: str, verb: str, arguments: dict[str, Any]) -> Any:
        timeout_s = int(arguments.get("timeout_ms", 2_000)) / 1000
        if node == self._name:
            return await self.handle(verb, arguments)
        return await self._rpc.call(node, verb, arguments, timeout_s, patient=True)

    # --- leadership --------------------------------------------------------------------

    async def transfer_leadership(self, arguments: dict[str, Any]) -> Any:
        """Ask the leader to hand over (API-21). Answers `ok` or `already_leader`.

        Raises `UnknownMember`, `NonVoter`, `NotUpToDate`, `NoLeader`, `NotLeader`.
        """
        cluster = str(arguments["cluster"])
        leader = self._router.leader_of(cluster)
        if leader is None:
            raise NoLeader(f"nobody is known to lead {cluster!r}")
        if leader.node != self._name:
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
        """Before a stop, hand every leadership over. Ends when none has moved for `timeout_s`."""
        await self._hand_over_these(list(self._system.processes.values()), timeout_s)

    async def _hand_over_these(self, processes: list[ServerProcess], timeout_s: float) -> None:
        """Ask a successor of each leadership to take over; ask again while it is behind, or has not won.

        A leadership is handed over when the next leader has announced itself: it has then answered what is
        under way, and requests that still come here go to it.
        """
        led = {process: process.server.current_term for process in processes if _leads(process)}
        deadline = self._clock.monotonic() + timeout_s
        while led:
            nodes = self._transport.connected()
            heirs = {process: best_successor(process.server, nodes) for process in led if _leads(process)}
            await asyncio.gather(
                *(self._transfer_here(p.server.id, heir, timeout_s) for p, heir in heirs.items() if heir),
                return_exceptions=True,
            )
            left = {
                process: term
                for process, term in led.items()
                if process.failure is None
                and not (process in heirs and heirs[process] is None)
                and self._router.established_term(process.server.id.name, process.cluster_id) <= term
            }
            now = self._clock.monotonic()
            if len(left) < len(led):
                deadline = now + timeout_s
            elif now >= deadline:
                return
            led = left
            await asyncio.sleep(_AGAIN_S if led else 0)

    async def trigger_election(self, arguments: dict[str, Any]) -> Any:
        """Let the member on `node`, or here, campaign now (API-09)."""
        node = str(arguments.get("node") or self._name)
        if node != self._name:
            return await self._ask_at(node, "trigger_election", arguments)
        process = self._member_here(str(arguments["cluster"]))
        process.handle(ElectionTimeout())
        self._wake()
        return "ok"

    # --- clusters ----------------------------------------------------------------------

    async def start_server(self, arguments: dict[str, Any]) -> Any:
        """Start a new member here (API-05).

        The node that forms or changes the cluster sends `cluster_id`, `uids` (`name@node` → uid, the new
        server's too) and `joined_at`. Without `cluster_id` it is the cluster that configurations form.
        """
        cluster = str(arguments["cluster"])
        members = tuple(_server_id(m, cluster) for m in arguments["members"])
        [name] = [m.name for m in members if m.node == self._name]
        configured = configured_cluster_id(self._config.installation, cluster)
        cluster_id = str(arguments.get("cluster_id") or configured)
        uids = {str(member): Uid(str(uid)) for member, uid in dict(arguments.get("uids") or {}).items()}
        term = Term(int(arguments.get("term") or 0))
        record = self._system.plan(  # nothing is deleted or kept before all of it has been checked
            name,
            cluster,
            str(arguments["machine"]),
            dict(arguments.get("arguments") or {}),
            members,
            cluster_id=cluster_id,
            uids=uids,
            membership=Membership(str(arguments.get("membership") or Membership.VOTER)),
            joined_at=msgspec.convert(arguments.get("joined_at") or (0, 0), IndexTerm),
            initial_machine_version=int(arguments.get("initial_machine_version") or 0),
            skipped=tuple(int(index) for index in arguments.get("skipped") or ()),
        )
        self._discard_leftover(name, cluster_id, uids, term)
        self._system.create(record)
        return "ok"

    def _discard_leftover(self, name: str, cluster_id: str, uids: Mapping[str, Uid], term: Term) -> None:
        """Make room in the place of a leftover server of this cluster that its leader does not list.

        It was removed while it was away, or was started for a change that did not come about. A server that
        has met a later leader than this one of `term`, or was made to join by one, stays: this request is
        late. A server that holds commands goes only when others confirm its removal; until then this raises
        `ChangeNotPermitted`, and the caller tries again.
        """
        process = self._system.processes.get(name)
        if process is None or process.cluster_id != cluster_id or not uids:
            return
        met = max(process.server.current_term, process.server.cfg.min_vote_position.term)
        if process.uid not in uids.values() and met <= term:
            if process.failure is None and holds_commands(process.server.log):
                self._removals.suspect(self._name, MemberRemoved(cluster_id, process.uid))
                raise ChangeNotPermitted(
                    f"{process.server.id} of an earlier membership is still there; it goes when other nodes "
                    "confirm its removal; try again"
                )
            self._system.delete(process, "its cluster has another member here", whole_cluster=False)

    async def start_cluster(self, arguments: dict[str, Any]) -> Any:
        """Start a member on each node named, elect a leader, and wait for it (API-02).

        Answers which were started. For a cluster that was started with the same machine, arguments and nodes
        it starts nothing and answers which members run. Raises `ConfigurationError` for a name or machine
        that cannot be used, and `NoLeader` when no majority could be started or none was elected in time.
        Then the servers that were started are removed again, as far as their nodes can be reached.
        """
        cluster = str(arguments["cluster"])
        nodes = [str(n) for n in arguments.get("nodes") or sorted(self._config.nodes)]
        timeout_s = int(arguments.get("timeout_ms", 5_000)) / 1000
        canonical_arguments(arguments.get("arguments") or {})
        unknown = [n for n in nodes if n not in self._config.nodes]
        if unknown or len(set(nodes)) != len(nodes) or not nodes:
            raise ConfigurationError(f"start_cluster: bad node list {nodes}; unknown: {unknown}")
        deadline = self._clock.monotonic() + timeout_s * 0.8  # the caller must hear of it, whatever happens
        members = [ServerId(cluster, n) for n in nodes]
        uids = {str(member): new_uid(member.name, self._rng) for member in members}
        cluster_id = new_cluster_id(self._rng)
        request: dict[str, Any] = {
            "cluster": cluster,
            "cluster_id": cluster_id,
            "uids": uids,
            "machine": str(arguments["machine"]),
            "arguments": arguments.get("arguments") or {},
            "members": [str(m) for m in members],
            "initial_machine_version": int(arguments.get("initial_machine_version") or 0),
        }
        answers = await self._ask_all(nodes, "start_server", {**request, "timeout_ms": int(timeout_s * 500)})
        problems = {n: a for n, a in answers.items() if isinstance(a, Exception)}
        started = [n for n in nodes if n not in problems]
        if len(started) <= len(nodes) // 2:
            left = await self._undo_start(request, answers)
            there = await self._servers_there(cluster, nodes, deadline)
            if there and all(_is_same(facts, request) for facts in there.values()):
                return await self._when_established(there, nodes, deadline)
            first = next(iter(problems.values()))
            if isinstance(first, ConfigurationError):
                raise ConfigurationError(f"{first}{left}")
            raise NoLeader(f"only {started} of {nodes} could be started: {first}{left}")
        chosen = self._name if self._name in started else started[0]
        await self._ask_at(chosen, "trigger_election", {"cluster": cluster, "timeout_ms": 2_000})
        try:
            left_s = max(0.0, deadline - self._clock.monotonic())
            await asyncio.wait_for(self._wait_established(cluster, cluster_id), left_s)
        except TimeoutError:
            left = await self._undo_start(request, answers)
            text = f"{cluster!r} was started on {started}, but no leader was elected in time"
            raise NoLeader(f"{text}{left}") from None
        return {"started": started, "not_started": {n: str(e) for n, e in problems.items()}}

    async def start_or_restart_cluster(self, arguments: dict[str, Any]) -> Any:
        """Start the members again that do not run; form the cluster if no node has a member (API-03)."""
        cluster = str(arguments["cluster"])
        nodes = [str(n) for n in arguments.get("nodes") or sorted(self._config.nodes)]
        timeout_ms = int(arguments.get("timeout_ms", 5_000))
        deadline = self._clock.monotonic() + timeout_ms / 1000 * 0.8
        there = await self._servers_there(cluster, nodes, deadline)
        if not there:
            return await self.start_cluster(arguments)
        down = [node for node, facts in there.items() if not facts["runs"]]
        await self._ask_all(down, "server_restart", {"cluster": cluster, "timeout_ms": timeout_ms // 2})
        there = await self._servers_there(cluster, nodes, deadline)
        return await self._when_established(there, nodes, deadline)

    async def _servers_there(
        self, cluster: str, nodes: Sequence[str], deadline: float
    ) -> dict[str, dict[str, Any]]:
        """What each of these nodes that answers says of its server of the cluster, if it has one."""
        left_ms = max(1, int((deadline - self._clock.monotonic()) * 500))
        answers = await self._ask_all(nodes, "describe_server", {"cluster": cluster, "timeout_ms": left_ms})
        return {n: facts for n, facts in answers.items() if isinstance(facts, dict)}

    async def _when_established(
        self, there: dict[str, dict[str, Any]], nodes: Sequence[str], deadline: float
    ) -> Any:
        """Wait for the leader of a cluster that is there; answer which of its members run."""
        cluster = next(iter(there.values()))["cluster"]
        down = [node for node, facts in there.items() if not facts["runs"]]
        while (leader := self._router.leader_of(cluster)) is None or leader.node in down:
            if self._clock.monotonic() >= deadline:
                raise NoLeader(f"{cluster!r} is there, and nobody leads it; these servers do not run: {down}")
            await asyncio.sleep(_AGAIN_S)
        running = [node for node in nodes if node in there and there[node]["runs"]]
        missing = dict.fromkeys(nodes, "no member is there, or the node does not answer")
        missing |= {node: str(found["failure"]) for node, found in there.items()}
        return {"started": running, "not_started": {n: missing[n] for n in nodes if n not in running}}

    async def describe_server(self, arguments: dict[str, Any]) -> Any:
        """How the server here of a cluster was started, and whether it runs; None if there is none."""
        process = self._servers.here(str(arguments["cluster"]))
        if process is None:
            return None
        record = self._system.directory.get(process.server.id.name)
        return {
            "cluster": record.cluster,
            "cluster_id": record.cluster_id,
            "machine": record.machine,
            "arguments": record.arguments,
            "members": [str(member) for member in record.initial_members],
            "initial_machine_version": record.initial_machine_version,
            "runs": process.failure is None,
            "failure": process.failure,
        }

    async def _ask_all(self, nodes: Sequence[str], verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Ask these nodes at once; the answer of each, or its `Exception`."""
        asked = (self._ask_at(node, verb, arguments) for node in nodes)
        return dict(zip(nodes, await asyncio.gather(*asked, return_exceptions=True), strict=True))

    async def _wait_established(self, cluster: str, cluster_id: str) -> None:
        """Wait for a leader. The leader of another cluster of that name may wake us first."""
        while self._router.established_term(cluster, cluster_id) == 0:
            established = asyncio.Event()
            self._router.watch_established(cluster, established.set)
            await established.wait()

    async def _undo_start(self, request: dict[str, Any], answers: dict[str, Any]) -> str:
        """Remove the servers of a cluster that could not be formed; return what is left, for the error.

        An entry that a majority has acknowledged must not be lost, so the servers go only if there can be no
        such entry. A server with an empty log has acknowledged none, and never will once it is
        removed. Only when so many are gone, or were never started, that the rest is no majority, the rest
        goes as well, whatever its log holds.
        """
        refused = [n for n, a in answers.items() if isinstance(a, BarqueError) and not _may_have_happened(a)]
        absent, present = len(refused), [n for n in answers if n not in refused]
        asked = {name: request[name] for name in ("cluster", "cluster_id", "uids")}
        left: list[str] = []
        for node in present:
            blocked = len(answers) - absent <= len(answers) // 2
            try:
                answer = await self._discard_at(node, {**asked, "only_if_empty": not blocked})
            except BarqueError:
                left.append(node)
                continue
            if answer == "in use":
                return "; its members hold entries by now, so they stay: see `barque status`"
            absent += 1
        return f"; a server may be left on {left}, which could not be asked to remove it" if left else ""

    async def _discard_at(self, node: str, arguments: dict[str, Any]) -> Any:
        """Ask a node, if it is connected: the caller has waited for long enough already."""
        if node == self._name:
            return await self.discard_server(arguments)
        return await self._rpc.call(node, "discard_server", arguments, _UNDO_S)

    async def discard_server(self, arguments: dict[str, Any]) -> Any:
        """Delete the member here of a cluster that could not be formed.

        Answers `discarded` or `absent`; or `in use` if its log holds commands, or, with `only_if_empty`,
        anything at all. One node's word deletes no data.
        """
        process = self._servers.by_name.get(str(arguments["cluster"]))
        uid = dict(arguments.get("uids") or {}).get(f"{arguments['cluster']}@{self._name}")
        if process is None or (process.cluster_id, process.uid) != (arguments["cluster_id"], uid):
            return "absent"
        log = process.server.log
        if log.next_index() > 1 and (arguments.get("only_if_empty") or holds_commands(log)):
            return "in use"
        whole = not arguments.get("only_if_empty")
        self._servers.finish(process, Ending("its cluster could not be formed", whole_cluster=whole))
        return "discarded"


def _leads(process: ServerProcess) -> bool:
    return process.failure is None and process.server.raft_state is RaftState.LEADER


def _is_same(facts: dict[str, Any], request: dict[str, Any]) -> bool:
    """Whether a server was started as this request would start it."""
    return (
        facts["machine"] == request["machine"]
        and facts["arguments"] == canonical_arguments(request["arguments"])
        and sorted(facts["members"]) == sorted(request["members"])
        and facts["initial_machine_version"] == request["initial_machine_version"]
    )


def _may_have_happened(error: BarqueError) -> bool:
    return not isinstance(error, (Refused, ConfigurationError))


def _names(value: Any) -> tuple[str, ...] | None:
    return None if value is None else tuple(str(name) for name in value)


def _server_id(value: Any, cluster: str) -> ServerId:
    """`name@node`, or the name of a node alone."""
    name, _, node = str(value).rpartition("@")
    return ServerId(name or cluster, node)


def holds_commands(log: Log) -> bool:
    """Whether a client's command is in this log, applied or not."""
    batches = read_batches(log, Index(1), log.last_index_term().index)
    return any(kind_of(batch.body) is EntryKind.USER for batch in batches)
