"""What the core needs of a log (ra-server semantics §11). The core owns its log.

Appends go to the memtable at once and to the disk later; the `Written` message says when.
Reads come from memory. The production log is `barque.log`; tests use the in-memory one in
`barque.testing`.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from barque.core.entries import BATCH_ENTRIES_MAX, BODY_BYTES_MAX, EntryBatch
from barque.core.messages import LogEvent
from barque.core.snapshots import Snapshots
from barque.errors import WalDown
from barque.types import Index, IndexTerm, Term, Uid

__all__ = ["Log", "WalDown", "read_batches"]


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
        """Take what the disk reports. A report about entries that are no more is dropped."""

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
