"""The dispatcher: the one place that delivers messages, to servers of this node and to other nodes.

Theory of operation
-------------------

Three kinds of messages pass through here:

- *A server speaks to a server* (Raft's messages). The message proves which cluster it belongs to and which
  incarnation of the sender it comes from. `identity.judge` compares both with the server that the message
  is for, and `_deliver` acts on the verdict: it hands the message over, drops and counts it, or tells the
  sender's node that the sender was removed. Members of one cluster may live on one node, and names are used
  again, so messages that never leave the node take the same checks.
- *A router asks a server* (commands, reads, changes of members). It proves nothing; the answer goes to the
  node that the message names as its origin, and never anywhere else. If the server is not here, or has
  failed, the dispatcher refuses in its place, so that nobody waits for a deadline. It also refuses new
  commands in a leader's place while the disk is nearly full (`log.disk_guard`). When there is still less
  space, a follower does not get the commands that its leader replicates, as if they had been lost.
- *A node speaks to a node* (answers, announcements, administration). The part of the node that handles a
  kind of message registers for it (`on`), so the dispatcher knows no part above it.

A message for a server of this node is handed over at once, as it is: the receiver handles it inside the
sender's call, or queues it if it is in the middle of a step. A message for another node is queued in the
transport until the turn sends everything (`node.Node`); it may be lost, and every protocol above copes with
that. `MemberRemoved` is repeated after a reconnect, since a member that trusts its leader's node asks
nothing.

A node that hears `MemberRemoved` suspects the server that it names, and asks others (`removals.py`).
"""

import logging
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from barque.core.effects import Applied, Rejected, Rejection, refuse_commands
from barque.core.entries import EntryKind
from barque.core.log_contract import Log
from barque.core.messages import (
    SENDER_OF,
    AppendEntriesRpc,
    AuxCommand,
    Commands,
    DeleteCluster,
    InstallSnapshotRpc,
    JoinMember,
    LeaveMember,
    Queries,
    RemoteMessage,
    TransferLeadership,
)
from barque.core.roles import RaftState
from barque.core.terms import was_removed
from barque.runtime import identity
from barque.runtime.clock import Clock
from barque.runtime.directory import Directory
from barque.runtime.identity import Verdict
from barque.runtime.removals import Removals
from barque.runtime.reply_encoding import encode_in_parts
from barque.runtime.server_process import ServerProcess
from barque.runtime.server_table import ServerTable
from barque.transport.contract import Transport
from barque.transport.wire import (
    Envelope,
    FrontRejected,
    FrontReplies,
    LeaderIs,
    MemberRemoved,
    NodeMessage,
    RemovalAnswer,
    RemovalAsked,
)
from barque.types import ClientRef, ServerId, Term, Uid

logger = logging.getLogger("barque.dispatcher")

NodeHandler = Callable[[str, Any], None]
"""Handles one kind of node messages: the node that sent it, and the message."""

_REMOVAL_INTERVAL_S = 1.0
_REMEMBERED_MAX = 1_024
_NOBODY = Uid("")


_USER = bytes([EntryKind.USER])


def _needs_space(log: Log, message: RemoteMessage) -> bool:
    """Whether the message brings a follower a snapshot or new commands, or would make it ask for them.

    A leader hears nothing from a follower that does not get these. So its window fills, and it sends one
    small message a second. Noops, changes of members and deletions need little, and without them nobody could
    lead or make room.
    """
    match message:
        case InstallSnapshotRpc():
            return True
        case AppendEntriesRpc():
            end = log.last_index_term().index
            new = [batch for batch in message.entries if batch.last_index > end]
            return message.prev_log_index > end or any(batch.body.startswith(_USER) for batch in new)
        case _:
            return False


def _leads(process: ServerProcess) -> bool:
    """Whether a command that reaches this server now would be appended."""
    return process.failure is None and process.server.raft_state is RaftState.LEADER


class AnswerSink(Protocol):
    """Takes answers to this node's own requests, and news of who leads: the request router."""

    def on_replies(
        self, first: int, count: int, replies: list[Any] | msgspec.Raw, errors: dict[int, str] | None
    ) -> None:
        """Replies to consecutive correlations."""

    def on_rejected(self, first: int, count: int, reason: str, leader: ServerId | None) -> None:
        """Consecutive correlations that a server refused."""

    def leader_established(self, cluster: str, leader: ServerId, term: Term, cluster_id: str = "") -> None:
        """A leader has announced itself."""


class Dispatcher:
    """Delivers messages to and from the servers of one node. `wake` asks for a turn, which sends."""

    def __init__(
        self,
        me: ClientRef,
        servers: ServerTable,
        directory: Directory,
        transport: Transport,
        clock: Clock,
        wake: Callable[[], None],
    ) -> None:
        self._name, self._incarnation = me.node, me.incarnation
        self._servers = servers
        self._by_name = servers.by_name
        self._directory = directory
        self._transport = transport
        self._clock = clock
        self._wake = wake
        self.disk_full = False
        """Whether this node's leaders refuse new commands, for want of space."""
        self.disk_critical = False
        """Whether this node's followers take no commands, either."""
        self.removals = Removals(self._name, servers, directory, transport, clock)
        self._router: AnswerSink
        self._handlers: dict[type, NodeHandler] = {
            FrontReplies: self._on_replies,
            FrontRejected: self._on_rejected,
            LeaderIs: self._on_leader_is,
            MemberRemoved: self.removals.suspect,
            RemovalAsked: self.removals.on_asked,
            RemovalAnswer: self.removals.on_answer,
        }
        self._notified: dict[tuple[str, MemberRemoved], float] = {}  # when a node was last told of a removal

    def attach(self, router: AnswerSink) -> None:
        """Answers for requests of this node go there. Called once, before the first server starts."""
        self._router = router

    def on(self, kind: type, handler: NodeHandler) -> None:
        """Hand messages of this kind, from other nodes, to `handler`."""
        self._handlers[kind] = handler

    # --- sending -----------------------------------------------------------------------

    def send(self, to: ServerId, message: RemoteMessage, process: ServerProcess) -> bool:
        """Send a message of a server of this node to another; False if it was dropped."""
        if to.node != self._name:
            return self._transport.send(to.node, to.name, message, process.cluster_id, process.uid)
        self._deliver(self._name, to.name, message, process.cluster_id, process.uid)
        return True

    def send_to_server(self, to: ServerId, message: RemoteMessage) -> bool:
        """Send a request of this node to a server; False if it was dropped."""
        if to.node != self._name:
            return self._transport.send(to.node, to.name, message)
        self._deliver(self._name, to.name, message, "", _NOBODY)
        return True

    def local_query(self, cluster: str, payload: bytes) -> Any:
        """See `ServerTable.query`."""
        return self._servers.query(cluster, payload)

    def note_invalid_mode(self, cluster: str, count: int) -> None:
        """Count them at the member here, if there is one."""
        process = self._servers.here(cluster)
        if process is not None:
            process.counters.invalid_reply_mode_commands += count

    def why_not_here(self, cluster: str) -> str:
        """See `ServerTable.why_not_here`."""
        return self._servers.why_not_here(cluster)

    def send_to_node(self, node: str, message: NodeMessage) -> bool:
        """Send a message to another node itself; False if it was dropped."""
        sent = self._transport.send(node, "", message)
        self._wake()
        return sent

    def answer(self, applied: Applied) -> None:
        """Send replies to the node whose router waits for them, which may be this one."""
        to = applied.to
        first, count = applied.first_correlation, len(applied.replies)
        if to.node == self._name:
            if to.incarnation == self._incarnation:
                self._router.on_replies(first, count, applied.replies, applied.errors)
        elif to.node:
            for at, size, raw, errors in encode_in_parts(applied.replies, applied.errors):
                if raw is None:
                    self.reject(Rejected(to, first + at, size, Rejection.REPLY_NOT_SENT))
                else:
                    reply = FrontReplies(to.incarnation, first + at, size, raw, errors)
                    self._transport.send(to.node, "", reply)

    def reject(self, rejected: Rejected) -> None:
        """Send a refusal, likewise."""
        to = rejected.to
        first, count = rejected.first_correlation, rejected.count
        if to.node == self._name:
            if to.incarnation == self._incarnation:
                self._router.on_rejected(first, count, rejected.reason, rejected.leader)
        elif to.node:
            message = FrontRejected(to.incarnation, first, count, rejected.reason, rejected.leader)
            self._transport.send(to.node, "", message)

    # --- receiving ---------------------------------------------------------------------

    def receive(self, node: str, envelopes: list[Envelope]) -> None:
        """Deliver the messages of one frame from another node."""
        handlers = self._handlers
        for envelope in envelopes:
            message = envelope.message
            handler = handlers.get(type(message))
            if handler is not None:
                handler(node, message)
            else:
                self._deliver(node, envelope.to, message, envelope.cluster_id, envelope.sender_uid)  # type: ignore[arg-type]  # all kinds of node messages have handlers

    def _deliver(self, node: str, to: str, message: RemoteMessage, cluster_id: str, uid: Uid) -> None:
        """Hand a message from `node`, which may be this one, to the server that it is for."""
        process = self._by_name.get(to)
        sender_of = SENDER_OF.get(type(message))
        if sender_of is None:
            if self.disk_full and type(message) is Commands and process is not None and _leads(process):
                process.counters.commands += message.count
                self._refuse(message, Rejection.DISK_FULL)
            elif process is not None and process.failure is None:
                process.handle(message)
            else:
                self._refuse(message, Rejection.UNKNOWN_CLUSTER if process is None else Rejection.NOT_LEADER)
            return
        sender = sender_of(message)
        verdict = identity.judge(process, message, sender, cluster_id, uid)
        if verdict is Verdict.ADMIT:
            assert process is not None
            if process.unknown_incarnations:
                process.unknown_incarnations.pop(sender, None)  # the member itself is back, or was replaced
            if not (self.disk_critical and _needs_space(process.server.log, message)):
                process.handle(message)
        else:
            self._act_on(verdict, node, process, message, sender, cluster_id, uid)

    def _act_on(
        self,
        verdict: Verdict,
        node: str,
        process: ServerProcess | None,
        message: RemoteMessage,
        sender: ServerId,
        cluster_id: str,
        uid: Uid,
    ) -> None:
        """Act on every verdict but the usual one."""
        match verdict:
            case Verdict.FOREIGN | Verdict.ABSENT:
                if process is not None:
                    process.counters.foreign_messages += 1
                if self._directory.deleted_cluster(cluster_id) is not None:
                    self.notify_removed(node, MemberRemoved(cluster_id))
            case Verdict.REMOVED:
                self.notify_removed(node, MemberRemoved(cluster_id, uid))
            case Verdict.STOPPED:
                pass  # our server handles nothing any longer
            case _:
                assert process is not None
                if verdict is not Verdict.ADMIT_CANDIDATE:
                    self._note_unknown(process, sender, uid)
                if verdict is not Verdict.DROP_UNKNOWN:
                    process.handle(message)

    def _note_unknown(self, process: ServerProcess, sender: ServerId, uid: Uid) -> None:
        """Count another incarnation under a member's name, and log it once: a disk was lost, or is a copy."""
        process.counters.stale_incarnations += 1
        unknown = process.unknown_incarnations
        if unknown.get(sender) == uid or (sender not in unknown and len(unknown) >= _REMEMBERED_MAX):
            return
        unknown[sender] = uid
        peer = process.server.cluster.get(sender)
        logger.warning(
            "%s: %s answers as incarnation %r, but the member is %r: its messages are dropped. If its data "
            "directory was lost, run: %s",
            process.server.id,
            sender,
            uid[:80],
            peer.uid if peer is not None else None,
            process.cure_for(sender),
        )

    def _refuse(self, message: RemoteMessage, reason: str) -> None:
        """Answer in the place of a server that is not here: a router waits."""
        match message:
            case Commands():
                for effect in refuse_commands(message, reason, None):
                    assert isinstance(effect, Rejected)
                    self.reject(effect)
            case Queries():
                first, count = message.first_correlation, len(message.payloads)
                self.reject(Rejected(message.origin, first, count, reason))
            case TransferLeadership() | JoinMember() | LeaveMember() | DeleteCluster() | AuxCommand():
                self.reject(Rejected(message.origin, message.correlation, 1, reason))
            case _:
                raise AssertionError(f"{type(message).__name__} waits for no answer")

    # --- messages between nodes --------------------------------------------------------

    def _on_replies(self, _node: str, message: FrontReplies) -> None:
        if message.incarnation == self._incarnation:
            self._router.on_replies(message.first_correlation, message.count, message.replies, message.errors)

    def _on_rejected(self, _node: str, message: FrontRejected) -> None:
        if message.incarnation == self._incarnation:
            self._router.on_rejected(message.first_correlation, message.count, message.reason, message.leader)

    def _on_leader_is(self, node: str, message: LeaderIs) -> None:
        if self._directory.deleted_cluster(message.cluster_id) is not None:
            self.notify_removed(node, MemberRemoved(message.cluster_id))
            return
        self._suspect_if_removed(node, message)
        self._router.leader_established(message.cluster, message.leader, message.term, message.cluster_id)

    def _suspect_if_removed(self, node: str, message: LeaderIs) -> None:
        """Suspect a member that the leader does not list: without a vote it never campaigns, nor asks."""
        process = self._by_name.get(message.leader.name)
        if process is None or message.uids is None or process.cluster_id != message.cluster_id:
            return
        if was_removed(process.server, message.term, message.uids):
            self.removals.suspect(node, MemberRemoved(process.cluster_id, process.uid))

    # --- removed members ---------------------------------------------------------------

    def notify_removed(self, node: str, removed: MemberRemoved) -> None:
        """Tell a node that one of its members was removed, or a cluster deleted; once a second at most."""
        now = self._clock.monotonic()
        if now - self._notified.get((node, removed), -_REMOVAL_INTERVAL_S) < _REMOVAL_INTERVAL_S:
            return
        if len(self._notified) >= _REMEMBERED_MAX:
            self._notified.clear()
        self._notified[node, removed] = now
        if node == self._name:
            self.removals.suspect(node, removed)
        else:
            self.send_to_node(node, removed)

    def node_connected(self, node: str) -> None:
        """Send removal notices again after a reconnect: the earlier ones may be lost."""
        for notified, removed in list(self._notified):
            if notified == node:
                self.send_to_node(node, removed)
