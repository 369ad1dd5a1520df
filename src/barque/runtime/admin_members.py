"""Verbs that change who belongs to a cluster, or end it (§4; MEMB-05 to MEMB-15, LIFE-06, LIFE-09).

Each runs on the node of the leader; any other node passes it on. What may take long has a
deadline, and says how far it came.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

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
from barque.core.state import RaftState, Server
from barque.errors import (
    AlreadyMember,
    BarqueError,
    ChangeNotPermitted,
    ConfigurationError,
    NoLeader,
    NotLeader,
    UnknownCluster,
    UnknownMember,
)
from barque.runtime.directory import new_uid
from barque.runtime.ranges import Range
from barque.runtime.refusals import CHANGE_UNDER_WAY
from barque.runtime.server_process import ServerProcess
from barque.transport.answers import error_named, fail
from barque.transport.wire import ClientAnswer, ClientFailed, ClientReplies
from barque.types import ClientRef, Membership, ReplyMode, ServerId, Uid

if TYPE_CHECKING:
    from barque.runtime.node import Node

_POLL_S = 0.02
_AGAIN_S = 0.05
_DEFAULT_MS = 5_000
Verb = Callable[[dict[str, Any]], Awaitable[Any]]
Ask = Callable[[str, str, dict[str, Any]], Awaitable[Any]]
MakeMessage = Callable[[ClientRef, int], RemoteMessage]


class MemberAdmin:
    """The membership verbs of one node. `ask_at` calls a verb on another node, or on this one."""

    def __init__(self, node: "Node", ask_at: Ask) -> None:
        self._node = node
        self._ask_at = ask_at
        self._adding: set[ServerProcess] = set()
        self.verbs: dict[str, Verb] = {
            "member_list": self._by_leader("member_list", self._list),
            "member_add": self._by_leader("member_add", self._add),
            "member_remove": self._by_leader("member_remove", self._remove),
            "member_promote": self._by_leader("member_promote", self._promote),
            "member_replace": self._by_leader("member_replace", self._replace),
            "cluster_delete": self._by_leader("cluster_delete", self._delete),
            "force_shrink": self.force_shrink,
            "aux_command": self.aux_command,
        }

    # --- finding the leader ------------------------------------------------------------

    def _by_leader(self, verb: str, work: Callable[[ServerProcess, dict[str, Any]], Awaitable[Any]]) -> Verb:
        async def serve(arguments: dict[str, Any]) -> Any:
            cluster = str(arguments["cluster"])
            leader = await self._leader_of(cluster, arguments)
            if leader.node != self._node.name:
                if arguments.get("forwarded"):
                    raise NotLeader(f"{leader} leads {cluster!r} now", leader)
                return await self._ask_at(leader.node, verb, {**arguments, "forwarded": True})
            process = self._node.system.processes.get(leader.name)
            if process is None or process.server.raft_state is not RaftState.LEADER:
                raise NotLeader(f"{leader} leads {cluster!r} no longer; try again")
            return await work(process, arguments)

        return serve

    async def _leader_of(self, cluster: str, arguments: dict[str, Any]) -> ServerId:
        """Wait a moment for one: an election may be under way."""
        front = self._node.front
        deadline = self._deadline(arguments)
        while (leader := front.leader_of(cluster)) is None:
            if self._node.clock.monotonic() >= deadline or arguments.get("forwarded"):
                raise NoLeader(f"nobody is known to lead {cluster!r}")
            await asyncio.sleep(_AGAIN_S)
        return leader

    def _deadline(self, arguments: dict[str, Any]) -> float:
        """On this node's clock; a little before the caller gives up."""
        timeout_s = int(arguments.get("timeout_ms", _DEFAULT_MS)) / 1000 * 0.8
        return self._node.clock.monotonic() + timeout_s

    # --- asking a server ---------------------------------------------------------------

    async def ask_server(self, server: ServerId, make: MakeMessage, timeout_s: float) -> Any:
        """Send a server something that it answers once. Raises what it answers, or `OutcomeUnknown`."""
        return await self._ask(server, lambda m: self._node.send_to_server(server, m), make, timeout_s)

    async def _ask(
        self,
        server: ServerId,
        send: Callable[[Any], Any],
        make: Callable[[ClientRef, int], Any],
        timeout_s: float,
    ) -> Any:
        node = self._node
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def deliver(answers: list[ClientAnswer]) -> None:
            for answer in answers:
                if future.done():
                    return
                if isinstance(answer, ClientReplies) and answer.errors:
                    fail(future, error_named("InvalidCommand", next(iter(answer.errors.values()))))
                elif isinstance(answer, ClientReplies):
                    future.set_result(msgspec.msgpack.decode(answer.replies)[0])
                elif isinstance(answer, ClientFailed):
                    fail(future, error_named(answer.error, answer.text))

        session = node.front.session(deliver)
        correlation = node.front.expect(Range(session, 0, 1), server, timeout_s)
        send(make(node.front.me, correlation))
        node.wake()
        return await future

    async def _change(
        self,
        process: ServerProcess,
        make: MakeMessage,
        deadline: float,
        check: Callable[[], None] = lambda: None,
    ) -> Any:
        """Ask our own leader for a change, again while another one is under way (MEMB-01).

        `check` is called before each attempt; what it raises ends them.
        """
        while True:
            check()
            left = deadline - self._node.clock.monotonic()
            try:
                return await self.ask_server(process.server.id, make, max(left, _AGAIN_S))
            except ChangeNotPermitted as refusal:
                if left <= _AGAIN_S or str(refusal) != CHANGE_UNDER_WAY:
                    raise  # the others of this class stay what they are, however long we wait
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
        """Start a server on `node`, add it as one that catches up, and wait until it votes (MEMB-07)."""
        server, node = process.server, str(arguments["node"])
        if node not in self._node.config.nodes:
            known = ", ".join(sorted(self._node.config.nodes))
            raise ConfigurationError(f"node {node!r} is not among the nodes of this installation ({known})")
        member = ServerId(server.id.name, node)
        _demand_absent(server, member)
        deadline = self._deadline(arguments)
        wanted = Membership(str(arguments.get("membership") or Membership.VOTER))
        first = Membership.NON_VOTER if wanted is Membership.NON_VOTER else Membership.PROMOTABLE
        uid = new_uid(member.name, self._node.rng)
        async with self._alone(process, deadline):
            _demand_absent(server, member)
            await self._start(process, member, uid, first, arguments)
            await self._join(process, member, uid, first, deadline)
        if wanted is Membership.VOTER:
            await self._until(lambda: server.is_voter(member) and is_settled(server), deadline)
        peer = server.cluster.get(member)
        return {"member": str(member), "uid": uid, "membership": str(peer.membership if peer else first)}

    @contextlib.asynccontextmanager
    async def _alone(self, process: ServerProcess, deadline: float) -> AsyncIterator[None]:
        """While this lasts nobody else adds a member to this cluster, and none is on its way out.

        Whoever starts a server makes room for it: that must not be the server of one who has just joined, or
        whose removal is not committed.
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
        self, process: ServerProcess, member: ServerId, uid: Uid, membership: Membership, deadline: float
    ) -> None:
        def join(origin: ClientRef, correlation: int) -> JoinMember:
            return JoinMember(origin, correlation, ReplyMode.AWAIT_CONSENSUS, member, uid, membership)

        try:
            await self._change(process, join, deadline)
        except BarqueError:
            if member not in process.server.cluster:
                self._node.outlets.tell_removed(process, member, uid)  # its node shall forget it
            raise

    async def _start(
        self,
        process: ServerProcess,
        member: ServerId,
        uid: Uid,
        membership: Membership,
        arguments: dict[str, Any],
    ) -> None:
        server = process.server
        record = self._node.system.directory.get(server.id.name)
        uids = {str(m): peer.uid for m, peer in server.cluster.items() if peer.uid is not None}
        request = {
            "cluster": server.cfg.cluster_name,
            "cluster_id": server.cfg.cluster_id,
            "uids": {**uids, str(member): uid},
            "machine": record.machine,
            "arguments": record.arguments,
            "members": [str(m) for m in sorted({*server.cluster, member})],
            "membership": str(membership),
            "term": server.current_term,
            "joined_at": [server.commit_index, server.log.fetch_term(server.commit_index) or 0],
            "timeout_ms": int(arguments.get("timeout_ms", _DEFAULT_MS)) // 2,
        }
        await self._ask_at(member.node, "start_server", request)

    async def _remove(self, process: ServerProcess, arguments: dict[str, Any]) -> Any:
        server = process.server
        member = _member_of(process, arguments["member"])

        def leave(origin: ClientRef, correlation: int) -> LeaveMember:
            return LeaveMember(origin, correlation, ReplyMode.AWAIT_CONSENSUS, member)

        if member not in server.cluster:
            raise UnknownMember(f"{member} is not a member of {server.cfg.cluster_name!r}")
        await self._change(process, leave, self._deadline(arguments))
        told = self._node.outlets.node_is_up(member.node)
        return {"member": str(member), "told": told}

    async def _promote(self, process: ServerProcess, arguments: dict[str, Any]) -> Any:
        member = _member_of(process, arguments["member"])
        peer = process.server.cluster.get(member)
        uid = peer.uid if peer is not None else None

        def is_member() -> None:
            """Else a promotion that waited for a removal would bring back who was just removed."""
            known = process.server.cluster.get(member)
            if known is None or uid not in (None, known.uid):
                raise UnknownMember(f"{member} is not a member of {process.server.cfg.cluster_name!r}")

        def join(origin: ClientRef, correlation: int) -> JoinMember:
            return JoinMember(origin, correlation, ReplyMode.AWAIT_CONSENSUS, member, uid, Membership.VOTER)

        await self._change(process, join, self._deadline(arguments), is_member)
        return {"member": str(member), "membership": str(Membership.VOTER)}

    async def _replace(self, process: ServerProcess, arguments: dict[str, Any]) -> Any:
        """Remove a member that is lost, or came back without its data, then add a new one."""
        removed = await self._remove(process, arguments)
        member = _member_of(process, arguments["member"])
        node = str(arguments.get("node") or member.node)
        added = await self._add(process, {**arguments, "node": node, "membership": "voter"})
        return {"removed": removed["member"], **added}

    async def _until(self, holds: Callable[[], bool], deadline: float) -> bool:
        while not holds():
            if self._node.clock.monotonic() >= deadline:
                return False
            await asyncio.sleep(_POLL_S)
        return True

    # --- ends --------------------------------------------------------------------------

    async def _delete(self, process: ServerProcess, arguments: dict[str, Any]) -> Any:
        """LIFE-06: by consensus; members that are out of reach go when they come back."""
        server = process.server
        members = list(server.cluster)
        timeout_s = int(arguments.get("timeout_ms", _DEFAULT_MS)) / 1000 * 0.8

        def delete(origin: ClientRef, correlation: int) -> DeleteCluster:
            return DeleteCluster(origin, correlation, ReplyMode.AWAIT_CONSENSUS)

        await self.ask_server(server.id, delete, timeout_s)
        away = [str(m) for m in members if not self._node.outlets.node_is_up(m.node)]
        return {"cluster": server.cfg.cluster_name, "members": [str(m) for m in members], "away": away}

    async def force_shrink(self, arguments: dict[str, Any]) -> Any:
        """MEMB-15, LIFE-09: the member on *this* node becomes the whole cluster; waits until it leads."""
        cluster = str(arguments["cluster"])
        process = self._node.member_here(cluster)
        if process is None:
            raise UnknownCluster(f"no member of {cluster!r} runs on node {self._node.name}")
        server, deadline = process.server, self._deadline(arguments)
        lost = [str(member) for member, _ in server.peers]
        left = deadline - self._node.clock.monotonic()
        await self._ask(server.id, process.handle, ForceMemberChange, left)
        leads = await self._until(lambda: is_settled(server), deadline)
        if not leads:
            raise NoLeader(f"{server.id} is alone now, and does not lead yet; see `barque status`")
        return {"member": str(server.id), "lost": lost, "term": server.current_term}

    async def aux_command(self, arguments: dict[str, Any]) -> Any:
        """AUX-02, QRY-05: a value for the aux machine of the member here; of the leader, if `consistent`."""
        cluster, consistent = str(arguments["cluster"]), bool(arguments.get("consistent"))
        payload = msgspec.msgpack.encode(arguments.get("command"))
        timeout_s = int(arguments.get("timeout_ms", _DEFAULT_MS)) / 1000 * 0.8
        here = self._node.member_here(cluster)
        if consistent:
            server = await self._leader_of(cluster, arguments)
        elif here is not None:
            server = here.server.id
        else:
            raise UnknownCluster(f"no member of {cluster!r} runs on node {self._node.name}")

        def command(origin: ClientRef, correlation: int) -> AuxCommand:
            return AuxCommand(origin, correlation, payload, consistent)

        return await self.ask_server(server, command, timeout_s)


def _member_of(process: ServerProcess, value: Any) -> ServerId:
    """`name@node`, or the name of a node alone."""
    name, _, node = str(value).rpartition("@")
    return ServerId(name or process.server.id.name, node)


def _demand_absent(server: Server, member: ServerId) -> None:
    if member in server.cluster:
        cluster = server.cfg.cluster_name
        raise AlreadyMember(f"{member} is a member of {cluster!r} already; see `barque member list`")
