"""The entries of one server in memory: batches in order, found by bisection.

Thousands exist, mostly empty, so an empty one owns no containers.
"""

from bisect import bisect_right
from typing import Protocol

from barque.core.entries import EntryBatch
from barque.types import NOWHERE, Index, IndexTerm, Term

_NONE: list[EntryBatch] = []
_NO_FIRSTS: list[int] = []


class Older(Protocol):
    """Answers for the entries that are no longer in memory."""

    def fetch_term(self, index: int) -> Term | None:
        """The term of the entry at `index`; None if it is not there."""

    def read(self, first: int, last: int, max_entries: int, max_bytes: int) -> list[EntryBatch]:
        """Consecutive batches from `first` on, as `Log.read` promises them."""


class Nothing:
    """Older entries of a log that has none."""

    def fetch_term(self, index: int) -> Term | None:
        """None: no entry is there."""

    def read(self, first: int, last: int, max_entries: int, max_bytes: int) -> list[EntryBatch]:
        """No batches."""
        return []


NOTHING = Nothing()


class Memtable:
    """Consecutive batches of non-decreasing terms, behind a *base*: the position before the first entry.

    What is below the base is asked of `older`. `_firsts[i]` is the first index of `_batches[i]`; both are
    shared empty lists, never changed, until the first append. `_last` repeats the position of the last entry,
    or the base, which a leader asks for ten times a command.
    """

    __slots__ = (
        *("_base", "_batches", "_firsts", "_last", "_older"),
        *("bytes_added", "bytes_removed", "entries_read", "fetches", "reads"),
    )

    def __init__(self, base: IndexTerm = NOWHERE, older: Older = NOTHING) -> None:
        self._base = base
        self._older = older
        self._batches = _NONE
        self._firsts = _NO_FIRSTS
        self._last = base
        # Counted: bytes of bodies, and for operators calls and entries.
        self.bytes_added = self.bytes_removed = 0
        self.reads = self.entries_read = self.fetches = 0

    def __len__(self) -> int:
        """The number of batches."""
        return len(self._batches)

    def base(self) -> IndexTerm:
        """The position before the first entry."""
        return self._base

    def last(self) -> IndexTerm:
        """The position of the last entry; the base when there is none."""
        return self._last

    def next_index(self) -> int:
        """The index behind the last entry."""
        return self._last.index + 1

    def append(self, batch: EntryBatch) -> IndexTerm:
        """Add a batch that starts right behind the last entry; returns the position of that entry."""
        previous = self._last
        assert batch.first_index == previous.index + 1, (batch.first_index, previous)
        if not self._firsts:
            self._batches = []
            self._firsts = []
        self._batches.append(batch)
        self._firsts.append(batch.first_index)
        self._last = IndexTerm(batch.last_index, batch.term)
        self.bytes_added += len(batch.body)
        return previous

    def truncate(self, last: int) -> None:
        """Forget every entry above index `last`, which is not below the base."""
        assert last >= self._base.index, (last, self._base)
        if last >= self._last.index:
            return
        if last == self._base.index:
            self.reset(self._base)
            return
        place = bisect_right(self._firsts, last) - 1
        batch = self._batches[place]
        self.bytes_removed += sum(len(gone.body) for gone in self._batches[place + 1 :])
        del self._batches[place + 1 :]
        del self._firsts[place + 1 :]
        if batch.last_index > last:
            batch = self._replace(place, batch.cut(batch.first_index, last))
        self._last = IndexTerm(batch.last_index, batch.term)

    def reset(self, base: IndexTerm) -> None:
        """Forget every entry, and go on behind `base`."""
        self._batches = _NONE
        self._firsts = _NO_FIRSTS
        self._base = self._last = base
        self.bytes_removed = self.bytes_added

    def _replace(self, place: int, part: EntryBatch) -> EntryBatch:
        """Keep a part of a batch only."""
        self.bytes_removed += len(self._batches[place].body) - len(part.body)
        self._batches[place] = part
        return part

    def forget(self, base: IndexTerm) -> None:
        """Let go of the entries up to `base`, one of them: `older` has them, or nobody needs them."""
        if base.index >= self._last.index:
            assert base == self._last, (base, self._last)
            self.reset(base)
            return
        if base.index <= self._base.index:
            return
        place = bisect_right(self._firsts, base.index + 1) - 1
        first = self._batches[place]
        self.bytes_removed += sum(len(gone.body) for gone in self._batches[:place])
        del self._batches[:place]
        del self._firsts[:place]
        if first.first_index <= base.index:
            self._replace(0, first.cut(base.index + 1, first.last_index))
            self._firsts[0] = base.index + 1
        self._base = base

    def fetch_term(self, index: int) -> Term | None:
        """The term of the entry at `index`, or of the base; None where there is no entry."""
        self.fetches += 1
        if index > self._last.index:
            return None
        if index <= self._base.index:
            return self._base.term if index == self._base.index else self._older.fetch_term(index)
        last = self._batches[-1]
        if index >= last.first_index:  # nearly always asked about the end
            return last.term
        return self._batches[bisect_right(self._firsts, index) - 1].term

    def read(self, first: int, last: int, max_entries: int, max_bytes: int) -> list[EntryBatch]:
        """Batches from `first` on, as `Log.read` promises them."""
        self.reads += 1
        if last > self._last.index:
            last = self._last.index
        if first > last:
            return []
        if first > self._base.index and last == self._last.index:
            newest = self._batches[-1]
            if first == newest.first_index and newest.count <= max_entries:  # nearly always, in a quiet log
                self.entries_read += newest.count
                return [newest]
        if first <= self._base.index:
            return self._read_older(first, last, max_entries, max_bytes)
        place = bisect_right(self._firsts, first) - 1
        batch = self._batches[place]
        end = min(last, batch.last_index, first + max(max_entries, 1) - 1)
        head = batch.cut(first, end)
        found = [head]
        entries = head.count
        self.entries_read += entries
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
            self.entries_read += batch.count
        return found

    def _read_older(self, first: int, last: int, max_entries: int, max_bytes: int) -> list[EntryBatch]:
        """Batches that begin below the base, and go on in memory if there is room."""
        found = self._older.read(first, min(last, self._base.index), max_entries, max_bytes)
        if not found or found[-1].last_index != self._base.index or last <= self._base.index:
            return found
        entries = max_entries - sum(batch.count for batch in found)
        size = max_bytes - sum(len(batch.body) for batch in found)
        for batch in self.read(self._base.index + 1, last, max_entries, max_bytes):
            entries -= batch.count
            size -= len(batch.body)
            if entries < 0 or size < 0:
                break
            found.append(batch)
        return found

    def batches(self, first: int, last: int) -> list[EntryBatch]:
        """The batches in memory that have entries from `first` to `last`, uncut."""
        if first > last or first > self._last.index:
            return []
        return self._batches[max(0, bisect_right(self._firsts, first) - 1) : bisect_right(self._firsts, last)]

    def position(self, index: Index) -> IndexTerm | None:
        """The position of the entry at `index`, if it is there."""
        term = self.fetch_term(index)
        return None if term is None else IndexTerm(index, term)

    def size_bytes(self) -> int:
        """How many bytes the bodies hold together."""
        return self.bytes_added - self.bytes_removed
