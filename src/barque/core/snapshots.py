"""What the core needs of snapshots (§5): what they stand for, and a store that keeps them.

The store with files comes with segments; until then a production log has none (`Log.snapshots`
is None) and nothing is truncated. `barque.testing` has one in memory.
"""

import enum
from collections.abc import Sequence
from typing import Protocol

import msgspec

from barque.core.entries import EntryBatch
from barque.types import Index, IndexTerm, MemberRecord


class SnapshotMeta(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a snapshot stands for (SNAP-03): everything up to `position`, and who the members were."""

    position: IndexTerm
    cluster: tuple[MemberRecord, ...]
    machine_version: int


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
        """Take piece `number`. One taken before is ignored; False for one that leaves a gap (S-4)."""

    def live_pending(self) -> bool:
        """Whether accepted live entries are not on disk yet (S-5)."""

    def complete_accept(self) -> bytes:
        """All pieces are there: make the snapshot current, and empty the log (S-6, LOG `install`).

        Returns the machine state.
        """

    def abort_accept(self) -> None:
        """Forget what was accepted, live entries too."""
