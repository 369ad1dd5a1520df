"""Everything a server can be told: Raft's RPCs, its timers, its disk and its callers.

One frozen class each, with Figure 2's names. Classes with a `tag` travel between nodes
(docs/protocol/wire.md); the others never leave their process. A message that claims to come
from a server carries that server's id, and the transport checks it against the connection.
"""

from typing import TypeAlias, assert_never

import msgspec

from barque.core.entries import EntryBatch
from barque.types import ClientRef, Index, IndexTerm, ServerId, Term, Uid

PROTOCOL_VERSION = 1


class AppendEntriesRpc(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Figure 2, AppendEntries arguments. `entries` are consecutive and may be empty."""

    term: Term
    leader_id: ServerId
    leader_commit: Index
    prev_log_index: Index
    prev_log_term: Term
    entries: tuple[EntryBatch, ...] = ()


class AppendEntriesReply(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Figure 2, AppendEntries results, and where the follower stands (REPL-02).

    `next_index` is the index it expects next; (`last_index`, `last_term`) is its last
    entry that is on disk, and so the only thing the leader may count.
    """

    sender: ServerId
    term: Term
    success: bool
    next_index: Index
    last_index: Index
    last_term: Term


class RequestVoteRpc(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Figure 2, RequestVote arguments."""

    term: Term
    candidate_id: ServerId
    last_log_index: Index
    last_log_term: Term


class RequestVoteResult(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Figure 2, RequestVote results. Counted by voter, so that a copy counts once."""

    sender: ServerId
    term: Term
    vote_granted: bool


class PreVoteRpc(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Would you vote for me? (§9.6). `token` names the round: terms cannot."""

    version: int
    machine_version: int
    term: Term
    token: int
    candidate_id: ServerId
    last_log_index: Index
    last_log_term: Term


class PreVoteResult(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """The answer to one round of pre-votes."""

    sender: ServerId
    term: Term
    token: int
    vote_granted: bool


class HeartbeatRpc(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """Proof of leadership for consistent queries (§6.4); never sent without one."""

    query_index: int
    term: Term
    leader_id: ServerId


class HeartbeatReply(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=8):
    """Echoes the query index of the heartbeat it answers (QRY-08)."""

    sender: ServerId
    query_index: int
    term: Term


class InstallSnapshotRpc(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=9):
    """Figure 3.13, InstallSnapshot. Reserved: nothing sends it yet; receivers refuse it."""

    term: Term
    leader_id: ServerId
    last_included: IndexTerm


class InstallSnapshotResult(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """The answer to `InstallSnapshotRpc`. Reserved with it."""

    sender: ServerId
    term: Term
    last_index: Index
    last_term: Term


class Commands(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=11):
    """User commands of one origin, encoded once (CMD-02).

    `body` is an entry-batch body (docs/formats/entry-batch.md) and holds reply mode, origin
    and first correlation. `low_priority` commands queue behind normal ones (CMD-06).
    """

    count: int
    body: bytes
    low_priority: bool = False


class Queries(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=12):
    """Reads of one origin, for a leader to answer (QRY-03, QRY-04).

    `payloads` are encoded queries; number `i` has the correlation `first_correlation + i`.
    `consistent` asks for proof of leadership before the answer.
    """

    origin: ClientRef
    first_correlation: int
    payloads: tuple[bytes, ...]
    consistent: bool


class TransferLeadership(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=13):
    """Asks the leader to hand over to `target` (§3.10)."""

    origin: ClientRef
    correlation: int
    target: ServerId


class TimeoutNow(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=14):
    """§3.10: the present leader asks this member to start an election at once."""

    leader_id: ServerId


class ServerDown(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=15):
    """The server that sends this has stopped, or its process is gone (MON-04).

    `connected` tells a server that failed in a living node from a node out of reach.
    """

    server: ServerId
    connected: bool


RemoteMessage: TypeAlias = (
    AppendEntriesRpc
    | AppendEntriesReply
    | RequestVoteRpc
    | RequestVoteResult
    | PreVoteRpc
    | PreVoteResult
    | HeartbeatRpc
    | HeartbeatReply
    | InstallSnapshotRpc
    | InstallSnapshotResult
    | Commands
    | Queries
    | TransferLeadership
    | TimeoutNow
    | ServerDown
)
"""What one server may send to another, or a node's front to a server."""


class Written(msgspec.Struct, frozen=True, gc=False):
    """The log's entries `first … last`, all of `term`, are on disk (LOG-09).

    Names what it completes: a `written` of another uid, term or range than the log's
    present one is dropped.
    """

    uid: Uid
    term: Term
    first: Index
    last: Index


class ResendWrite(msgspec.Struct, frozen=True, gc=False):
    """The write-ahead log misses this server's entries from `index` on (WAL-11)."""

    uid: Uid
    index: Index


class WalUp(msgspec.Struct, frozen=True, gc=False):
    """The write-ahead log accepts writes again, after a failure."""


class WalFailed(msgspec.Struct, frozen=True, gc=False):
    """The write-ahead log stopped: nothing more is durable until `WalUp`."""

    reason: str


class ElectionTimeout(msgspec.Struct, frozen=True, gc=False):
    """No leader was heard from in time, or a person asked for an election."""


class AwaitConditionTimeout(msgspec.Struct, frozen=True, gc=False):
    """The condition that this server awaits did not come true in time."""


class AppendNoop(msgspec.Struct, frozen=True, gc=False):
    """A new leader's first entry; it carries the machine version to use from here on (ELEC-23)."""

    machine_version: int


class FlushCommands(msgspec.Struct, frozen=True, gc=False):
    """Append the next few low-priority commands (CMD-06)."""


class PipelineRpcs(msgspec.Struct, frozen=True, gc=False):
    """Send each peer what it is missing (REPL-07)."""


class Tick(msgspec.Struct, frozen=True, gc=False):
    """Look after unfinished business. `now_ms` is Unix milliseconds."""

    now_ms: int


class MachineTimeout(msgspec.Struct, frozen=True, gc=False):
    """A timer that the machine set has expired (EFF-09)."""

    name: str


class MachineAppend(msgspec.Struct, frozen=True, gc=False):
    """The machine asked, by an effect, for a command to be appended (EFF-04)."""

    payload: bytes


class NodeStatus(msgspec.Struct, frozen=True, gc=False):
    """The failure detector's opinion of a node has changed (FD-03)."""

    node: str
    up: bool


LogEvent: TypeAlias = Written | ResendWrite | WalUp | WalFailed
LocalMessage: TypeAlias = (
    LogEvent
    | ElectionTimeout
    | AwaitConditionTimeout
    | AppendNoop
    | FlushCommands
    | PipelineRpcs
    | Tick
    | MachineTimeout
    | MachineAppend
    | NodeStatus
)
Message: TypeAlias = RemoteMessage | LocalMessage
"""Everything a role's handler must have an answer for."""


def claimed_node(message: RemoteMessage) -> str | None:
    """The node that this message claims to come from; None where it claims nothing."""
    match message:
        case AppendEntriesRpc() | HeartbeatRpc() | InstallSnapshotRpc() | TimeoutNow():
            return message.leader_id.node
        case (
            AppendEntriesReply()
            | HeartbeatReply()
            | RequestVoteResult()
            | PreVoteResult()
            | InstallSnapshotResult()
        ):
            return message.sender.node
        case RequestVoteRpc() | PreVoteRpc():
            return message.candidate_id.node
        case ServerDown():
            return message.server.node
        case Queries() | TransferLeadership():
            return message.origin.node
        case Commands():
            return None  # its origin is inside the body; the receiver checks it there
        case _:
            assert_never(message)
