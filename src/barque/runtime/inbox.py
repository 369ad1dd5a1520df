"""What comes to the servers of a node, from other nodes and from each other, and to the node itself.

Every Raft message proves which cluster it belongs to and which incarnation of a member sent it. What does
not fit is dropped here, before the server hears of it (docs/explanation/identity.md).
"""

import logging
from typing import TYPE_CHECKING, assert_never

from barque.core.configuration import is_removed, recognises
from barque.core.effects import Rejected, Rejection, refuse_commands
from barque.core.messages import (
    SENDER_OF,
    AuxCommand,
    Commands,
    DeleteCluster,
    JoinMember,
    LeaveMember,
    Queries,
    RemoteMessage,
    TransferLeadership,
)
from barque.core.terms import ASKS_FOR_VOTES, admits, was_removed
from barque.runtime.server_process import ServerProcess
from barque.transport.wire import (
    Alive,
    Envelope,
    FrontEvent,
    FrontRejected,
    FrontReplies,
    Gone,
    LeaderIs,
    NodeCall,
    NodeCallReply,
    NodeMessage,
)
from barque.types import ServerId, Uid

if TYPE_CHECKING:
    from barque.runtime.node import Node

logger = logging.getLogger("barque.inbox")

_GONE_INTERVAL_S = 1.0
_REMEMBERED_MAX = 1_024


class Inbox:
    """The way in for all servers of one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._told: dict[tuple[str, Gone], float] = {}  # when a node was last told that something is gone

    def take(self, node: str, envelopes: list[Envelope]) -> None:
        """Messages of one frame from another node."""
        for envelope in envelopes:
            message = envelope.message
            if isinstance(message, NodeMessage):
                self._on_node_message(node, message)
            else:
                self.to_server(node, envelope)

    def to_server(self, node: str, envelope: Envelope) -> None:
        """Hand a message from a server or front of `node`, which may be this one, to the server it is for."""
        message = envelope.message
        assert not isinstance(message, NodeMessage)
        process = self._node.system.processes.get(envelope.to)
        sender_of = SENDER_OF.get(type(message))
        if sender_of is not None:
            if self._is_genuine(node, envelope, process, sender_of(message)):
                assert process is not None
                process.handle(message)
        elif process is not None and process.failure is None:
            process.handle(message)
        else:
            self._refuse(message, Rejection.UNKNOWN_CLUSTER if process is None else Rejection.NOT_LEADER)

    # --- who speaks --------------------------------------------------------------------

    def _is_genuine(
        self, node: str, envelope: Envelope, process: ServerProcess | None, sender: ServerId
    ) -> bool:
        """Whether a Raft message is of our server's cluster and of the member that it knows."""
        cluster_id, uid = envelope.cluster_id, Uid(envelope.sender_uid)
        if process is None or cluster_id != process.identity[0]:
            if self._node.system.directory.deleted_cluster(cluster_id) is not None:
                self.tell_gone(node, Gone(cluster_id))
            if process is not None:
                process.counters.raft.foreign_messages += 1
            return False
        if process.failure is not None:
            return False
        server, message = process.server, envelope.message
        if (
            isinstance(message, ASKS_FOR_VOTES)
            and message.term <= server.current_term  # who has met a later leader may be a member of later
            and is_removed(server, sender, uid)
        ):
            self.tell_gone(node, Gone(cluster_id, uid))
            return False
        if not uid or not recognises(server, sender, uid):
            admitted = bool(uid) and admits(server, sender, uid, message)
            if not (admitted and isinstance(message, ASKS_FOR_VOTES)):
                self._on_stranger(process, sender, uid)
            return admitted
        if process.strangers and sender in process.strangers:
            del process.strangers[sender]  # the member itself is back, or this one has taken its place
        return True

    def _on_stranger(self, process: ServerProcess, sender: ServerId, uid: Uid) -> None:
        """Another incarnation speaks under a member's name: its disk was lost, or is an old copy."""
        process.counters.raft.stale_incarnations += 1
        if process.strangers.get(sender) == uid:
            return
        if sender not in process.strangers and len(process.strangers) >= _REMEMBERED_MAX:
            return
        process.strangers[sender] = uid
        peer = process.server.cluster.get(sender)
        logger.warning(
            "%s: %s answers as incarnation %r, but the member is %r: its messages are dropped. If its data "
            "directory was lost, run: %s",
            process.server.id,
            sender,
            uid[:80],
            peer.uid if peer is not None else None,
            cure_of(process, sender),
        )

    def tell_gone(self, node: str, gone: Gone) -> None:
        """Once a second at most for each node and server: the other side asks again."""
        own = self._node
        now = own.clock.monotonic()
        if now - self._told.get((node, gone), -_GONE_INTERVAL_S) < _GONE_INTERVAL_S:
            return
        if len(self._told) >= _REMEMBERED_MAX:
            self._told.clear()
        self._told[node, gone] = now
        if node == own.name:
            self._on_gone(node, gone)
        else:
            own.outlets.send_to_node(node, gone)

    def node_connected(self, node: str) -> None:
        """What it was told may have been lost with the connection before, and nobody else would repeat it:
        a member that trusts its leader's node asks nothing.
        """
        for told, gone in list(self._told):
            if told == node:
                self._node.outlets.send_to_node(node, gone)

    def _on_gone(self, node: str, gone: Gone) -> None:
        """A peer knows of a committed removal or deletion that we have missed."""
        for process in list(self._node.system.processes.values()):
            cluster_id, uid = process.identity
            if cluster_id != gone.cluster_id or gone.uid not in ("", uid):
                continue
            if gone.uid:
                reason = f"node {node} says that this member was removed from its cluster, or replaced"
            else:
                reason = f"node {node} says that its cluster was deleted"
            self._node.server_finished(process, delete=True, whole_cluster=not gone.uid, reason=reason)

    def _end_if_removed(self, node: str, message: LeaderIs) -> None:
        """A removed member without a vote never campaigns, and so would never be told."""
        process = self._node.system.processes.get(message.leader.name)
        if process is None or message.uids is None or process.identity[0] != message.cluster_id:
            return
        if was_removed(process.server, message.term, message.uids):
            self._on_gone(node, Gone(*process.identity))

    # --- for fronts and the node ---------------------------------------------------------

    def _refuse(self, message: RemoteMessage, reason: str) -> None:
        """Somebody waits for the answer of a server that is not here."""
        outlets = self._node.outlets
        match message:
            case Commands():
                for effect in refuse_commands(message, reason, None):
                    assert isinstance(effect, Rejected)
                    outlets.reject(effect)
            case Queries():
                first, count = message.first_correlation, len(message.payloads)
                outlets.reject(Rejected(message.origin, first, count, reason))
            case TransferLeadership() | JoinMember() | LeaveMember() | DeleteCluster() | AuxCommand():
                outlets.reject(Rejected(message.origin, message.correlation, 1, reason))
            case _:
                raise AssertionError(f"{type(message).__name__} waits for no answer")

    def _on_node_message(self, node: str, message: NodeMessage) -> None:
        own = self._node
        match message:
            case Alive():
                own.detector.heartbeat(node, own.clock.monotonic())
            case FrontReplies():
                if message.incarnation == own.incarnation:
                    own.front.on_replies(
                        message.first_correlation, message.count, message.replies, message.errors
                    )
            case FrontRejected():
                if message.incarnation == own.incarnation:
                    own.front.on_rejected(
                        message.first_correlation, message.count, message.reason, message.leader
                    )
            case LeaderIs():
                self._on_leader_is(node, message)
            case NodeCall():
                own.calls.on_call(node, message)
            case NodeCallReply():
                own.calls.on_reply(node, message)
            case Gone():
                self._on_gone(node, message)
            case FrontEvent():
                if message.incarnation == own.incarnation:
                    own.tell_listeners(message.cluster, message.message)
            case _:
                assert_never(message)

    def _on_leader_is(self, node: str, message: LeaderIs) -> None:
        own, cluster = self._node, message.cluster
        if own.system.directory.deleted_cluster(message.cluster_id) is not None:
            self.tell_gone(node, Gone(message.cluster_id))
            return
        self._end_if_removed(node, message)
        standing = own.leaderboard.lookup(cluster)
        members = standing.members if standing and standing.cluster_id == message.cluster_id else ()
        own.leaderboard.record(cluster, message.leader, members, message.term, message.cluster_id)
        own.front.leader_established(cluster, message.leader, message.term, message.cluster_id)
        own.admin.leader_established(cluster)


def cure_of(process: ServerProcess, member: ServerId) -> str:
    """What to run when a member answers as another incarnation."""
    return f"barque member replace {process.server.cfg.cluster_name} {member}"
