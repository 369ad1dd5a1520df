"""What other nodes send to this one: for its servers, and for the node itself."""

from typing import TYPE_CHECKING, assert_never

from barque.core.effects import Rejected, Rejection
from barque.core.messages import Commands, Queries, RemoteMessage, TransferLeadership
from barque.core.server import refuse_commands
from barque.transport.wire import (
    Alive,
    Envelope,
    FrontEvent,
    FrontRejected,
    FrontReplies,
    LeaderIs,
    NodeCall,
    NodeCallReply,
    NodeMessage,
)

if TYPE_CHECKING:
    from barque.runtime.node import Node


class Inbox:
    """The way in for all servers of one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node

    def take(self, node: str, envelopes: list[Envelope]) -> None:
        """Messages of one frame from another node."""
        for envelope in envelopes:
            message = envelope.message
            if isinstance(message, NodeMessage):
                self._on_node_message(node, message)
            else:
                self.to_server(envelope.to, message)

    def to_server(self, name: str, message: RemoteMessage) -> None:
        """Hand a message to the server of that name, from wherever it comes."""
        process = self._node.system.processes.get(name)
        if process is not None and process.failure is None:
            process.handle(message)
        else:
            self._refuse(message, Rejection.UNKNOWN_CLUSTER if process is None else Rejection.NOT_LEADER)

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
            case TransferLeadership():
                outlets.reject(Rejected(message.origin, message.correlation, 1, reason))
            case _:
                pass  # Raft messages to a server that is gone: silence is what they expect

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
                standing = own.leaderboard.lookup(message.cluster)
                members = standing.members if standing else ()
                own.leaderboard.record(message.cluster, message.leader, members, message.term)
                own.front.leader_established(message.cluster, message.leader, message.term)
                own.admin.leader_established(message.cluster)
            case NodeCall():
                own.calls.on_call(node, message)
            case NodeCallReply():
                own.calls.on_reply(node, message)
            case FrontEvent():
                if message.incarnation == own.incarnation:
                    own.tell_listeners(message.cluster, message.message)
            case _:
                assert_never(message)
