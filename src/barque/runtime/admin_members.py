"""Verbs that change the members of a cluster, or end it (§4; MEMB-05 to MEMB-15, LIFE-06, LIFE-09).

Each verb runs on the node of the leader; any other node passes it on. A verb that may take long has a
deadline, and its error says how far it came.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from barque.core.configuration import is_settled
from barque.core.messages import (
    AuxCommand,
    DeleteCluster,
    ForceMemberChange,
    JoinMember,
    LeaveMember,
    RemoteMessage,
)
from barque.core.overview import members_info
from barque.core.quorum import majority
from barque.core.state import RaftState, Server
from barque.errors import (
    AlreadyMember,
    BarqueError,
    ChangeNotPermitted,
    ConfigurationError,
    NoLeader,
    NotLeader,
    Refused,
    UnknownCluster,
    UnknownMember,
)
from barque.runtime.client_session import InProcessSession
from barque.runtime.clock import Clock
from barque.runtime.directory import new_uid
from barque.runtime.dispatcher import Dispatcher
from barque.runtime.effect_sink import EffectSink
from barque.runtime.error_mapping import CHANGE_UNDER_WAY
from barque.runtime.liveness import Liveness
from barque.runtime.requests import RequestRouter
from barque.runtime.server_process import ServerProcess
from barque.runtime.system import System
from barque.transport.answers import fail
from barque.types import NOBODY, ClientRef, Index, Membership, ReplyMode, ServerId, Uid

_POLL_S = 0.02
_AGAIN_S = 0.05
_DEFAULT_MS = 5_000
Verb = Callable[[dict[str, Any]], Awaitable[Any]]
Ask = Callable[[str, str, dict[str, Any]], Awaitable[Any]]
MakeMessage = Callable[[ClientRef, int], RemoteMessage]


class _Answer:
    """The one answer to a message that was sent to a server (`Receiver`)."""

    def __init__(self) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def replied(self, _offset: int, replies: list[Any], errors: dict[int, BarqueError] | None) -> None:
        """See `Receiver`."""
        if self.future.done():
            return
        if errors:
            fail(self.future, errors[0])
        else:
            self.future.set_result(replies[0])

    def failed(self, _offset: int, _count: int, error: BarqueError) -> None:
        """See `Receiver`."""
        if not self.future.done():
            fail(self.future, error)


class MemberAdmin:
    """The membership verbs of one node. `ask_at` calls a verb on another node, or on this one."""

    def __init__(
        self,
        name: str,
        nodes: tuple[str, ...],
        ask_at: Ask,
        system: System,
        router: RequestRouter,
        session: InProcessSession,
        dispatcher: Dispatcher,
        sink: EffectSink,
        liveness: Liveness,
        clock: Clock,
        rng: random.Random,
        wake: Callable[[], None],
    ) -> None:
        self._name = name
        self._nodes = nodes
        self._ask_at = ask_at
        self._system = system
        self._servers = system.servers
        self._router = router
        self._session = session
        self._dispatcher = dispatcher
        self._sink = sink
        self._liveness = liveness
        self._clock = clock
        self._rng = rng
        self._wake = wake
        self._adding: set[ServerProcess] = set()
        self.verbs: dict[str, Verb] = {
            "member_list": self._by_leader("member_list", self._list),
            "member_add": self._by_leader("member_add", self._add),
            "member_remove": self._by_leader("member_remove", self._remove),
            "member_promote": self._by_leader("member_promote", self._promote),
            "member_demote": self._by_leader("member_demote", self._demote),
            "member_replace": self._by_leader("member_replace", self._replace),
            "cluster_delete": self._by_leader("cluster_delete", self._delete),
            "force_shrink": self.force_shrink,
            "aux_command": self.aux_command,
        }

    # --- finding the leader ------------------------------------------------------------

    def _by_leader(self, verb: str, work: Callable[[ServerProcess, dict[str, Any]], Awaitable[Any]]) -> Verb:
        async def serve(arguments: dict[str, Any]) -> Any:
            cluster = str(arguments["cluster"])
            leader = await self.leader_of(cluster, arguments)
            if leader.node != self._name:
                if arguments.get("forwarded"):
                    raise NotLeader(f"{leader} leads {cluster!r} now", leader)
                return await self._ask_at(leader.node, verb, {**arguments, "forwarded": True})
            process = self._system.processes.get(leader.name)
            if process is None or process.server.raft_state is not RaftState.LEADER:
                raise NotLeader(f"{leader} leads {cluster!r} no longer; try again")
            return await work(process, arguments)

        return serve

    async def leader_of(self, cluster: str, arguments: dict[str, Any]) -> ServerId:
        """Find the leader; wait for one until the deadline, as an election may be under way."""
        deadline = self._deadline(arguments)
        while (leader := self._router.leader_of(cluster)) is None:
            if self._clock.monotonic() >= deadline or arguments.get("forwarded"):
                raise NoLeader(f"nobody is known to lead {cluster!r}")
            await asyncio.sleep(_AGAIN_S)
        return leader

    def _deadline(self, arguments: dict[str, Any]) -> float:
        """When to give up, on this node's clock: a little before the caller does."""
        timeout_s = int(arguments.get("timeout_ms", _DEFAULT_MS)) / 1000 * 0.8
        return self._clock.monotonic() + timeout_s

    # --- asking a server ---------------------------------------------------------------

    async def ask_server(self, server: ServerId, make: MakeMessage, timeout_s: float) -> Any:
        """Send a server a message that it answers once. Raises its error, or `OutcomeUnknown`."""
        return await self._ask(server, lambda m: self._dispatcher.send_to_server(server, m), make, timeout_s)

    async def _ask(
        self,
        server: ServerId,
        send: Callable[[Any], Any],
        make: Callable[[ClientRef, int], Any],
        timeout_s: float,
    ) -> Any:
        answer = _Answer()
        correlation = self._session.expect(answer, server, timeout_s)
        send(make(self._router.me, correlation))
        self._wake()
        return await answer.future

    async def _change(
        self,
        process: ServerProcess,
        make: MakeMessage,
        deadline: float,
        check: Callable[[], None] = lambda: None,
    ) -> Any:
        """Ask our own leader for a change, and again while another change is under way (MEMB-01).

        `check` is called before each attempt; an error that it raises ends the attempts.
        """
        while True:
            check()
            left = deadline - self._clock.monotonic()
            try:
                return await self.ask_server(process.server.id, make, max(left, _AGAIN_S))
            except ChangeNotPermitted as refusal:
                if left <= _AGAIN_S or str(refusal) != CHANGE_UNDER_WAY:
                    raise  # waiting does not help against the other reasons
            await asyncio.sleep(_AGAIN_S)

    # --- members -----------------------------------------------------------------------

    async def _list(self, process: ServerProcess, _arguments: dict[str, Any]) -> Any:
        server = process.server
        info = members_info(server)
        return {
            "cluster": server.cfg.cluster_name,
            "leader": str(server.id),
            "term": server.current_term,
            "members": [{"server": str(member), **facts} for member, facts in info.items()],
        }

    async def _add(self, process: ServerProcess, arguments: dict[str, Any]) -> Any:
        """Start a server on `node`, add it as one that catches up, and wait until it votes (MEMB-07).

        With `catch_up` false it is a voter at once; `target` is the index at which one that catches up
        becomes a voter (MEMB-05).
        """
        server, node = process.server, str(arguments["node"])
        self._demand_known(node)
        member = ServerId(server.id.name, node)
        _demand_absent(server, member)
        deadline = self._deadline(arguments)
        wanted = Membership(str(arguments.get("membership") or Membership.VOTER))
        outright = wanted is Membership.NON_VOTER or not arguments.get("catch_up", True)
        first = wanted if outright else Membership.PROMOTABLE
        if first is Membership.VOTER and not arguments.get("force"):
            await self._demand_quorum(process, _voters(server) | {member}, f"with {member}", deadline)
        target = arguments.get("target")
        uid = new_uid(member.name, self._rng)
        async with self._alone(process, deadline):
            _demand_absent(server, member)
            await self._start(process, member, uid, first, arguments, deadline)
            await self._join(process, member, uid, first, deadline, target)
        if wanted is Membership.VOTER:
            await self._until(lambda: server.is_voter(member) and is_settled(server), deadline)
        peer = server.cluster.get(member)
        return {"member": str(member), "uid": uid, "membership": str(peer.membership if peer else first)}

    @contextlib.asynccontextmanager
    async def _alone(self, process: ServerProcess, deadline: float) -> AsyncIterator[None]:
        """Keep other additions to this cluster out, and start only when no change is under way.

        A new server takes the place of a leftover one on its node. That must not be the server of a member
        that has just joined, or whose removal is not committed.
        """
        if not await self._until(
            lambda: is_settled(process.server) and process not in self._adding, deadline
        ):
            raise ChangeNotPermitted(CHANGE_UNDER_WAY)
        self._adding.add(process)
        try:
            yield
        finally:
            self._adding.discard(process)

    async def _join(
        self,
        process: ServerProcess,
        member: ServerId,
        uid: Uid,
        membership: Membership,
        deadline: float,
        target: Any,
    ) -> None:
        at = None if target is None else Index(int(target))

        def join(origin: ClientRef, correlation: int) -> JoinMember:
            mode = ReplyMode.AWAIT_CONSENSUS
            return JoinMember(origin, correlation, mode, member, uid, membership, at)

        try:
            await self._change(process, join, deadline)
        except BarqueError:
            if member not in process.server.cluster:
                self._sink.notify_removed(process, member, uid)  # let its node forget the server
            raise

    async def _start(
        self,
        process: ServerProcess,
        member: ServerId,
        uid: Uid,
        membership: Membership,
        arguments: dict[str, Any],
        deadline: float,
    ) -> None:
        server = process.server
        record = self._system.directory.get(server.id.name)
        uids = {str(m): peer.uid for m, peer in server.cluster.items() if peer.uid is not None}
        request = {
            "cluster": server.cfg.cluster_name,
            "cluster_id": server.cfg.cluster_id,
            "uids": {**uids, str(member): uid},
            "machine": record.machine,
            "arguments": record.arguments,
            "initial_machine_version": record.initial_machine_version,
            "skipped": list(record.skipped),
            "members": [str(m) for m in sorted({*server.cluster, member})],
            "membership": str(membership),
            "term": server.current_term,
            "joined_at": [server.commit_index, server.log.fetch_term(server.commit_index) or 0],
            "timeout_ms": int(arguments.get("timeout_ms", _DEFAULT_MS)) // 2,
        }
        while True:
            try:
                await self._ask_at(member.node, "start_server", request)
            except ChangeNotPermitted:  # an earlier member's server is still there
                if self._clock.monotonic() + _AGAIN_S >= deadline:
                    raise
                await asyncio.sleep(_AGAIN_S)
            else:
                return

    async def _remove(self, process: ServerProcess, arguments: dict[str, Any]) -> Any:
        server = process.server
        member = _member_of(process, arguments["member"])

        def leave(origin: ClientRef, correlation: int) -> LeaveMember:
            return LeaveMember(origin, correlation, ReplyMode.AWAIT_CONSENSUS, member, force)

        if member not in server.cluster:
            raise UnknownMember(f"{member} is not a member of {server.cfg.cluster_name!r}")
        deadline, force = self._deadline(arguments), bool(arguments.get("force"))
        if not force:
            await self._demand_quorum(process, _voters(server) - {member}, f"without {member}", deadline)
        keep = {"cluster": server.cfg.cluster_name, "timeout_ms": arguments.get("timeout_ms", _DEFAULT_MS)}
        if arguments.get("keep_data"):  # its node must know before the change does
            await self._ask_at(member.node, "server_keep_data", {**keep, "keep": True})
        try:
            await self._change(process, leave, deadline)
        except Refused:
            if arguments.get("keep_data"):
                await self._ask_at(member.node, "server_keep_data", {**keep, "keep": False})
            raise
        told = self._sink.node_is_up(member.node)
        return {"member": str(member), "told": told}

    async def _promote(self, process: ServerProcess, arguments: dict[str, Any]) -> Any:
        """Give a member a vote."""
        member = _member_of(process, arguments["member"])
        voters = _voters(process.server) | {member}
        return await self._assign(
            process, member, Membership.VOTER, voters, f"with {member} as a voter", arguments
        )

    async def _demote(self, process: ServerProcess, arguments: dict[str, Any]) -> Any:
        """Take a member's vote away; it still receives the log (MEMB-05)."""
        member = _member_of(process, arguments["member"])
        voters = _voters(process.server) - {member}
        change = f"without the vote of {member}"
        return await self._assign(process, member, Membership.NON_VOTER, voters, change, arguments)

    async def _assign(
        self,
        process: ServerProcess,
        member: ServerId,
        membership: Membership,
        voters: set[ServerId],
        change: str,
        arguments: dict[str, Any],
    ) -> Any:
        """Change what a member may do; `voters` are the voters afterwards."""
        peer = process.server.cluster.get(member)
        uid = peer.uid if peer is not None else None

        def is_member() -> None:
            """A change that waited for a removal must not bring the removed member back."""
            known = process.server.cluster.get(member)
            if known is None or uid not in (None, known.uid):
                raise UnknownMember(f"{member} is not a member of {process.server.cfg.cluster_name!r}")

        def join(origin: ClientRef, correlation: int) -> JoinMember:
            mode = ReplyMode.AWAIT_CONSENSUS
            return JoinMember(origin, correlation, mode, member, uid, membership, force=force)

        deadline, force = self._deadline(arguments), bool(arguments.get("force"))
        if not force:
            await self._demand_quorum(process, voters, change, deadline)
        await self._change(process, join, deadline, is_member)
        return {"member": str(member), "membership": str(membership)}

    async def _replace(self, process: ServerProcess, arguments: dict[str, Any]) -> Any:
        """Remove a member that is lost, or that came back without its data, then add a new one.

        What can be known to keep the new one out is refused first: the removal stands if the rest fails.
        """
        server = process.server
        member = _member_of(process, arguments["member"])
        node = str(arguments.get("node") or member.node)
        self._demand_known(node)
        if node != member.node:
            _demand_absent(server, ServerId(server.id.name, node))
        deadline = self._deadline(arguments)
        if member in server.cluster and not await self._until(lambda: self._sink.node_is_up(node), deadline):
            raise Refused(f"{node} is out of reach, so no member can be added there, and {member} stays")
        removed = await self._remove(process, arguments)
        try:
            added = await self._add(process, {**arguments, "node": node, "membership": "voter"})
        except BarqueError as error:
            error.args = (
                f"{member} was removed, and the member on {node} is not added: {error}. "
                f"`barque member add {server.cfg.cluster_name} {node}` goes on",
            )
            raise
        return {"removed": removed["member"], **added}

    def _demand_known(self, node: str) -> None:
        if node not in self._nodes:
            known = ", ".join(sorted(self._nodes))
            raise ConfigurationError(f"node {node!r} is not among the nodes of this installation ({known})")

    async def _demand_quorum(
        self, process: ServerProcess, voters: set[ServerId], change: str, deadline: float
    ) -> None:
        """Refuse a change after which fewer voters are up than a majority.

        The core refuses by what its leader knows. A process that has just been stopped is not known to be
        down yet, so each node that counts must be heard once more. Raises `ChangeNotPermitted`, which names
        the voters that are down.
        """
        server, since = process.server, self._clock.monotonic()
        needed = majority(len(voters))

        def down() -> list[ServerId]:
            leadership = server.leadership()
            silent = leadership.silent if leadership is not None else set()
            heard = self._liveness.heard_since
            return sorted(v for v in voters if v in silent or not heard(v.node, since))

        patience = min(deadline, since + self._liveness.patience_s)
        if voters and not await self._until(lambda: len(voters) - len(down()) >= needed, patience):
            cluster, names = server.cfg.cluster_name, ", ".join(map(str, down()))
            raise ChangeNotPermitted(
                f"{change}, {cluster!r} has {len(voters)} voters and needs {needed} of them, but these are "
                f"down: {names}. Start or remove them first. With force the change is made, and the cluster "
                "stands still until they return"
            )

    async def _until(self, holds: Callable[[], bool], deadline: float) -> bool:
        while not holds():
            if self._clock.monotonic() >= deadline:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    # --- ends --------------------------------------------------------------------------

    async def _delete(self, process: ServerProcess, arguments: dict[str, Any]) -> Any:
        """Delete a cluster by consensus (LIFE-06); members that are out of reach go when they come back."""
        server = process.server
        members = list(server.cluster)
        timeout_s = int(arguments.get("timeout_ms", _DEFAULT_MS)) / 1000 * 0.8

        def delete(origin: ClientRef, correlation: int) -> DeleteCluster:
            return DeleteCluster(origin, correlation, ReplyMode.AWAIT_CONSENSUS)

        await self.ask_server(server.id, delete, timeout_s)
        away = [str(m) for m in members if not self._sink.node_is_up(m.node)]
        return {"cluster": server.cfg.cluster_name, "members": [str(m) for m in members], "away": away}

    async def force_shrink(self, arguments: dict[str, Any]) -> Any:
        """Make the member on *this* node the whole cluster, and wait until it leads (MEMB-15, LIFE-09)."""
        cluster = str(arguments["cluster"])
        process = self._servers.member_of(cluster)
        if process is None:
            raise UnknownCluster(f"no member of {cluster!r} runs on node {self._name}")
        server, deadline = process.server, self._deadline(arguments)
        lost = [str(member) for member, _ in server.peers]
        left = deadline - self._clock.monotonic()
        await self._ask(server.id, process.handle, ForceMemberChange, left)
        leads = await self._until(lambda: is_settled(server), deadline)
        if not leads:
            raise NoLeader(f"{server.id} is alone now, and does not lead yet; see `barque status`")
        return {"member": str(server.id), "lost": lost, "term": server.current_term}

    async def aux_command(self, arguments: dict[str, Any]) -> Any:
        """Ask the aux machine of the member here, or of the leader if `consistent` (AUX-02, QRY-05).

        With `cast` the member here is told, and nobody waits for what it makes of it (AUX-03).
        """
        cluster, consistent = str(arguments["cluster"]), bool(arguments.get("consistent"))
        payload = msgspec.msgpack.encode(arguments.get("command"))
        timeout_s = int(arguments.get("timeout_ms", _DEFAULT_MS)) / 1000 * 0.8
        here = self._servers.member_of(cluster)
        if consistent:
            server = await self.leader_of(cluster, arguments)
        elif here is not None:
            server = here.server.id
        else:
            raise UnknownCluster(f"no member of {cluster!r} runs on node {self._name}")
        if arguments.get("cast") and here is not None:
            here.handle(AuxCommand(NOBODY, 0, payload))
            self._wake()
            return None

        def command(origin: ClientRef, correlation: int) -> AuxCommand:
            return AuxCommand(origin, correlation, payload, consistent)

        return await self.ask_server(server, command, timeout_s)


def _member_of(process: ServerProcess, value: Any) -> ServerId:
    """`name@node`, or the name of a node alone."""
    name, _, node = str(value).rpartition("@")
    return ServerId(name or process.server.id.name, node)


def _voters(server: Server) -> set[ServerId]:
    return {member for member in server.cluster if server.is_voter(member)}


def _demand_absent(server: Server, member: ServerId) -> None:
    if member in server.cluster:
        cluster = server.cfg.cluster_name
        raise AlreadyMember(f"{member} is a member of {cluster!r} already; see `barque member list`")
