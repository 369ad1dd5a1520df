"""Where effects leave the servers of a node: to other servers, to fronts, to the rest of the turn.

The executor calls this (`Outlets`); so does the front, which reaches servers the same way.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from barque.core.configuration import uids_on
from barque.core.effects import Applied, MembersGone, Rejected, Rejection, StopReason, Unresolved
from barque.core.messages import FlushCommands, PipelineRpcs, RemoteMessage, ServerDown
from barque.core.replication import has_entries_to_send
from barque.runtime.replies import encode_in_parts
from barque.runtime.server_process import ServerProcess
from barque.transport.wire import (
    Envelope,
    FrontEvent,
    FrontRejected,
    FrontReplies,
    Gone,
    LeaderIs,
    NodeMessage,
)
from barque.types import ClientRef, ServerId, Uid

if TYPE_CHECKING:
    from barque.runtime.node import Node

_COMMIT_DELAY_S = 0.005
_REMEMBERED_MAX = 1_024


class _Farewell(NamedTuple):
    """Whom a server that has stopped knew, and who it was."""

    members: tuple[ServerId, ...]
    cluster_id: str
    uid: str


class NodeOutlets:
    """The way out for all servers of one node (`barque.runtime.executor.Outlets`)."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._pipelining: dict[ServerProcess, None] = {}
        self._committing: dict[ServerProcess, None] = {}
        self._flushing: dict[ServerProcess, None] = {}
        self._stopped: dict[ServerId, _Farewell] = {}

    def wake(self) -> None:
        """See `Node.wake`."""
        self._node.wake()

    # --- messages ----------------------------------------------------------------------

    def send_to_server(self, to: ServerId, message: RemoteMessage, process: ServerProcess | None) -> bool:
        """To a server of this node at once, to another node's with the next flush.

        `process` is the server that speaks; None for the node's front.
        """
        node = self._node
        cluster_id, uid = ("", "") if process is None else process.identity
        if to.node != node.name:
            return node.transport.send(to.node, to.name, message, cluster_id, uid)
        node.inbox.to_server(node.name, Envelope(to.name, message, cluster_id, uid))
        return True

    def send_to_node(self, node: str, message: NodeMessage) -> bool:
        """To another node itself."""
        sent = self._node.transport.send(node, "", message)
        self._node.wake()
        return sent

    def answer(self, applied: Applied) -> None:
        """Replies, to our own front or to another node's."""
        node, to = self._node, applied.to
        first, count = applied.first_correlation, len(applied.replies)
        if to.node == node.name:
            if to.incarnation == node.incarnation:
                node.front.on_replies(first, count, applied.replies, applied.errors)
        elif to.node:
            for at, size, raw, errors in encode_in_parts(applied.replies, applied.errors):
                if raw is None:
                    self.reject(Rejected(to, first + at, size, Rejection.REPLY_NOT_SENT))
                else:
                    reply = FrontReplies(to.incarnation, first + at, size, raw, errors)
                    node.transport.send(to.node, "", reply)

    def reject(self, rejected: Rejected) -> None:
        """A refusal, likewise."""
        node, to = self._node, rejected.to
        first, count = rejected.first_correlation, rejected.count
        if to.node == node.name:
            if to.incarnation == node.incarnation:
                node.front.on_rejected(first, count, rejected.reason, rejected.leader)
        elif to.node:
            message = FrontRejected(to.incarnation, first, count, rejected.reason, rejected.leader)
            node.transport.send(to.node, "", message)

    def unresolved(self, effect: Unresolved) -> None:
        """Not a refusal: these commands may happen yet."""
        self.reject(Rejected(effect.to, effect.first_correlation, effect.count, Rejection.OUTCOME_UNKNOWN))

    def send_event(self, process: ServerProcess, to: ClientRef, message: Any) -> None:
        """A machine's message to the clients of a node."""
        node = self._node
        raw = msgspec.Raw(msgspec.msgpack.encode(message))
        cluster = process.server.cfg.cluster_name
        if to.node == node.name and to.incarnation == node.incarnation:
            node.tell_listeners(cluster, raw)
        elif to.node and to.node != node.name:
            node.transport.send(to.node, "", FrontEvent(to.incarnation, cluster, raw))

    # --- who leads ---------------------------------------------------------------------

    def leadership_changed(self, process: ServerProcess) -> None:
        """Keep the leaderboard and the front up to date."""
        node, server = self._node, process.server
        cluster, members = server.cfg.cluster_name, tuple(server.cluster)
        node.leaderboard.record(
            cluster, server.leader_id, members, server.current_term, server.cfg.cluster_id
        )
        if server.leader_id is not None:
            node.front.leader_hint(cluster, server.leader_id, server.current_term, server.cfg.cluster_id)
        elif (known := node.front.leader_of(cluster)) is not None and known.node == node.name:
            node.front.leader_lost(known)
        node.wake()

    def leader_established(self, process: ServerProcess) -> None:
        """Announce a leader to all nodes; replies of its predecessors' entries went ahead."""
        node = self._node
        server, cluster = process.server, process.server.cfg.cluster_name
        node.front.leader_established(cluster, server.id, server.current_term, server.cfg.cluster_id)
        for other in node.config.nodes:
            if other != node.name:
                node.transport.send(other, "", leader_is(process, other))
        node.admin.leader_established(cluster)

    def node_is_up(self, node: str) -> bool:
        """Whether that node is within reach; our own always is."""
        return node == self._node.name or node in self._node.transport.connected()

    def server_ended(self, process: ServerProcess, reason: StopReason) -> None:
        """It was removed, or its cluster deleted: both are committed, so its data may go."""
        whole = reason is StopReason.DELETED
        text = "its cluster was deleted" if whole else "it was removed from its cluster"
        self._node.server_finished(process, delete=True, whole_cluster=whole, reason=text)

    def members_gone(self, process: ServerProcess, effect: MembersGone) -> None:
        """A member that was removed may not have heard of it: nobody sends it entries any more."""
        for member, uid in effect.members:
            if uid is not None and member != process.server.id:
                self.tell_removed(process, member, uid)

    def tell_removed(self, process: ServerProcess, member: ServerId, uid: Uid) -> None:
        """Let a node forget a server that is no member of this leader's cluster."""
        self._node.inbox.tell_gone(member.node, Gone(process.identity[0], uid))

    def server_stopped(self, process: ServerProcess) -> None:
        """Tell the other members at once, so that they need not wait for a timeout."""
        server = process.server
        members = tuple(member for member, _ in server.peers)
        for member in members:
            self.send_to_server(member, ServerDown(server.id, connected=True), process)
        self._stopped[server.id] = _Farewell(members, *process.identity)
        if len(self._stopped) > _REMEMBERED_MAX:
            del self._stopped[next(iter(self._stopped))]
        self._node.front.leader_lost(server.id)
        self._node.wake()

    def node_connected(self, other: str) -> None:
        """Tell its servers again which of ours have stopped: the news may have been lost with a connection.

        Nobody else would say it. Who follows a server that has stopped trusts its node, which lives.
        """
        node = self._node
        for server, farewell in list(self._stopped.items()):
            process = node.system.processes.get(server.name)
            if process is not None and process.failure is None:
                del self._stopped[server]  # there is one of that name again
                continue
            for member in farewell.members:
                if member.node == other:
                    down = ServerDown(server, connected=True)
                    node.transport.send(other, member.name, down, farewell.cluster_id, farewell.uid)

    def server_deleted(self, process: ServerProcess, *, whole_cluster: bool) -> None:
        """Forget it. Callers of a deleted cluster are told; a removed member's cluster lives on elsewhere."""
        node = self._node
        for waiting in (self._pipelining, self._committing, self._flushing):
            waiting.pop(process, None)
        cluster = process.server.cfg.cluster_name
        if whole_cluster:
            node.front.cluster_gone(cluster, process.server.cfg.cluster_id)
            self._tell_followers(process)
        else:
            self.server_stopped(process)
        standing = node.leaderboard.lookup(cluster)
        here = any(p.server.cfg.cluster_name == cluster for p in node.system.processes.values())
        if standing is not None and standing.cluster_id == process.server.cfg.cluster_id and not here:
            node.leaderboard.clear(cluster)
        node.wake()

    def _tell_followers(self, process: ServerProcess) -> None:
        """Those who missed that their cluster was deleted would wait for this leader for ever."""
        server = process.server
        if server.leader_id == server.id:
            for member, _ in server.peers:
                self._node.inbox.tell_gone(member.node, Gone(process.identity[0]))

    # --- what waits for the end of the turn ----------------------------------------------

    def hold_until_synced(self, process: ServerProcess) -> None:
        """See `System.hold_until_synced`."""
        self._node.system.hold_until_synced(process)
        self._node.wake()

    def pipeline_later(self, process: ServerProcess) -> None:
        """Replicate once for all that happened in this turn (REPL-07)."""
        self._pipelining[process] = None
        self._node.wake()

    def flush_commands_later(self, process: ServerProcess) -> None:
        """Low-priority commands go behind everything that has arrived in this turn (CMD-06)."""
        self._flushing[process] = None
        self._node.wake()

    @property
    def busy(self) -> bool:
        """Whether servers have more to do in this turn."""
        return bool(self._pipelining or self._flushing)

    def flush_commands(self) -> None:
        """Hand out the `FlushCommands` that were asked for."""
        flushing, self._flushing = self._flushing, {}
        for process in flushing:
            process.handle(FlushCommands())

    def pipeline(self) -> None:
        """Send entries now. A commit index alone can wait for the next ones, for a moment.

        Telling it at once would cost a message and an answer for each follower and commit; a
        caller who sends one command after the other would wait for all of them.
        """
        node = self._node
        pipelining, self._pipelining = self._pipelining, {}
        for process in pipelining:
            if has_entries_to_send(process.server):
                process.handle(PipelineRpcs())
            else:
                self._committing[process] = None
        if self._committing and "commits" not in node.timers:
            node.timers.arm("commits", node.clock.monotonic() + _COMMIT_DELAY_S, self._tell_commits)

    def _tell_commits(self) -> None:
        committing, self._committing = self._committing, {}
        for process in committing:
            process.handle(PipelineRpcs())
        self._node.wake()


def leader_is(process: ServerProcess, node: str) -> LeaderIs:
    """What a leader announces to a node."""
    server, cfg = process.server, process.server.cfg
    return LeaderIs(cfg.cluster_name, server.id, server.current_term, cfg.cluster_id, uids_on(server, node))
