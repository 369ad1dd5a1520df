"""Whom a message claims to come from, and which messages count only if that is true.

The transport compares the node with the connection; the inbox compares the incarnation with the member
(docs/explanation/identity.md).
"""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from barque.core import messages as m
from barque.core.configuration import hears_candidate, recognises
from barque.core.server import Server
from barque.types import ServerId, Uid

SENDER_OF: dict[type, Callable[[Any], ServerId]] = {
    **dict.fromkeys(
        (m.AppendEntriesRpc, m.HeartbeatRpc, m.InstallSnapshotRpc, m.TimeoutNow), attrgetter("leader_id")
    ),
    **dict.fromkeys((m.RequestVoteRpc, m.PreVoteRpc), attrgetter("candidate_id")),
    **dict.fromkeys(
        (
            m.AppendEntriesReply,
            m.HeartbeatReply,
            m.InstallSnapshotResult,
            m.RequestVoteResult,
            m.PreVoteResult,
        ),
        attrgetter("sender"),
    ),
    **dict.fromkeys((m.InfoRpc, m.InfoReply), attrgetter("sender")),
    m.ServerDown: attrgetter("server"),
}
"""The server that each message of a server claims to come from."""


COUNTED = frozenset(
    {
        m.AppendEntriesReply,
        m.HeartbeatReply,
        m.InstallSnapshotResult,
        m.RequestVoteResult,
        m.PreVoteResult,
        m.InfoReply,
    }
)
"""What makes majorities, or tells who somebody is: it counts only from a member (`recognises`)."""
ASKS_FOR_VOTES = (m.PreVoteRpc, m.RequestVoteRpc)
"""A candidate's questions."""
_ASKED_BY_FRONTS = (
    m.Queries,
    m.TransferLeadership,
    m.JoinMember,
    m.LeaveMember,
    m.DeleteCluster,
    m.AuxCommand,
)


def claimed_node(message: object) -> str | None:
    """The node that a message claims to come from; None where it claims nothing.

    Commands do, inside their body: the receiver checks it there.
    """
    sender_of = SENDER_OF.get(type(message))
    if sender_of is not None:
        return sender_of(message).node
    return message.origin.node if isinstance(message, _ASKED_BY_FRONTS) else None


def admits(server: Server, sender: ServerId, uid: Uid, message: object) -> bool:
    """Whether a server shall hear this, said by that incarnation of its sender (MEMB-10)."""
    if isinstance(message, ASKS_FOR_VOTES):
        return hears_candidate(server, sender, uid, named=message.named)
    return type(message) not in COUNTED or recognises(server, sender, uid)
