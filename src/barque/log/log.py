"""One server's log: its memtable, and how much of it is on disk (`barque.core.log_contract.Log`).

A `Written` event confirms entries only if it names their term, and only as far as the memtable still holds
these entries (historical bugs 21 and 22 of Ra: a truncation that leaves `last_written` high, and a late
event that confirms overwritten entries).
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

from barque.core.entries import EntryBatch
from barque.core.log_contract import Snapshots
from barque.core.messages import (
    AcceptFailed,
    LogEvent,
    ResendWrite,
    SnapshotAccepted,
    SnapshotFailed,
    SnapshotWritten,
    WalFailed,
    WalUp,
    Written,
)
from barque.errors import WalDown
from barque.log.memtable import Memtable
from barque.log.wal import Wal
from barque.types import NOWHERE, Index, IndexTerm, Term, Uid

_UNBOUNDED = 1 << 62


class _NoSnapshots:
    """No snapshots."""

    def current(self) -> None:
        """No snapshot."""

    def recovery_point(self, log: object) -> None:
        """No snapshot, no checkpoint."""

    def wants(self, kind: object, index: Index) -> bool:
        """Never."""
        return False

    def promote_checkpoint(self, index: Index) -> bool:
        """Nothing to promote."""
        return False


_NONE = cast(Snapshots, _NoSnapshots())


class WalLog:
    """The production log. Everything above `_last_written` is pending: submitted, not confirmed.

    Invariant: `_last_written` is a position of the memtable, or (0, 0).
    """

    __slots__ = (
        "_last_written",
        "_memtable",
        "_uid",
        "_wal",
        "fetch_term",
        "last_index_term",
        "next_index",
        "read",
    )

    def __init__(self, uid: Uid, wal: Wal, memtable: Memtable) -> None:
        self._uid = uid
        self._wal = wal
        self._memtable = memtable
        self._last_written = memtable.last()
        # The memtable answers these. Bound once: a server asks twenty times for each command.
        self.last_index_term = memtable.last
        """The last entry in memory; (0, 0) for an empty log."""
        self.next_index = cast(Callable[[], Index], memtable.next_index)
        """The index that the next appended entry will have."""
        self.fetch_term: Callable[[Index], Term | None] = memtable.fetch_term
        """The term of the entry at an index; None outside the log (position 0 has term 0)."""
        self.read: Callable[[Index, Index, int, int], list[EntryBatch]] = memtable.read
        """Consecutive batches from the first index on, within the bounds that the contract names."""
        wal.register(uid, self._last_written.index)

    @property
    def uid(self) -> Uid:
        """The server whose log this is."""
        return self._uid

    @property
    def snapshots(self) -> Snapshots:
        """The snapshots beside this log."""
        return _NONE

    def install(self, position: IndexTerm) -> None:
        """Nothing is ever installed here."""
        raise AssertionError(f"no snapshot at {position} can have been accepted")

    def first_index(self) -> Index:
        """The first entry of the log."""
        return Index(1)

    def read_sparse(self, indexes: Sequence[Index]) -> list[EntryBatch]:
        """The entries at these indexes, as far as they are there."""
        return [batch for index in indexes for batch in self.read(index, index, 1, _UNBOUNDED)]

    def append(self, batch: EntryBatch) -> None:
        """Leader: add a batch that starts at `next_index()`. Raises `WalDown`."""
        if not self._wal.accepting:
            raise WalDown(f"the write-ahead log has failed: {self._wal.failed_reason}")
        self._wal.submit(self._uid, self._memtable.append(batch), batch)

    def write(self, batches: Sequence[EntryBatch]) -> None:
        """Follower: add consecutive batches, replacing what they overlap (REPL-20). Raises `WalDown`."""
        if not self._wal.accepting:
            raise WalDown(f"the write-ahead log has failed: {self._wal.failed_reason}")
        if not batches:
            return
        first = batches[0].first_index
        assert 1 <= first <= self._memtable.next_index(), (first, self._memtable.next_index())
        self._truncate(first - 1)
        for batch in batches:
            self._wal.submit(self._uid, self._memtable.append(batch), batch)

    def set_last_index(self, index: Index) -> None:
        """Forget every entry above `index` (LOG-07).

        Nothing is written: until the next append, a restart brings the forgotten entries
        back. That is safe. The server then is in a state in which it was before, except that
        its term and vote are newer; the entries were made by the leaders of their terms, so
        log matching holds; no leader counts them, as only what is reported after the restart
        is counted, and they conflict with a newer leader's log only until that leader
        overwrites them, as it would have done had its message come after the crash. An append
        that follows, in this process, is recorded behind `index` and truncates at recovery.
        """
        assert 0 <= index < self._memtable.next_index(), (index, self._memtable.next_index())
        self._truncate(index)

    def _truncate(self, last: int) -> None:
        self._memtable.truncate(last)
        if last < self._last_written.index:  # at once: removed entries must not be counted
            self._last_written = self._position(last)

    def _position(self, index: int) -> IndexTerm:
        term = self._memtable.fetch_term(index)
        assert term is not None, index
        return IndexTerm(Index(index), term)

    def last_written(self) -> IndexTerm:
        """The last entry known to be on disk, with everything before it."""
        return self._last_written

    def snapshot_index_term(self) -> IndexTerm:
        """(0, 0): this release keeps all entries and takes no snapshots."""
        return NOWHERE

    def handle_event(self, event: LogEvent) -> None:
        """Take a report of the disk. Drop it if its entries were replaced."""
        match event:
            case Written():
                if event.uid == self._uid:
                    self._on_written(event)
            case ResendWrite():
                if event.uid == self._uid:
                    self._submit_from(event.index)
            case SnapshotWritten() | SnapshotFailed() | SnapshotAccepted() | AcceptFailed():
                pass
            case WalUp() | WalFailed():
                pass  # the storage has all pending entries written again before it reports `WalUp`

    def _on_written(self, event: Written) -> None:
        """Confirm the entries of the event that the memtable still holds (§11)."""
        confirmed = self._last_written.index
        if event.first > confirmed + 1:
            # Events come in the order of the entries, so an event in between was lost.
            self.resubmit()
            return
        last = min(event.last, self._memtable.next_index() - 1)
        # Terms never decrease along a log, so one term at both ends means one term throughout.
        if last <= confirmed or self._memtable.fetch_term(confirmed + 1) != event.term:
            return
        while self._memtable.fetch_term(last) != event.term:
            last -= 1  # rare: the tail was overwritten while it was being synced
        self._last_written = IndexTerm(Index(last), event.term)

    def resubmit(self) -> None:
        """Hand every pending entry to the write-ahead log again, from the memtable."""
        confirmed = self._last_written.index
        self._wal.register(self._uid, confirmed)
        self._submit_from(confirmed + 1)

    def _submit_from(self, first: int) -> None:
        last = self._memtable.next_index() - 1
        previous = self._position(first - 1)
        for batch in self._memtable.read(first, last, _UNBOUNDED, _UNBOUNDED):
            self._wal.submit(self._uid, previous, batch)
            previous = IndexTerm(batch.last_index, batch.term)

    def can_write(self) -> bool:
        """Whether the write-ahead log accepts writes."""
        return self._wal.accepting

    def overview(self) -> dict[str, Any]:
        """Facts for an operator: positions, and sizes in bytes."""
        last = self.last_index_term()
        return {
            "last_index": last.index,
            "last_term": last.term,
            "last_written_index": self._last_written.index,
            "last_written_term": self._last_written.term,
            "first_index": 1 if last.index else 0,
            "batches": len(self._memtable),
            "size_bytes": self._memtable.size_bytes(),
            "can_write": self.can_write(),
        }
