"""What the core needs of storage: a log (semantics §11), the snapshots beside it, and what both hold.

The core owns its log. Appends go to memory at once and to the disk later; the `Written` message says
when. Reads come from memory. The production log is `barque.log`; it has no snapshots yet
(`Log.snapshots` is None), so nothing is truncated there. `barque.testing` has both in memory.
"""

import enum
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import msgspec

from barque.core.entries import BATCH_ENTRIES_MAX, BODY_BYTES_MAX, EntryBatch
from barque.core.events import LogEvent
from barque.errors import WalDown
from barque.types import Index, IndexTerm, MemberRecord, Term, Uid

__all__ = [
    "ChunkFlag",
    "ChunkState",
    "Found",
    "Log",
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
    """Only if live entries follow: drop everything that is not applied."""
    PRE = 1
    """Live entries, which survive the truncation."""
    NEXT = 2
    """A piece of the snapshot; more follow."""
    LAST = 3
    """The last piece: install it."""


class ChunkState(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The number of a chunk and its place. Pieces of the snapshot count from 1; init and pre are 0."""

    number: int
    flag: ChunkFlag


class Snapshots(Protocol):
    """The snapshots of one server, beside its log. No method waits for a disk.

    At most one snapshot is being written and one accepted at a time. Any method may raise
    `StorageError`; nothing has changed then.
    """

    def current(self) -> SnapshotMeta | None:
        """The newest complete snapshot."""

    def load(self) -> bytes:
        """The machine state of `current()`, as the machine encoded it."""

    def release(self, meta: SnapshotMeta, state: bytes, live: Sequence[Index]) -> bool:
        """Write a snapshot, if one is worth it now (SNAP-01); `SnapshotWritten` says when it is there.

        Entries at `live` survive the truncation (MAC-12). False if it was not begun.
        """

    def checkpoint(self, meta: SnapshotMeta, state: bytes) -> bool:
        """Keep a state without truncating anything (CKPT-01). False if it was not begun."""

    def promote_checkpoint(self, index: Index) -> bool:
        """Make the newest checkpoint at or below `index` the snapshot (CKPT-02). False if there is none."""

    def live_entries(self) -> list[EntryBatch]:
        """The entries below `current()` that survived it, oldest first (SEND-05)."""

    def chunk(self, number: int) -> tuple[bytes, bool] | None:
        """Piece `number` (from 1) of `current()`, and whether it is the last; None beyond the end."""

    # --- receiving -----------------------------------------------------------------------

    def begin_accept(self, meta: SnapshotMeta) -> None:
        """Make room for a snapshot from the leader. What was being accepted is forgotten."""

    def accept_live(self, entries: Sequence[EntryBatch]) -> None:
        """Write entries that the snapshot does not hold, gaps between them allowed (S-3, LOG-04)."""

    def accept_chunk(self, number: int, data: bytes) -> bool:
        """Take piece `number`, or ignore it if it was taken before. False if it leaves a gap (S-4)."""

    def live_pending(self) -> bool:
        """Whether accepted live entries are not on disk yet (S-5)."""

    def complete_accept(self) -> bytes:
        """All pieces are there: make the snapshot current, and empty the log (S-6, LOG `install`).

        Returns the machine state.
        """

    def abort_accept(self) -> None:
        """Forget what was accepted, live entries too."""


class Log(Protocol):
    """One server's log. All methods are synchronous and touch no disk themselves."""

    @property
    def uid(self) -> Uid:
        """The server whose log this is."""

    @property
    def snapshots(self) -> Snapshots | None:
        """The snapshots beside this log; None where there cannot be any yet."""

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

    def last_index_term(self) -> IndexTerm:
        """The last entry in memory; the snapshot's, or (0, 0), for an empty log."""

    def last_written(self) -> IndexTerm:
        """The last entry known to be on disk, with everything before it."""

    def next_index(self) -> Index:
        """The index that the next appended entry will have."""

    def snapshot_index_term(self) -> IndexTerm:
        """The position of the snapshot that stands for the entries before it; (0, 0) for none."""

    def fetch_term(self, index: Index) -> Term | None:
        """The term of the entry at `index`; None outside the log (position 0 has term 0)."""

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
