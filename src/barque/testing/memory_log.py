"""A log in memory whose disk is a decision of the test: the naive model of `core.log_contract`."""

from collections.abc import Sequence
from typing import Any

from barque.core.entries import EntryBatch
from barque.core.log_contract import WalDown
from barque.core.messages import LogEvent, ResendWrite, WalFailed, WalUp, Written
from barque.types import NOWHERE, Index, IndexTerm, Term, Uid


class MemoryLog:
    """One entry for each list slot. `take_written` says what a sync now would make durable."""

    def __init__(self, uid: Uid) -> None:
        self._uid = uid
        self.entries: list[EntryBatch] = []
        self._written = NOWHERE
        self._submitted: list[Written] = []
        self._up = True

    @property
    def uid(self) -> Uid:
        """The server whose log this is."""
        return self._uid

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
            self.entries += [batch.cut(i, i) for i in range(batch.first_index, batch.last_index + 1)]
            self._submitted.append(Written(self._uid, batch.term, batch.first_index, batch.last_index))

    def set_last_index(self, index: Index) -> None:
        """See `Log.set_last_index`."""
        del self.entries[index:]
        if self._written.index > index:
            self._written = self.last_index_term()

    def last_index_term(self) -> IndexTerm:
        """See `Log.last_index_term`."""
        if not self.entries:
            return NOWHERE
        return IndexTerm(self.entries[-1].first_index, self.entries[-1].term)

    def last_written(self) -> IndexTerm:
        """See `Log.last_written`."""
        return self._written

    def next_index(self) -> Index:
        """See `Log.next_index`."""
        return Index(len(self.entries) + 1)

    def snapshot_index_term(self) -> IndexTerm:
        """No snapshots here."""
        return NOWHERE

    def fetch_term(self, index: Index) -> Term | None:
        """See `Log.fetch_term`."""
        if index == 0:
            return Term(0)
        return self.entries[index - 1].term if 0 < index <= len(self.entries) else None

    def read(self, first: Index, last: Index, max_entries: int, max_bytes: int) -> list[EntryBatch]:
        """See `Log.read`."""
        found: list[EntryBatch] = []
        size = 0
        for entry in self.entries[first - 1 : min(last, first - 1 + max_entries)]:
            size += len(entry.body)
            if found and size > max_bytes:
                break
            found.append(entry)
        return found

    def handle_event(self, event: LogEvent) -> None:
        """See `Log.handle_event`: only what is still in the log, in that term, is written."""
        match event:
            case Written():
                last = event.last
                while last >= event.first and self.fetch_term(last) != event.term:
                    last = Index(last - 1)
                if last >= event.first and last > self._written.index >= event.first - 1:
                    self._written = IndexTerm(last, event.term)
            case WalFailed():
                self._up = False
                self._submitted.clear()
            case WalUp():
                self._up = True
                for entry in self.entries[self._written.index :]:
                    self._submitted.append(
                        Written(self._uid, entry.term, entry.first_index, entry.first_index)
                    )
            case ResendWrite():
                pass  # nothing gets lost between this log and its disk

    def can_write(self) -> bool:
        """See `Log.can_write`."""
        return self._up

    def take_written(self) -> list[Written]:
        """Sync: everything submitted so far is durable; hand these to the server."""
        events, self._submitted = self._submitted, []
        return events

    def crash(self) -> None:
        """Lose what is not durable."""
        self._submitted.clear()
        del self.entries[self._written.index :]

    def overview(self) -> dict[str, Any]:
        """See `Log.overview`."""
        return {"entries": len(self.entries), "last_written": self._written.index}
