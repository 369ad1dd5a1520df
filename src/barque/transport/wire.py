"""What travels between nodes, and between clients and nodes, inside frames.

A frame's payload is one msgpack array of messages; each message is an array that starts with
its tag. Tags below 32 are Raft's (`barque.core.messages`), 32 to 63 are for nodes, from 64 on
for clients. Decoding is closed and typed: an unknown tag or a wrong type is a `ProtocolError`.
Page: docs/protocol/wire.md.
"""

from typing import Any, TypeAlias

import msgspec

from barque.core.messages import RemoteMessage
from barque.types import ReplyMode, ServerId, Term

# --- between nodes -------------------------------------------------------------------------


class Alive(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=32):
    """The failure detector's heartbeat; the only traffic of an idle pair of nodes."""


class FrontReplies(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=33):
    """Answers for commands that came in through the receiving node (`core.effects.Applied`)."""

    incarnation: int
    first_correlation: int
    replies: list[msgspec.Raw]
    errors: dict[int, str] | None = None


class FrontRejected(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=34):
    """Commands that came in through the receiving node and did not happen."""

    incarnation: int
    first_correlation: int
    count: int
    reason: str
    leader: ServerId | None


class LeaderIs(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=35):
    """`leader` leads the cluster, and has applied its noop of `term` (docs/explanation/routing.md).

    Whatever was sent to a leader of an earlier term and is unanswered when this arrives has an
    unknown outcome.
    """

    cluster: str
    leader: ServerId
    term: Term


class NodeCall(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=36):
    """One node asks another for an administrative service."""

    correlation: int
    verb: str
    arguments: dict[str, Any]


class NodeCallReply(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=37):
    """The answer: a value, or the name and the text of an error from `barque.errors`."""

    correlation: int
    value: Any = None
    error: str | None = None
    text: str = ""


class FrontEvent(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=38):
    """A machine's `SendMsg` for clients of the receiving node."""

    incarnation: int
    cluster: str
    message: msgspec.Raw


NodeMessage: TypeAlias = (
    Alive | FrontReplies | FrontRejected | LeaderIs | NodeCall | NodeCallReply | FrontEvent
)
PeerMessage: TypeAlias = RemoteMessage | NodeMessage


class Envelope(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message for the server called `to`; for the node itself where `to` is empty."""

    to: str
    message: PeerMessage


# --- between clients and nodes -------------------------------------------------------------


class ClientCommands(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=64):
    """`count` commands for a cluster, correlated from `first_correlation` on.

    `columns` is what an entry-batch body holds after its head: `count` lengths (u32, little
    endian), then the encoded commands. `timeout_ms` bounds the wait for a leader and the answer.
    """

    cluster: str
    first_correlation: int
    count: int
    columns: bytes
    reply_mode: ReplyMode
    timeout_ms: int
    low_priority: bool = False


class ClientQueries(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=65):
    """Reads. `level` is `local`, `leader` or `consistent`."""

    cluster: str
    first_correlation: int
    payloads: tuple[bytes, ...]
    level: str
    timeout_ms: int


class ClientCall(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=66):
    """An administrative request, for this node or forwarded by it."""

    correlation: int
    verb: str
    arguments: dict[str, Any]
    timeout_ms: int


class ClientReplies(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=67):
    """Answers to consecutive correlations. `leader` is a hint: who answered, or leads now."""

    first_correlation: int
    replies: list[msgspec.Raw]
    errors: dict[int, str] | None = None
    leader: ServerId | None = None


class ClientFailed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=68):
    """Consecutive correlations that ended without a reply.

    `error` is a class name of `barque.errors`, and says whether they may have happened.
    """

    first_correlation: int
    count: int
    error: str
    text: str
    leader: ServerId | None = None


class ClientCallReply(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=69):
    """The answer to a `ClientCall`."""

    correlation: int
    value: Any = None
    error: str | None = None
    text: str = ""


class ClientEvent(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=70):
    """A machine's message to its clients (`SendMsg`)."""

    cluster: str
    message: msgspec.Raw


ClientRequest: TypeAlias = ClientCommands | ClientQueries | ClientCall
ClientAnswer: TypeAlias = ClientReplies | ClientFailed | ClientCallReply | ClientEvent
