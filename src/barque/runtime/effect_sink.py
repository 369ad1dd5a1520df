"""Where the effects of a node's servers go: the `PerformerEnvironment` of production."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from barque.core.configuration import uids_on
from barque.core.effects import MembersGone, Rejected, Rejection, StopReason, Unresolved
from barque.core.entries import encode_body
from barque.core.messages import Commands, ServerDown
from barque.log.log import WalLog
from barque.log.read_plan import ReadPlan
from barque.runtime.client_session import ClientSessions
from barque.runtime.deferred_rounds import DeferredRounds
from barque.runtime.dispatcher import Dispatcher
from barque.runtime.function_calls import FunctionCalls
from barque.runtime.log_readers import command_decoder_of
from barque.runtime.processes import Processes
from barque.runtime.requests import RequestRouter
from barque.runtime.server_process import ServerProcess
from barque.runtime.server_table import Ending, ServerTable
from barque.transport.contract import Transport
from barque.transport.wire import FrontEvent, LeaderIs, MemberRemoved, ProcessMessage
from barque.types import ClientRef, Named, Pid, ServerId, Uid, is_address

_REMEMBERED_MAX = 1_024


class StoppedServer(NamedTuple):
    """A server that has stopped: its cluster and incarnation, and the members that it knew."""

    members: tuple[ServerId, ...]
    cluster_id: str
    uid: str


class EffectSink:
    """Passes effects on: to the dispatcher, the request router, the clients, and the rest of the turn.

    `peers` are the names of the other nodes; `wake` asks for a turn.
    """

    def __init__(
        self,
        me: ClientRef,
        peers: tuple[str, ...],
        servers: ServerTable,
        dispatcher: Dispatcher,
        router: RequestRouter,
        sessions: ClientSessions,
        rounds: DeferredRounds,
        transport: Transport,
        processes: Processes,
        calls: FunctionCalls,
        wake: Callable[[], None],
    ) -> None:
        self._me = me
        self._peers = peers
        self._servers = servers
        self._dispatcher = dispatcher
        self._router = router
        self._sessions = sessions
        self._rounds = rounds
        self._transport = transport
        self._processes = processes
        self._stopped: dict[ServerId, StoppedServer] = {}
        # Bound once: these are called for every command, and have nothing to add.
        self.wake = wake
        self.send = dispatcher.send
        self.answer = dispatcher.answer
        self.reject = dispatcher.reject
        self.call_function = calls.call
        self.replicate_soon = rounds.replicate_soon
        self.flush_commands_soon = rounds.flush_commands_soon
        self.apply_soon = rounds.apply_soon

    # --- messages and answers ----------------------------------------------------------

    def unresolved(self, effect: Unresolved) -> None:
        """Say that the outcome is unknown. This travels like a refusal, and is none."""
        self.reject(Rejected(effect.to, effect.first_correlation, effect.count, Rejection.OUTCOME_UNKNOWN))

    def send_event(self, process: ServerProcess, to: Pid | Named, message: Any) -> None:
        """Send a machine's message to a process, or to the clients of a node."""
        if not is_address(to):
            self._processes.dropped_messages += 1
            return
        raw = msgspec.Raw(msgspec.msgpack.encode(message))
        cluster, here = process.server.cfg.cluster_name, to.node == self._me.node
        if to == self._me:
            self._sessions.notify(cluster, raw)
        elif isinstance(to, Named) or to.number:
            number, incarnation = (to.name, 0) if isinstance(to, Named) else (to.number, to.incarnation)
            told = ProcessMessage(number, incarnation, cluster, raw)
            if here:
                self._processes.on_message(to.node, told)
            else:
                self._transport.send(to.node, "", told)
        elif to.node and not here:
            self._transport.send(to.node, "", FrontEvent(to.incarnation, cluster, raw))

    def append_elsewhere(self, process: ServerProcess, leader: ServerId, payload: bytes) -> None:
        """Send a machine's command to its leader. Nobody waits for the reply."""
        if not self._dispatcher.send_to_server(leader, Commands(1, encode_body([payload]))):
            process.counters.dropped_sends += 1
        self.wake()

    def plan_read(self, process: ServerProcess, indexes: Sequence[int]) -> ReadPlan:
        """Plan to read user commands from a server's log."""
        log = process.server.log
        assert isinstance(log, WalLog), "a node's log"
        return log.plan_read(indexes, command_decoder_of(process.server))

    # --- who leads ---------------------------------------------------------------------

    def leadership_changed(self, process: ServerProcess) -> None:
        """Tell the router which leader this member follows now, or that it lost a leader on this node."""
        server, cluster = process.server, process.server.cfg.cluster_name
        if server.leader_id is not None:
            self._router.leader_hint(cluster, server.leader_id, server.current_term, process.cluster_id)
        elif (known := self._router.leader_of(cluster)) is not None and known.node == self._me.node:
            self._router.leader_lost(known)
        self.wake()

    def leader_established(self, process: ServerProcess) -> None:
        """Announce a leader to all nodes; the answers to earlier terms' commands went ahead."""
        server, cluster = process.server, process.server.cfg.cluster_name
        self._router.leader_established(cluster, server.id, server.current_term, process.cluster_id)
        for node in self._peers:
            self.announce(process, node)

    def announce(self, process: ServerProcess, node: str) -> None:
        """Tell a node that this server leads."""
        server = process.server
        members_there = uids_on(server, node)
        cluster = server.cfg.cluster_name
        message = LeaderIs(cluster, server.id, server.current_term, process.cluster_id, members_there)
        self._dispatcher.send_to_node(node, message)

    def node_is_up(self, node: str) -> bool:
        """Whether that node is within reach; our own always is."""
        return node == self._me.node or node in self._transport.connected()

    # --- ends --------------------------------------------------------------------------

    def server_ended(self, process: ServerProcess, reason: StopReason) -> None:
        """End a server that was removed, or whose cluster was deleted; both are committed by now."""
        whole = reason is StopReason.DELETED
        text = "its cluster was deleted" if whole else "it was removed from its cluster"
        self._servers.finish(process, Ending(text, delete=True, whole_cluster=whole))

    def members_gone(self, process: ServerProcess, effect: MembersGone) -> None:
        """Tell removed members: the leader no longer sends them entries, so they may not hear of it."""
        for member, uid in effect.members:
            if uid is not None:
                self.notify_removed(process, member, uid)

    def notify_removed(self, process: ServerProcess, member: ServerId, uid: Uid) -> None:
        """Let a node forget a server that is no member of this leader's cluster."""
        self._dispatcher.notify_removed(member.node, MemberRemoved(process.cluster_id, uid))

    def server_stopped(self, process: ServerProcess) -> None:
        """Tell the other members at once, so that they need not wait for a timeout."""
        server = process.server
        members = tuple(member for member, _ in server.peers)
        for member in members:
            self._dispatcher.send(member, ServerDown(server.id, connected=True), process)
        self._stopped[server.id] = StoppedServer(members, process.cluster_id, process.uid)
        if len(self._stopped) > _REMEMBERED_MAX:
            del self._stopped[next(iter(self._stopped))]
        self._router.leader_lost(server.id)
        self.wake()

    def node_connected(self, node: str) -> None:
        """Tell its servers again which of ours have stopped: the first notice may be lost with a connection.

        Followers of such a server see its node up, so they do not start an election.
        """
        for server, stopped in list(self._stopped.items()):
            process = self._servers.by_name.get(server.name)
            if process is not None and process.failure is None:
                del self._stopped[server]  # there is a server of that name again
                continue
            for member in stopped.members:
                if member.node == node:
                    down = ServerDown(server, connected=True)
                    self._transport.send(node, member.name, down, stopped.cluster_id, stopped.uid)

    def server_deleted(self, process: ServerProcess, *, whole_cluster: bool) -> None:
        """Forget a server, and tell the callers of a deleted cluster; a removed member's lives elsewhere."""
        self._rounds.forget(process)
        if whole_cluster:
            self._router.cluster_gone(process.server.cfg.cluster_name, process.cluster_id)
            self._notify_followers(process)
        else:
            self.server_stopped(process)
        self.wake()

    def _notify_followers(self, process: ServerProcess) -> None:
        """Tell followers that missed the deletion of their cluster; they would wait for this leader."""
        server = process.server
        if server.leader_id == server.id:
            for member, _ in server.peers:
                self._dispatcher.notify_removed(member.node, MemberRemoved(process.cluster_id))
