"""Everything a server can be told: Raft's RPCs, its timers, its disk and its callers.

One frozen class each, with Figure 2's names. Those here travel between nodes
(docs/protocol/wire.md); those of `events` never leave their process. A message that claims to
come from a server carries that server's id, and the transport checks it against the connection.
"""

from typing import TypeAlias

import msgspec

from barque.core.entries import EntryBatch
from barque.core.events import (
    AppendNoop as AppendNoop,
)
from barque.core.events import (
    AwaitConditionTimeout as AwaitConditionTimeout,
)
from barque.core.events import (
    ClientDown as ClientDown,
)
from barque.core.events import (
    Component as Component,
)
from barque.core.events import (
    ElectionTimeout as ElectionTimeout,
)
from barque.core.events import (
    FlushCommands as FlushCommands,
)
from barque.core.events import (
    ForceMemberChange as ForceMemberChange,
)
from barque.core.events import (
    LogEvent as LogEvent,
)
from barque.core.events import (
    MachineAppend as MachineAppend,
)
from barque.core.events import (
    MachineTimeout as MachineTimeout,
)
from barque.core.events import (
    NodeEvent as NodeEvent,
)
from barque.core.events import (
    NodeStatus as NodeStatus,
)
from barque.core.events import (
    PipelineRpcs as PipelineRpcs,
)
from barque.core.events import (
    QuorumTimeout as QuorumTimeout,
)
from barque.core.events import (
    ReceiveSnapshotTimeout as ReceiveSnapshotTimeout,
)
from barque.core.events import (
    ResendWrite as ResendWrite,
)
from barque.core.events import (
    SenderOutcome as SenderOutcome,
)
from barque.core.events import (
    SnapshotRetryTimeout as SnapshotRetryTimeout,
)
from barque.core.events import (
    SnapshotSenderDown as SnapshotSenderDown,
)
from barque.core.events import (
    SnapshotWritten as SnapshotWritten,
)
from barque.core.events import (
    Tick as Tick,
)
from barque.core.events import (
    WalFailed as WalFailed,
)
from barque.core.events import (
    WalUp as WalUp,
)
from barque.core.events import (
    Written as Written,
)
from barque.core.snapshots import ChunkState, SnapshotMeta
from barque.types import (
    ClientRef,
    Index,
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
    """Figure 2, RequestVote arguments; `named`: the candidate's log says that it is a member (MEMB-10)."""

    term: Term
    candidate_id: ServerId
    last_log_index: Index
    last_log_term: Term
    named: bool = False


class RequestVoteResult(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Figure 2, RequestVote results. Counted by voter, so that a copy counts once."""

    sender: ServerId
    term: Term
    vote_granted: bool


class PreVoteRpc(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Would you vote for me? (§9.6). `token` names the round: terms cannot; `named` as above."""

    version: int
    machine_version: int
    term: Term
    token: int
    candidate_id: ServerId
    last_log_index: Index
    last_log_term: Term
    named: bool = False


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
    """Figure 3.13, InstallSnapshot: one chunk. `entries` belong to `PRE`, `data` to the pieces."""

    term: Term
    leader_id: ServerId
    meta: SnapshotMeta
    chunk: ChunkState
    data: bytes = b""
    entries: tuple[EntryBatch, ...] = ()


class InstallSnapshotResult(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """The answer to one chunk (SEND-04). After `LAST` it says that the snapshot is installed.

    Ra's sender is a process that is answered directly; ours reads `chunk` to know what was answered.
    """

    sender: ServerId
    term: Term
    last_index: Index
    last_term: Term
    chunk: ChunkState


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
    which a promotable member becomes a voter; None means the index of the change itself.
    """

    origin: ClientRef
    correlation: int
    reply_mode: ReplyMode
    member: ServerId
    uid: Uid | None = None
    membership: Membership = Membership.VOTER
    target: Index | None = None


class LeaveMember(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=17):
    """Asks the leader to remove a member, itself perhaps (MEMB-12)."""

    origin: ClientRef
    correlation: int
    reply_mode: ReplyMode
    member: ServerId


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
    """The answer: of the keys asked for, those that the member knows."""

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
"""What servers say to each other. Each names its sender; see `senders`."""

FromClient: TypeAlias = (
    Commands | Queries | TransferLeadership | JoinMember | LeaveMember | DeleteCluster | AuxCommand
)
"""What a node's front asks of a server, for somebody who waits."""

RemoteMessage: TypeAlias = FromServer | FromClient
"""What one server may send to another, or a node's front to a server."""


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
    | ForceMemberChange
    | QuorumTimeout
    | ReceiveSnapshotTimeout
    | SnapshotSenderDown
    | SnapshotRetryTimeout
    | ClientDown
    | NodeEvent
)
Message: TypeAlias = RemoteMessage | LocalMessage
"""Everything a role's handler must have an answer for."""

NEWS = (ServerDown, NodeStatus)
"""What changes the mind of a server by whom it follows, and is said once.

A message that came before may still wait behind what is being stored (`NextEvent`), and make it follow the
very server that is gone. So while effects wait for the disk, news waits behind them.
"""
