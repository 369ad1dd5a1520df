"""The messages between nodes that are not Raft's: tags 32 to 63. Page: docs/protocol/wire.md."""

from typing import Any, TypeAlias

import msgspec

from barque.types import Index, ServerId, Term, Uid


class Alive(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=32):
    """The failure detector's heartbeat; the only traffic of an idle pair of nodes."""


class FrontReplies(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=33):
    """Answers for commands that came in through the receiving node (`core.effects.Applied`).

    `replies` is one encoded array of `count` values: who passes them on need not look inside.
    """

    incarnation: int
    first_correlation: int
    count: int
    replies: msgspec.Raw
    errors: dict[int, str] | None = None


class FrontRejected(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=34):
    """Commands that the receiving node had sent on, and that did not happen."""

    incarnation: int
    first_correlation: int
    count: int
    reason: str
    leader: ServerId | None


class LeaderIs(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=35):
    """`leader` leads the cluster, and has applied its noop of `term` (docs/explanation/routing.md).

    Commands that were sent to a leader of an earlier term, and are unanswered when this arrives, have an
    unknown outcome. `uids` are the members on the node that this is for, or None if the leader cannot say:
    a server on that node that is not among them was removed (docs/explanation/identity.md).
    """

    cluster: str
    leader: ServerId
    term: Term
    cluster_id: str = ""
    uids: tuple[Uid, ...] | None = None


class NodeCall(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=36):
    """An administrative request of one node to another."""

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


class MemberRemoved(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=39):
    """That cluster was deleted (`uid` is empty), or that member of it was removed.

    A node that still runs such a server asks others, and deletes it if they confirm it
    (docs/explanation/identity.md).
    """

    cluster_id: str
    uid: str = ""


class ClockIs(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=40):
    """The sender's wall clock, in Unix milliseconds, when it sent this (docs/explanation/time.md)."""

    wall_ms: int


class MachineCode(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The version of a machine, and the fingerprint of the commands and queries that it knows."""

    version: int
    fingerprint: str


class MachinesAre(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=41):
    """The machines that the sender can run, by name."""

    machines: dict[str, MachineCode]


class RemovalAsked(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=42):
    """Was this member removed, or its cluster deleted (docs/explanation/identity.md)?

    Only a configuration at entry `since`, or a later one, can tell.
    """

    cluster_id: str
    uid: str
    since: Index


class RemovalAnswer(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=43):
    """What the sender's server has committed at `index`, or its tombstone says (then without `voters`).

    `removed` is false if that configuration lists the member. `voters` are the nodes of its voters; one empty
    name says that the sender had a member of this cluster, which was removed.
    """

    cluster_id: str
    uid: str
    removed: bool
    index: Index
    voters: tuple[str, ...]


class StateDigest(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=44):
    """The digest of the sender's member of a cluster at an entry (docs/explanation/snapshots.md)."""

    cluster: str
    cluster_id: str
    index: Index
    digest: int


class ProcessMessage(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=45):
    """A machine's `SendMsg` for one process of the receiving node: a number, or a name with incarnation 0."""

    to: int | str
    incarnation: int
    cluster: str
    message: msgspec.Raw


class WatchProcess(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=46):
    """The sender watches this process of the receiver: does it live? Repeated until there is an answer."""

    incarnation: int
    number: int


class ProcessIs(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=47):
    """A process of the sender lives (`reason` is empty), or has ended. An end is repeated until heard."""

    incarnation: int
    number: int
    reason: str = ""


class EndHeard(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=48):
    """The sender knows that this process of the receiver has ended."""

    incarnation: int
    number: int


NodeMessage: TypeAlias = (
    Alive
    | FrontReplies
    | FrontRejected
    | LeaderIs
    | NodeCall
    | NodeCallReply
    | FrontEvent
    | MemberRemoved
    | ClockIs
    | MachinesAre
    | RemovalAsked
    | RemovalAnswer
    | StateDigest
    | ProcessMessage
    | WatchProcess
    | ProcessIs
    | EndHeard
)
