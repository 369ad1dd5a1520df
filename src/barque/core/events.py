"""Messages inside one process: from a server's disk, timers, machine and node.

One frozen class each. None of these travels.
"""

import enum
from typing import TypeAlias

import msgspec

from barque.types import ClientRef, Index, IndexTerm, Pid, ReplyTo, ServerId, Term, Uid


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
    """The election timer expired, or an operator asked for an election."""


class AwaitConditionTimeout(msgspec.Struct, frozen=True, gc=False):
    """The condition that this server awaits did not come true in time."""


class AppendNoop(msgspec.Struct, frozen=True, gc=False):
    """A new leader's first entry; it carries the machine version to use from here on (ELEC-23)."""

    machine_version: int


class ApplyRest(msgspec.Struct, frozen=True, gc=False):
    """Apply committed entries that were too many for one step."""


class FlushCommands(msgspec.Struct, frozen=True, gc=False):
    """Append the next few low-priority commands (CMD-06)."""


class PipelineRpcs(msgspec.Struct, frozen=True, gc=False):
    """Send each peer the entries that it lacks (REPL-07)."""


class Tick(msgspec.Struct, frozen=True, gc=False):
    """Look after unfinished business. `now_ms` is Unix milliseconds."""

    now_ms: int


class MachineTimeout(msgspec.Struct, frozen=True, gc=False):
    """A timer that the machine set has expired (EFF-09)."""

    name: str


class MachineAppend(msgspec.Struct, frozen=True, gc=False):
    """The machine asked, by an effect, for a command to be appended (EFF-04).

    Its reply goes to `reply_to`, if that is given.
    """

    payload: bytes
    reply_to: ReplyTo | None = None


class NodeStatus(msgspec.Struct, frozen=True, gc=False):
    """The failure detector's opinion of a node has changed (FD-03)."""

    node: str
    up: bool


class SnapshotKind(enum.Enum):
    """What a written state is for."""

    SNAPSHOT = "snapshot"
    """It stands for the entries that it covers, which the log may drop."""
    CHECKPOINT = "checkpoint"
    """A faster start, and perhaps a later snapshot; the log keeps its entries (CKPT-01)."""
    RECOVERY = "recovery checkpoint"
    """Written by an orderly stop, for the next start (CKPT-06)."""


class SnapshotWritten(msgspec.Struct, frozen=True, gc=False):
    """The snapshot or checkpoint at this position is durable (SNAP-05).

    `digest` is equal on all members whose states are; None if the snapshot has none.
    """

    uid: Uid
    kind: SnapshotKind
    position: IndexTerm
    digest: int | None = None


class SnapshotFailed(msgspec.Struct, frozen=True, gc=False):
    """The snapshot or checkpoint at this position was not written, and nothing of it is left (SNAP-05)."""

    uid: Uid
    kind: SnapshotKind
    position: IndexTerm
    reason: str


class SnapshotAccepted(msgspec.Struct, frozen=True, gc=False):
    """The snapshot that is being accepted is on disk, and its state is restored: install it (S-6)."""

    uid: Uid
    position: IndexTerm


class AcceptFailed(msgspec.Struct, frozen=True, gc=False):
    """The snapshot that was being accepted cannot be used: it is damaged, or the disk refused."""

    uid: Uid
    position: IndexTerm
    reason: str


class ForceMemberChange(msgspec.Struct, frozen=True, gc=False):
    """The quorum is lost for good: let this member alone be the cluster (MEMB-15)."""

    origin: ClientRef
    correlation: int


class QuorumTimeout(msgspec.Struct, frozen=True, gc=False):
    """A leader that suspects a lost quorum has counted answers for long enough."""


class ReceiveSnapshotTimeout(msgspec.Struct, frozen=True, gc=False):
    """No chunk has come for too long (TIME-04)."""


class SenderOutcome(enum.Enum):
    """How the sending of a snapshot ended."""

    NORMAL = "normal"
    FAILED = "failed"
    DISCONNECTED = "disconnected"


class SnapshotSenderDown(msgspec.Struct, frozen=True, gc=False):
    """The transfer of a snapshot to this member has ended: done, failed, or never connected (SEND-07)."""

    member: ServerId
    outcome: SenderOutcome


class SnapshotRetryTimeout(msgspec.Struct, frozen=True, gc=False):
    """Try to send this member its snapshot again (L-17)."""

    member: ServerId


class Component(enum.Enum):
    """The part of a server that monitors something (MON-01)."""

    MACHINE = "machine"
    AUX = "aux"


class ProcessDown(msgspec.Struct, frozen=True, gc=False):
    """A watched process has ended, or its node is out of reach (MON-02)."""

    component: Component
    pid: Pid
    reason: str


class NodeEvent(msgspec.Struct, frozen=True, gc=False):
    """A watched node came within reach, or went out of it (MON-03)."""

    component: Component
    node: str
    up: bool


LogEvent: TypeAlias = (
    Written
    | ResendWrite
    | WalUp
    | WalFailed
    | SnapshotWritten
    | SnapshotFailed
    | SnapshotAccepted
    | AcceptFailed
)
