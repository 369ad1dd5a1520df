"""Every message that a server handles: Raft's RPCs, requests of clients, and local events.

One frozen class each, with Figure 2's names. The classes here travel between nodes
(docs/protocol/wire.md); those of `events` never leave their process. A message from a server
carries that server's id, and the transport checks the id against the connection.
"""

import enum
from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypeAlias

import msgspec

from barque.core.entries import EntryBatch
from barque.core.events import (
    AcceptFailed as AcceptFailed,
    AppendNoop as AppendNoop,
    ApplyRest as ApplyRest,
    AwaitConditionTimeout as AwaitConditionTimeout,
    Component as Component,
    ElectionTimeout as ElectionTimeout,
    FlushCommands as FlushCommands,
    ForceMemberChange as ForceMemberChange,
    LogEvent as LogEvent,
    MachineAppend as MachineAppend,
    MachineTimeout as MachineTimeout,
    NodeEvent as NodeEvent,
    NodeStatus as NodeStatus,
    PipelineRpcs as PipelineRpcs,
    ProcessDown as ProcessDown,
    QuorumTimeout as QuorumTimeout,
    ReceiveSnapshotTimeout as ReceiveSnapshotTimeout,
    ResendWrite as ResendWrite,
    SenderOutcome as SenderOutcome,
    SnapshotAccepted as SnapshotAccepted,
    SnapshotFailed as SnapshotFailed,
    SnapshotKind as SnapshotKind,
    SnapshotRetryTimeout as SnapshotRetryTimeout,
    SnapshotSenderDown as SnapshotSenderDown,
    SnapshotWritten as SnapshotWritten,
    Tick as Tick,
    WalFailed as WalFailed,
    WalUp as WalUp,
    Written as Written,
)
from barque.core.log_contract import Accepts, ChunkState, SnapshotMeta
from barque.types import (
    ClientRef,
    Index,
    IndexTerm,
    Membership,
    ReplyMode,
    ServerId,
    Term,
    Uid,
)

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
    entry that is on disk, and so the only thing the leader may count. It repeats its commit
    index until `commit_index` says that it has arrived.
    """

    sender: ServerId
    term: Term
    success: bool
    next_index: Index
    last_index: Index
    last_term: Term
    commit_index: Index = Index(0)


class RequestVoteRpc(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Figure 2, RequestVote arguments. `in_own_config`: the candidate's log lists it (MEMB-10)."""

    term: Term
    candidate_id: ServerId
    last_log_index: Index
    last_log_term: Term
    in_own_config: bool = False


class RequestVoteResult(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Figure 2, RequestVote results. Counted by voter, so that a copy counts once."""

    sender: ServerId
    term: Term
    vote_granted: bool


class PreVoteRpc(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """A trial election's question (§9.6). `token` names the round, since rounds change no term."""

    version: int
    machine_version: int
    term: Term
    token: int
    candidate_id: ServerId
    last_log_index: Index
    last_log_term: Term
    in_own_config: bool = False


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
    """Figure 3.13, InstallSnapshot: one chunk. `entries` belong to `PRE`, `data` to the pieces.

    `packing` says how `data` is compressed (`core.packing`).
    """

    term: Term
    leader_id: ServerId
    meta: SnapshotMeta
    chunk: ChunkState
    data: bytes = b""
    entries: tuple[EntryBatch, ...] = ()
    packing: int = 0


class ChunkOutcome(enum.IntEnum):
    """What became of a chunk."""

    TAKEN = 0
    """It is here, and the next one may come."""
    WORKING = 1
    """All pieces are here; they are being checked and synced, and the state restored."""
    INSTALLED = 2
    """The snapshot is installed, durably."""
    REFUSED = 3
    """Not taken: the receiver's term is higher, or it does not know the beginning of this transfer."""
    AHEAD = 4
    """Not needed: the receiver has applied as much already."""


class InstallSnapshotResult(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """The answer to one chunk (SEND-04). It says what it answers, so that no late one passes for another.

    `request_term` is the term of the leader that sent the chunk; `position` is its snapshot's. `accepts`
    answers an announcement.
    """

    sender: ServerId
    term: Term
    request_term: Term
    position: IndexTerm
    chunk: ChunkState
    outcome: ChunkOutcome
    accepts: Accepts | None = None


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


class JoinMember(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=16):
    """Asks the leader to add a member, or to change what one may do (MEMB-05, MEMB-07).

    `uid` names the server that is meant; a promotable member needs it. `target` is the index at
    which a promotable member becomes a voter; None means the index of the change itself. `force`: even if
    too few voters are up afterwards.
    """

    origin: ClientRef
    correlation: int
    reply_mode: ReplyMode
    member: ServerId
    uid: Uid | None = None
    membership: Membership = Membership.VOTER
    target: Index | None = None
    force: bool = False


class LeaveMember(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=17):
    """Asks the leader to remove a member, itself perhaps (MEMB-12). `force`: as for `JoinMember`."""

    origin: ClientRef
    correlation: int
    reply_mode: ReplyMode
    member: ServerId
    force: bool = False


class DeleteCluster(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=18):
    """Asks the leader to delete the cluster, by consensus (CMD-20, LIFE-06)."""

    origin: ClientRef
    correlation: int
    reply_mode: ReplyMode


class InfoRpc(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=19):
    """A leader asks a member about itself (VER-05). Known keys: `machine_version`, `uid`."""

    sender: ServerId
    term: Term
    keys: tuple[str, ...]


class InfoReply(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=20):
    """The values of the requested keys that the member knows."""

    sender: ServerId
    term: Term
    keys: tuple[str, ...]
    info: dict[str, int | str]


class AuxCommand(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=21):
    """A value for the aux machine of one member (AUX-02, L-13).

    `origin` is nobody for a cast. `consistent` asks for proof of leadership first (QRY-05, L-24).
    """

    origin: ClientRef
    correlation: int
    payload: bytes
    consistent: bool = False


FromServer: TypeAlias = (
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
    | TimeoutNow
    | ServerDown
    | InfoRpc
    | InfoReply
)
"""The messages between servers. Each names its sender; `terms` has a row for each."""

FromClient: TypeAlias = (
    Commands | Queries | TransferLeadership | JoinMember | LeaveMember | DeleteCluster | AuxCommand
)
"""Requests that a node's request router sends to a server for a client."""

RemoteMessage: TypeAlias = FromServer | FromClient
"""What one server may send to another, or a node's request router to a server."""

LocalMessage: TypeAlias = (
    LogEvent
    | ElectionTimeout
    | AwaitConditionTimeout
    | AppendNoop
    | ApplyRest
    | FlushCommands
    | PipelineRpcs
    | Tick
    | MachineTimeout
    | MachineAppend
    | NodeStatus
    | ForceMemberChange
    | QuorumTimeout
    | ReceiveSnapshotTimeout
    | SnapshotSenderDown
    | SnapshotRetryTimeout
    | ProcessDown
    | NodeEvent
)
Message: TypeAlias = RemoteMessage | LocalMessage
"""Every message: each role's table has a row for each of them."""

LIVENESS_EVENTS = (ServerDown, NodeStatus)
"""One-shot events that change which leader a server follows. Nobody repeats them.

An earlier message may still wait for the meta store (`NextEvent`) and make the server follow the very
leader that is gone. So while effects wait for the disk, these events wait behind them.
"""


# --- whom a message claims to come from --------------------------------------------------------

SENDER_OF: dict[type[Any], Callable[[Any], ServerId]] = {
    **dict.fromkeys(
        (AppendEntriesRpc, HeartbeatRpc, InstallSnapshotRpc, TimeoutNow), attrgetter("leader_id")
    ),
    **dict.fromkeys((RequestVoteRpc, PreVoteRpc), attrgetter("candidate_id")),
    **dict.fromkeys(
        (
            *(InfoRpc, InfoReply, AppendEntriesReply, HeartbeatReply),
            *(InstallSnapshotResult, RequestVoteResult, PreVoteResult),
        ),
        attrgetter("sender"),
    ),
    ServerDown: attrgetter("server"),
}
"""The server that each message of a server claims to come from."""
_FROM_CLIENT = (Queries, TransferLeadership, JoinMember, LeaveMember, DeleteCluster, AuxCommand)


def claimed_node(message: object) -> str | None:
    """The node that a message claims to come from; None if it claims nothing.

    Commands do, inside their body; the receiver checks it there.
    """
    sender_of = SENDER_OF.get(type(message))
    if sender_of is not None:
        return sender_of(message).node
    return message.origin.node if isinstance(message, _FROM_CLIENT) else None
