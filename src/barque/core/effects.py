"""What a server asks its runtime to do. Effects are values; their order in the list is the contract.

Nothing that follows a `PersistTermAndVote` may leave the node before that record is on disk: the
performer holds the rest of the list, and every later effect of the same server, until the meta
store has synced. docs/explanation/ordering.md has the counter-examples.
"""

import enum
from typing import Any, TypeAlias

import msgspec

from barque.core.entries import decode_head
from barque.core.log_contract import Accepts, ChunkState, SnapshotMeta
from barque.core.messages import (
    ApplyRest,
    ChunkOutcome,
    Commands,
    FlushCommands,
    Message,
    PipelineRpcs,
    PreVoteRpc,
    RemoteMessage,
    RequestVoteRpc,
)
from barque.machine.effects import MachineEffect
from barque.types import ClientRef, IndexTerm, ReplyMode, ServerId, Term, Uid


class TimerSpan(enum.StrEnum):
    """How long an election timer runs; the runtime draws the exact time (ELEC-17)."""

    REALLY_SHORT = "really_short"
    SHORT = "short"
    MEDIUM = "medium"
    LONG = "long"


class PersistTermAndVote(msgspec.Struct, frozen=True, gc=False):
    """Make (term, vote) durable, as one record, before anything later in this list."""

    term: Term
    voted_for: ServerId | None


class SendRpc(msgspec.Struct, frozen=True, gc=False):
    """Send a request or a reply to a member, without waiting; it may be dropped (REPL-21)."""

    to: ServerId
    message: RemoteMessage


class SendVoteRequests(msgspec.Struct, frozen=True, gc=False):
    """Ask other members for their (pre-)votes."""

    requests: tuple[tuple[ServerId, RequestVoteRpc | PreVoteRpc], ...]


class NextEvent(msgspec.Struct, frozen=True, gc=False):
    """Handle this message right after the present one, in whatever state the server is by then."""

    message: Message


class Defer(msgspec.Struct, frozen=True, gc=False):
    """Handle this message once, after all input that has already arrived (CMD-06, REPL-07).

    One round of replication and one flush of low-priority commands serve everything that one turn brings.
    What is left to apply waits for the next turn, so that other work comes between.
    """

    message: PipelineRpcs | FlushCommands | ApplyRest


class Applied(msgspec.Struct, frozen=True, gc=False):
    """Answers to consecutive correlations of one origin (CMD-09, CMD-10).

    `replies` are the machine's values, or (index, term) pairs for `after_log_append`.
    An entry in `errors` (offset → text) says that this command was refused by the machine's decoder.
    """

    to: ClientRef
    first_correlation: int
    replies: list[Any]
    errors: dict[int, str] | None = None


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """These commands or queries did not happen and will not (CMD-12, CMD-14, L-8).

    `reason` is one of the names in `Rejection`; `leader` is the member to ask instead.
    """

    to: ClientRef
    first_correlation: int
    count: int
    reason: str
    leader: ServerId | None = None


class StartElectionTimeout(msgspec.Struct, frozen=True, gc=False):
    """Arm the election timer, unless one is armed (ELEC-16 to ELEC-18)."""

    span: TimerSpan = TimerSpan.LONG


class CancelElectionTimeout(msgspec.Struct, frozen=True, gc=False):
    """Disarm the election timer: the leader was heard from (ELEC-19), or its node is up again (FD-03)."""


class StartConditionTimeout(msgspec.Struct, frozen=True, gc=False):
    """Send `AwaitConditionTimeout` after so long in this state (TIME-02)."""

    after_ms: int


class LeaderEstablished(msgspec.Struct, frozen=True, gc=False):
    """This leader has applied its term's noop, and with it every entry of earlier terms that survived."""

    term: Term


class AuxEval(msgspec.Struct, frozen=True, gc=False):
    """Commit or apply moved on; the aux machine may want to know (COMMIT-06)."""


class Unresolved(msgspec.Struct, frozen=True, gc=False):
    """These commands are in the log of a leader that stepped down: a later leader may commit them, or not.

    Their callers hear that the outcome is unknown. `Rejected` would claim that nothing happened.
    """

    to: ClientRef
    first_correlation: int
    count: int


class StartQuorumTimeout(msgspec.Struct, frozen=True, gc=False):
    """Send `QuorumTimeout` after an election timeout, from now on (check-quorum)."""


class SendSnapshot(msgspec.Struct, frozen=True, gc=False):
    """Begin to send this member the present snapshot, chunk by chunk (SEND-01)."""

    to: ServerId
    meta: SnapshotMeta
    term: Term


class SnapshotAcked(msgspec.Struct, frozen=True, gc=False):
    """A member has answered a chunk of the snapshot at `position`, which we sent in this term.

    Its sender sends the next chunk, waits on, or has come to its end.
    """

    member: ServerId
    position: IndexTerm
    chunk: ChunkState
    outcome: ChunkOutcome
    accepts: Accepts | None = None


class TendSnapshots(msgspec.Struct, frozen=True, gc=False):
    """A tick passed while snapshots are sent: repeat chunks without an answer, and give up in the end."""


class StartSnapshotRetry(msgspec.Struct, frozen=True, gc=False):
    """Send `SnapshotRetryTimeout` for this member after so long (SEND-07)."""

    member: ServerId
    after_ms: int


class CancelSnapshotRetry(msgspec.Struct, frozen=True, gc=False):
    """Cancel the retry: this member is sent something now (ELEC-10)."""

    member: ServerId


class StartReceiveTimeout(msgspec.Struct, frozen=True, gc=False):
    """Send `ReceiveSnapshotTimeout` after so long without a chunk, from now on (TIME-04)."""

    after_ms: int


class StopReason(enum.Enum):
    """Why a server stops itself."""

    REMOVED = "removed"
    """Its cluster has removed it (MEMB-13)."""
    DELETED = "deleted"
    """Its cluster was deleted, by consensus (LIFE-06)."""


class StopServer(msgspec.Struct, frozen=True, gc=False):
    """Stop this server. It handles no further messages."""

    reason: StopReason


class MembersGone(msgspec.Struct, frozen=True, gc=False):
    """The removal of these servers is committed; their nodes may stop them."""

    members: tuple[tuple[ServerId, Uid | None], ...]


class TermRefused(msgspec.Struct, frozen=True, gc=False):
    """A message names a term that no cluster reaches by elections; it was dropped."""

    sender: ServerId
    term: Term


Effect: TypeAlias = (
    PersistTermAndVote
    | SendRpc
    | SendVoteRequests
    | NextEvent
    | Defer
    | TermRefused
    | Applied
    | Rejected
    | StartElectionTimeout
    | CancelElectionTimeout
    | StartConditionTimeout
    | LeaderEstablished
    | AuxEval
    | Unresolved
    | StartQuorumTimeout
    | SendSnapshot
    | SnapshotAcked
    | TendSnapshots
    | StartSnapshotRetry
    | CancelSnapshotRetry
    | StartReceiveTimeout
    | StopServer
    | MembersGone
    | MachineEffect
)


class Rejection:
    """The names of refusals, as they travel on the wire."""

    NOT_LEADER = "not_leader"
    WAL_DOWN = "wal_down"
    DISK_FULL = "disk_full"
    UNKNOWN_MEMBER = "unknown_member"
    NOT_UP_TO_DATE = "not_up_to_date"
    NON_VOTER = "non_voter"
    UNKNOWN_CLUSTER = "unknown_cluster"
    STOPPED = "stopped"
    NO_QUORUM = "no_quorum"
    OUTCOME_UNKNOWN = "outcome_unknown"
    """Not a refusal, but it travels like one: `Unresolved`."""
    REPLY_NOT_SENT = "reply_not_sent"
    """Not a refusal either: the command happened, and the machine's reply cannot travel."""
    CHANGE_NOT_PERMITTED = "change_not_permitted"
    ALREADY_MEMBER = "already_member"
    MISSING_UID = "missing_uid"
    WRONG_UID = "wrong_uid"
    LAST_VOTER = "last_voter"
    WOULD_LOSE_QUORUM = "would_lose_quorum"
    AUX_NOT_IMPLEMENTED = "aux_handler_not_implemented"


def refuse_commands(commands: Commands, reason: str, leader: ServerId | None) -> list[Effect]:
    """Tell the callers, if any wait, that these commands did not happen."""
    head = decode_head(commands.body)
    if head.reply_mode is ReplyMode.NOREPLY:
        return []
    return [Rejected(head.origin, head.first_correlation, commands.count, reason, leader)]
