"""A log in memory whose disk syncs when the test says so: the naive model of `core.log_contract`."""

from collections.abc import Sequence
from typing import Any

from barque.core.entries import EntryBatch
from barque.core.log_contract import SnapshotKind, WalDown
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
from barque.testing.core.memory_snapshots import MemorySnapshots
from barque.types import NOWHERE, Index, IndexTerm, Term, Uid

_HOLE = EntryBatch(Index(0), Term(0), 1, 0, b"")
"""In the place of an entry that a snapshot stands for."""


class MemoryLog:
    """One list slot for each entry, beside the batch that it came in, and a disk that lags behind.

    The log submits writes in order. `take_written` makes them durable and returns what the disk would report.
    `crash` loses the writes that are not durable; it may keep the first few, which were never reported.
    """

    def __init__(self, uid: Uid) -> None:
        self.uid = uid  # the server that owns this log
        self.entries: list[EntryBatch] = []
        self._batches: list[EntryBatch] = []  # for each entry, its batch
        self.disk: list[EntryBatch] = []
        self._disk_batches: list[EntryBatch] = []
        self._last = NOWHERE  # the end of `entries`: each step reads it several times
        self._written = NOWHERE
        self._submitted: list[EntryBatch] = []
        self._up = True
        self._start = NOWHERE  # the snapshot that replaces all earlier entries
        self._snapshots = MemorySnapshots(self)

    @property
    def snapshots(self) -> MemorySnapshots:
        """See `Log.snapshots`."""
        return self._snapshots

    def append(self, batch: EntryBatch) -> None:
        """See `Log.append`."""
        assert batch.first_index == self.next_index(), (batch.first_index, self.next_index())
        self._add([batch])

    def write(self, batches: Sequence[EntryBatch]) -> None:
        """See `Log.write`."""
        if not self._up:
            raise WalDown("the write-ahead log is down")
        first = batches[0].first_index
        assert first <= self.next_index(), (first, self.next_index())
        if first < self.next_index():
            self.set_last_index(Index(first - 1))
        self._add(batches)

    def _add(self, batches: Sequence[EntryBatch]) -> None:
        if not self._up:
            raise WalDown("the write-ahead log is down")
        for batch in batches:
            assert batch.first_index == self.next_index(), (batch.first_index, self.next_index())
            self.entries += _single(batch)
            self._batches += [batch] * batch.count
            self._submitted.append(batch)
        self._find_end()

    def set_last_index(self, index: Index) -> None:
        """See `Log.set_last_index`. The disk learns of it with the next write."""
        assert index >= self._start.index, "the log does not begin so early"
        self.truncate(index)
        if self._written.index > index:
            self._written = self._last

    def truncate(self, index: Index) -> None:
        """Drop the entries after an index, whatever is known to be written."""
        del self.entries[index:]
        del self._batches[index:]
        self._find_end()

    def _find_end(self) -> None:
        if len(self.entries) == self._start.index:
            self._last = self._start
        else:
            self._last = IndexTerm(self.entries[-1].first_index, self.entries[-1].term)

    def install(self, position: IndexTerm) -> None:
        """See `Log.install`. The store has done it already, memory and disk at once."""
        assert self._start == position

    def first_index(self) -> Index:
        """See `Log.first_index`."""
        return Index(self._start.index + 1)

    def last_index_term(self) -> IndexTerm:
        """See `Log.last_index_term`."""
        return self._last

    def last_written(self) -> IndexTerm:
        """See `Log.last_written`."""
        return self._written

    def next_index(self) -> Index:
        """See `Log.next_index`."""
        return Index(len(self.entries) + 1)

    def snapshot_index_term(self) -> IndexTerm:
        """See `Log.snapshot_index_term`."""
        return self._start

    def fetch_term(self, index: Index) -> Term | None:
        """See `Log.fetch_term`."""
        if index in (0, self._start.index):
            return self._start.term if index else Term(0)
        return self.entries[index - 1].term if self._start.index < index <= len(self.entries) else None

    def read(self, first: Index, last: Index, max_entries: int, max_bytes: int) -> list[EntryBatch]:
        """See `Log.read`."""
        found: list[EntryBatch] = []
        entries = size = 0
        last = min(last, self.last_index_term().index)
        if first <= self._start.index:
            return []
        while first <= last:
            end = first
            while end < last and self._batches[end] is self._batches[first - 1]:
                end = Index(end + 1)
            if not found:
                end = min(end, Index(first + max(1, max_entries) - 1))
            batch = self._batches[first - 1].cut(first, end)
            entries += batch.count
            size += len(batch.body)
            if found and (entries > max_entries or size > max_bytes):
                break
            found.append(batch)
            first = Index(end + 1)
        return found

    def read_sparse(self, indexes: Sequence[Index]) -> list[EntryBatch]:
        """See `Log.read_sparse`."""
        live = {batch.first_index: batch for batch in self._snapshots.live_entries()}
        found = []
        for index in indexes:
            if index > self._start.index:
                found += self.read(index, index, 1, 1 << 30)
            elif index in live:
                found.append(live[index])
        return found

    def holds(self, position: IndexTerm) -> bool:
        """Whether this very entry is in the log."""
        return position.index > self._start.index and self.fetch_term(position.index) == position.term

    def handle_event(self, event: LogEvent) -> None:
        """See `Log.handle_event`. Only entries that are still in the log, in that term, count as written."""
        match event:
            case Written():
                self._on_written(event)
            case WalFailed():
                self._up = False
                self._submitted.clear()
            case WalUp():
                self._up = True
                self._submitted += self.entries[self._written.index :]
            case SnapshotWritten():
                if event.kind is SnapshotKind.SNAPSHOT and event.position.index > self._start.index:
                    self._start = event.position
                    if self._written.index < self._start.index:
                        self._written = self._start
            case SnapshotFailed() | SnapshotAccepted() | AcceptFailed():
                pass  # nothing of the log has changed
            case ResendWrite():
                pass  # this log and its disk lose nothing between them

    def _on_written(self, event: Written) -> None:
        confirmed = self._written.index
        last = min(event.last, self.last_index_term().index)
        if event.uid != self.uid or last <= confirmed:
            return
        if event.first > confirmed + 1:  # a report in between came to nothing, as its entries were replaced
            self._submitted = list(self.entries[confirmed:])
            return
        if self.fetch_term(Index(confirmed + 1)) != event.term:
            return
        while self.fetch_term(last) != event.term:
            last = Index(last - 1)
        self._written = IndexTerm(last, event.term)

    def can_write(self) -> bool:
        """Whether the write-ahead log accepts writes."""
        return self._up

    # --- the disk --------------------------------------------------------------------------

    @property
    def unsynced(self) -> int:
        """How many submitted writes, and snapshots, are not durable."""
        return len(self._submitted) + self._snapshots.unsynced

    def start_after(self, position: IndexTerm) -> None:
        """Replace the whole log by a received snapshot, in memory and on the disk at once.

        The entries that the snapshot replaces become holes, so that positions in the lists stay indexes.
        """
        self._start = self._written = position
        for entries, batches in ((self.entries, self._batches), (self.disk, self._disk_batches)):
            entries[:] = batches[:] = [_HOLE] * position.index
        self._find_end()
        self._submitted.clear()

    def take_written(self) -> list[LogEvent]:
        """Sync: make all submitted writes durable, and return the events for the server."""
        events: list[LogEvent] = [*self._snapshots.sync()]
        self._pad_disk()
        for batch in self._submitted:
            self._to_disk(batch)
            events.append(Written(self.uid, batch.term, batch.first_index, batch.last_index))
        self._submitted = []
        return events

    def _pad_disk(self) -> None:
        """A snapshot may reach beyond the durable entries; it stands for them too."""
        meta = self._snapshots.current()
        missing = (meta.position.index if meta is not None else 0) - len(self.disk)
        self.disk += [_HOLE] * missing
        self._disk_batches += [_HOLE] * missing

    def _to_disk(self, batch: EntryBatch) -> None:
        first = batch.first_index
        assert first <= len(self.disk) + 1, "the disk misses entries"
        self.disk[first - 1 :] = _single(batch)
        self._disk_batches[first - 1 :] = [batch] * batch.count

    def crash(self, keep: int = 0) -> None:
        """Lose what is not durable, except for the first `keep` submitted writes."""
        for batch in self._submitted[:keep]:
            self._to_disk(batch)
        self._submitted.clear()
        self._snapshots.crash()
        meta = self._snapshots.current()
        self._start = NOWHERE if meta is None else meta.position
        self.entries, self._batches = list(self.disk), list(self._disk_batches)
        self._find_end()
        self._written = self._last
        self._up = True

    def load(self, entries: list[EntryBatch]) -> None:
        """Hold exactly these entries, each in a batch of its own, all durable."""
        self.disk, self._disk_batches = list(entries), list(entries)
        self.crash()

    def overview(self) -> dict[str, Any]:
        """See `Log.overview`."""
        kept = len(self.entries) - self._start.index
        return {"entries": kept, "last_written": self._written.index, "snapshot_index": self._start.index}

    def counters(self) -> dict[str, int]:
        """See `Log.counters`. Nothing is counted."""
        return {}


def _single(batch: EntryBatch) -> list[EntryBatch]:
    return [batch.cut(i, i) for i in range(batch.first_index, batch.last_index + 1)]
