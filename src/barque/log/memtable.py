"""The entries of one server in memory: batches in order, found by bisection.

Thousands exist, mostly empty, so an empty one owns no containers.
"""

from bisect import bisect_right

from barque.core.entries import EntryBatch
from barque.types import NOWHERE, IndexTerm, Term

_NONE: list[EntryBatch] = []
_NO_FIRSTS: list[int] = []


class Memtable:
    """Consecutive batches of non-decreasing terms; the first entry has index 1.

    `_firsts[i]` is the first index of `_batches[i]`. Both are shared empty lists, never changed, until the
    first append. `_last` repeats the position of the last entry, which a leader asks for ten times a command.
    """

    __slots__ = ("_batches", "_firsts", "_last")

    def __init__(self) -> None:
        self._batches = _NONE
        self._firsts = _NO_FIRSTS
        self._last = NOWHERE

    def __len__(self) -> int:
        """The number of batches."""
        return len(self._batches)

    def last(self) -> IndexTerm:
        """The position of the last entry; (0, 0) when there is none."""
        return self._last

    def next_index(self) -> int:
        """The index behind the last entry."""
        return self._last.index + 1

    def append(self, batch: EntryBatch) -> None:
        """Add a batch that starts right behind the last entry."""
        assert batch.first_index == self._last.index + 1, (batch.first_index, self._last)
        if not self._firsts:
            self._batches = []
            self._firsts = []
        self._batches.append(batch)
        self._firsts.append(batch.first_index)
        self._last = IndexTerm(batch.last_index, batch.term)

    def truncate(self, last: int) -> None:
        """Forget every entry above index `last`."""
        if last >= self._last.index:
            return
        if last <= 0:
            self._batches = _NONE
            self._firsts = _NO_FIRSTS
            self._last = NOWHERE
            return
        place = bisect_right(self._firsts, last) - 1
        batch = self._batches[place]
        del self._batches[place + 1 :]
        del self._firsts[place + 1 :]
        if batch.last_index > last:
            batch = self._batches[place] = batch.cut(batch.first_index, last)
        self._last = IndexTerm(batch.last_index, batch.term)

    def fetch_term(self, index: int) -> Term | None:
        """The term of the entry at `index`; 0 at index 0, None where there is no entry."""
        if index <= 0:
            return Term(0) if index == 0 else None
        if index > self._last.index:
            return None
        last = self._batches[-1]
        if index >= last.first_index:  # nearly always asked about the end
            return last.term
        return self._batches[bisect_right(self._firsts, index) - 1].term

    def read(self, first: int, last: int, max_entries: int, max_bytes: int) -> list[EntryBatch]:
        """Batches from `first` on, as `Log.read` promises them."""
        if last > self._last.index:
            last = self._last.index
        if first > last or first < 1:
            return []
        place = bisect_right(self._firsts, first) - 1
        batch = self._batches[place]
        end = min(last, batch.last_index, first + max(max_entries, 1) - 1)
        head = batch.cut(first, end)
        found = [head]
        entries = head.count
        size = len(head.body)
        if end < batch.last_index:
            return found
        for i in range(place + 1, len(self._batches)):
            batch = self._batches[i]
            if batch.first_index > last:
                break
            if batch.last_index > last:
                batch = batch.cut(batch.first_index, last)
            entries += batch.count
            size += len(batch.body)
            if entries > max_entries or size > max_bytes:
                break
            found.append(batch)
        return found

    def size_bytes(self) -> int:
        """How many bytes the bodies hold together."""
        return sum(len(batch.body) for batch in self._batches)
