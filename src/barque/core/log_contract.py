"""What the core needs of storage: a log (semantics §11), the snapshots beside it, and what both hold.

The core owns its log. Appends go to memory at once and to the disk later; the `Written` message says
when. Reads come from memory, and older entries from segment files. The production log is `barque.log`;
`barque.testing` has one in memory.
"""

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import msgspec

from barque.core.entries import BATCH_ENTRIES_MAX, BODY_BYTES_MAX, EntryBatch
from barque.core.events import LogEvent, SnapshotKind
from barque.errors import WalDown
from barque.machine.snapshot_module import BoundModule, ModuleCapture
from barque.types import Index, IndexTerm, MemberRecord, Term, Uid

__all__ = [
    "Accepts",
    "Capture",
    "ChunkFlag",
    "ChunkState",
    "Found",
    "Log",
    "NotReadyError",
    "Outgoing",
    "Restore",
    "SnapshotKind",
    "SnapshotMeta",
    "Snapshots",
    "WalDown",
    "find_entry",
    "read_batches",
]


class SnapshotMeta(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a snapshot stands for (SNAP-03): everything up to `position`, as it was there.

    The members with their uids, the machine version and the machine's time (Unix ms) are those of that entry,
    not of the moment of writing: `apply` must not be able to tell a restart from a snapshot from a replay.
    `sessions` is room for a table of client sessions; nothing writes it yet.
    """

    position: IndexTerm
    cluster: tuple[MemberRecord, ...]
    machine_version: int
    machine_time_ms: int = 0
    sessions: bytes = b""


class ChunkFlag(enum.IntEnum):
    """Where in a transfer a chunk stands (SEND-03, SEND-05)."""

    INIT = 0
    """An announcement: live entries follow, or the sender must know what the receiver accepts."""
    PRE = 1
    """Live entries, which survive the truncation."""
    NEXT = 2
    """A piece of the snapshot; more follow."""
    LAST = 3
    """The last piece: install it."""


class ChunkState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The number of a chunk and its place.

    An announcement is 0. Chunks of live entries, if there are any, and pieces of the snapshot count from 1 in
    one row, so a receiver that has missed live entries finds a gap at the first piece.
    """

    number: int
    flag: ChunkFlag


Restore: TypeAlias = Callable[[Iterator[bytes]], Any]
"""Makes a machine's state of its encoded pieces, in order. The store may call it in another thread."""

Capture: TypeAlias = Iterable[bytes] | ModuleCapture
"""A state as it was at one entry: encoded pieces, or what a machine's snapshot module will write."""


class Accepts(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a receiver can take: the answer to the announcement of a snapshot (SEND-02).

    `module` is the name of its machine's snapshot module, or empty; `context` is the module's, a msgpack map.
    """

    packings: tuple[int, ...] = ()
    module: str = ""
    module_version: int = 0
    context: bytes = b"\x80"


class NotReadyError(Exception):
    """The next piece is still being read; the sender hears of it when it is there."""


class Outgoing(Protocol):
    """A snapshot that is being sent. Its files stay until `close`, whatever replaces it (SEND-06)."""

    meta: SnapshotMeta
    module: bool
    """Whether a snapshot module wrote it. It is announced first: what the receiver accepts must be known."""

    def agree(self, accepts: Accepts) -> None:
        """Take what the receiver said. Raises `StorageError` if it cannot use this snapshot."""

    def chunk(self, number: int) -> tuple[bytes, bool] | None:
        """Piece `number` (from 1) of the snapshot's bytes, and whether it is the last; None beyond the end.

        Asked for the same piece again, it returns the same bytes. Raises `StorageError`, and `NotReadyError`.
        """

    def live(self, after: Index, count: int) -> list[EntryBatch]:
        """The next entries that survived below the snapshot, at most `count`, behind index `after` (SEND-05).

        Empty behind the last one. Raises `StorageError` if one is missing: absent is not empty.
        """

    def close(self) -> None:
        """The transfer is over, one way or the other. Closing twice is harmless."""


class Snapshots(Protocol):
    """The snapshots of one server, beside its log. Only `load` waits for a disk for long.

    At most one snapshot or checkpoint is being written and one accepted at a time. Newer never gives way to
    older: a snapshot at or below the current one replaces nothing, whatever the order of completions. The
    methods that send and receive may raise `StorageError`, and nothing has changed then; those that make
    snapshots do not raise: what fails is told by an event, or not begun.
    """

    def current(self) -> SnapshotMeta | None:
        """The newest complete snapshot."""

    def recovery_point(self, log: "Log") -> SnapshotMeta | None:
        """Where a start begins: the newest snapshot, or checkpoint in this log (CKPT-04, CKPT-07).

        A checkpoint replaces no entries, so one beyond the log's end, or of another term, does not count.
        """

    def load(self, meta: SnapshotMeta, restore: Restore, module: BoundModule | None = None) -> Any:
        """The machine state of a recovery point. Raises what `restore` raises.

        If a snapshot module wrote it, `module` reads it, and nothing else can (`StorageError`).
        """

    # --- making --------------------------------------------------------------------------

    def wants(self, kind: SnapshotKind, index: Index) -> bool:
        """Whether one at this index is due (SNAP-01, CKPT-01, CKPT-06). Cheap: asked before a capture."""

    def begin(self, kind: SnapshotKind, meta: SnapshotMeta, pieces: Capture, live: Sequence[Index]) -> bool:
        """Write it, outside the loop; `SnapshotWritten` or `SnapshotFailed` says how that ended.

        `pieces` is iterated once, or written by its module, in another thread. Entries at `live` (ascending)
        survive the truncation (MAC-12). A recovery checkpoint is complete when this returns. False if it was
        not begun.
        """

    def promote_checkpoint(self, index: Index) -> bool:
        """Make the newest checkpoint at or below `index` the snapshot (CKPT-02). False if there is none."""

    # --- sending -------------------------------------------------------------------------

    def open_outgoing(
        self, module: BoundModule | None = None, ready: Callable[[], None] = lambda: None
    ) -> Outgoing:
        """Begin to send the current snapshot, which must exist.

        `module` is the machine's. `ready` is called on the loop when a piece is there that was not.
        """

    def doubt(self, position: IndexTerm) -> None:
        """Look, outside the loop, whether the snapshot at this position is still what was written.

        If it is damaged, `open_outgoing` raises `StorageError` until a newer one is there, and that is due at
        once. Nothing happens if it is no longer the current one.
        """

    # --- receiving -----------------------------------------------------------------------

    def begin_accept(self, meta: SnapshotMeta) -> None:
        """Make room for a snapshot from the leader. What was being accepted is forgotten."""

    def accept_live(self, entries: Sequence[EntryBatch]) -> None:
        """Take entries that survive below the snapshot: ascending, with gaps between them (S-3)."""

    def accept_chunk(self, number: int, data: bytes) -> bool:
        """Take piece `number`, or ignore it if it was taken before. False if it leaves a gap (S-4)."""

    def complete_accept(self, restore: Restore, module: BoundModule | None = None) -> None:
        """All pieces are there: check them and restore the state, outside the loop (S-5).

        `SnapshotAccepted` or `AcceptFailed` says how that ended; after `abort_accept`, neither comes.
        """

    def install_accepted(self) -> Any:
        """Make the accepted snapshot the current one, durably; returns the machine state (S-6).

        The caller then empties the log (`Log.install`). A crash in between is completed by recovery.
        """

    def abort_accept(self) -> None:
        """Forget what was accepted, live entries too."""


class Log(Protocol):
    """One server's log. All methods are synchronous and touch no disk themselves."""

    @property
    def uid(self) -> Uid:
        """The server whose log this is."""

    @property
    def snapshots(self) -> Snapshots:
        """The snapshots beside this log."""

    def append(self, batch: EntryBatch) -> None:
        """Leader: add a batch that starts at `next_index()`.

        Raises `WalDown`, having changed nothing, while `can_write()` is false. Any other
        first index is our bug (assert).
        """

    def write(self, batches: Sequence[EntryBatch]) -> None:
        """Follower: add consecutive batches, the first at or below `next_index()`.

        Entries at and above the first index are replaced, and `last_written()` falls below
        it at once (REPL-20). Raises `WalDown` as `append` does.
        """

    def set_last_index(self, index: Index) -> None:
        """Forget every entry above `index`, which must exist, be the snapshot's, or 0 (LOG-07)."""

    def install(self, position: IndexTerm) -> None:
        """A received snapshot has replaced the log: hold nothing but what follows its position (RECV-08)."""

    def first_index(self) -> Index:
        """The first entry of the run without a gap up to the log's end; `next_index()` for an empty log.

        At most the snapshot's index + 1: entries below may be kept for peers that lag.
        """

    def last_index_term(self) -> IndexTerm:
        """The last entry in memory; the snapshot's, or (0, 0), for an empty log."""

    def last_written(self) -> IndexTerm:
        """The last entry known to be on disk, with everything before it."""

    def next_index(self) -> Index:
        """The index that the next appended entry will have."""

    def snapshot_index_term(self) -> IndexTerm:
        """The position of the snapshot that stands for the entries before it; (0, 0) for none."""

    def fetch_term(self, index: Index) -> Term | None:
        """The term of the entry at `index`, or of the snapshot's position.

        None for any other index outside the log, also for survivors below it; position 0 has term 0.
        """

    def read_sparse(self, indexes: Sequence[Index]) -> list[EntryBatch]:
        """The entries at these indexes, one batch each, in this order; survivors below the snapshot too.

        Entries that are not there are left out (LOG-12). May read files.
        """

    def read(self, first: Index, last: Index, max_entries: int, max_bytes: int) -> list[EntryBatch]:
        """Consecutive batches from `first` on, cut to the range, at least one if `first` exists.

        Stops before the batch that would exceed `max_entries` or `max_bytes`; a first batch of more than
        `max_entries` is cut. Empty when `first` is beyond `last` or the end of the log.
        """

    def handle_event(self, event: LogEvent) -> None:
        """Take what the disk reports. A report about entries that were replaced is dropped."""

    def can_write(self) -> bool:
        """Whether the write-ahead log accepts writes."""

    def overview(self) -> dict[str, Any]:
        """Facts for people: ranges, sizes, positions."""

    def counters(self) -> dict[str, int]:
        """What it has counted. Cheap: monitoring asks for thousands of logs."""


def read_batches(log: Log, first: Index, last: Index) -> Iterator[EntryBatch]:
    """All batches from `first` to `last`, cut to this range, in portions that fit into memory.

    Nothing may be replaced in the log meanwhile. A gap is our bug (assert).
    """
    while first <= last:
        batches = log.read(first, last, BATCH_ENTRIES_MAX, BODY_BYTES_MAX)
        assert batches, f"a log without gaps holds entry {first}"
        yield from batches
        first = Index(batches[-1].last_index + 1)


class Found(enum.Enum):
    """What a log holds at a position."""

    OK = "ok"
    MISSING = "missing"
    MISMATCH = "mismatch"


def find_entry(log: Log, index: Index, term: Term) -> Found:
    """Whether this very entry is in the log, or is the last one that its snapshot covers (§3.5)."""
    ours = log.fetch_term(index)
    if ours is None:
        snapshot = log.snapshot_index_term()
        if snapshot.index != index:
            return Found.MISSING
        ours = snapshot.term
    return Found.OK if ours == term else Found.MISMATCH
