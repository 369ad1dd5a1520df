"""How segments, the view of the write-ahead log and the snapshot join (docs/explanation/recovery.md)."""

from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, strategies as st

from barque.log.reconcile import Joined, Missing, Stored, View, reconcile
from barque.types import NOWHERE, Index, IndexTerm, Term


def at(index: int, term: int) -> IndexTerm:
    """A position."""
    return IndexTerm(Index(index), Term(term))


def segments(*parts: dict[int, int]) -> Stored:
    """Files, each with the terms of its entries by index."""
    terms = {index: Term(term) for part in parts for index, term in part.items()}
    ranges = [(min(part), max(part)) for part in parts]
    gappy = [len(part) != max(part) - min(part) + 1 for part in parts]
    return Stored(ranges, gappy, terms.get)


def run(first: int, last: int, term: int) -> dict[int, int]:
    """Entries of one term."""
    return dict.fromkeys(range(first, last + 1), term)


def view(base: IndexTerm, entries: dict[int, int]) -> View:
    """The view of these entries."""
    terms = {index: Term(term) for index, term in entries.items()}
    return View(base, at(max(entries), entries[max(entries)]), terms.get)


def joined(last: int, join: IndexTerm, *, view: bool, untrusted: int = 0) -> Joined:
    """What is expected."""
    return Joined(Index(last), join, view, Index(untrusted))


NOTHING = segments()
S50 = at(50, 3)
TABLE = {
    "nothing": (NOTHING, None, NOWHERE, (), joined(0, NOWHERE, view=False)),
    "a view only": (NOTHING, view(NOWHERE, run(1, 9, 1)), NOWHERE, (), joined(0, NOWHERE, view=True)),
    "segments only": (segments(run(1, 9, 1)), None, NOWHERE, (), joined(9, at(9, 1), view=False)),
    "a snapshot only": (NOTHING, None, S50, (), joined(50, S50, view=False, untrusted=50)),
    "they adjoin": (
        *(segments(run(1, 9, 1)), view(at(9, 1), run(10, 12, 1)), NOWHERE, ()),
        joined(9, at(9, 1), view=True),
    ),
    "they overlap": (
        *(segments(run(1, 5, 1), run(6, 9, 1)), view(NOWHERE, run(1, 12, 1)), NOWHERE, ()),
        joined(9, at(9, 1), view=True),
    ),
    "the view ends inside the segments, and agrees": (
        *(segments(run(1, 9, 1)), view(NOWHERE, run(1, 7, 1)), NOWHERE, ()),
        joined(7, at(7, 1), view=True),
    ),
    "the view overwrites the end of the segments (B3)": (
        *(segments(run(1, 9, 1)), view(at(5, 1), run(6, 7, 2)), NOWHERE, ()),
        joined(5, at(5, 1), view=True),
    ),
    "the view overwrites everything": (
        *(segments(run(1, 9, 1)), view(NOWHERE, run(1, 3, 2)), NOWHERE, ()),
        joined(0, NOWHERE, view=True),
    ),
    "entries are missing between them": (
        *(segments(run(1, 9, 1)), view(at(10, 1), run(11, 12, 1)), NOWHERE, ()),
        Missing,
    ),
    "the view follows another entry than the segments have": (
        *(segments(run(1, 9, 1)), view(at(9, 2), run(10, 12, 2)), NOWHERE, ()),
        Missing,
    ),
    "a first file is missing": (segments(run(6, 9, 1)), None, NOWHERE, (), Missing),
    "a file in the middle is missing": (segments(run(1, 4, 1), run(6, 9, 1)), None, NOWHERE, (), Missing),
    "a file in the middle is missing, and the view has what it held": (
        *(segments(run(1, 4, 1), run(6, 9, 1)), view(at(2, 1), run(3, 12, 1)), NOWHERE, ()),
        joined(4, at(4, 1), view=True),
    ),
    "a file in the middle is missing, and the view begins behind it": (
        *(segments(run(1, 4, 1), run(6, 9, 1)), view(at(7, 1), run(8, 12, 1)), NOWHERE, ()),
        Missing,
    ),
    "the snapshot covers the beginning of the segments": (
        *(segments(run(1, 60, 3)), None, S50, ()),
        joined(60, at(60, 3), view=False, untrusted=50),
    ),
    "segments begin behind the snapshot": (
        *(segments(run(51, 60, 3)), None, S50, ()),
        joined(60, at(60, 3), view=False, untrusted=50),
    ),
    "segments begin too far behind the snapshot": (segments(run(52, 60, 3)), None, S50, (), Missing),
    "what survives has gaps, and the log goes on (B4)": (
        *(segments({3: 1, 7: 2, 20: 2}, run(51, 60, 3)), view(at(60, 3), run(61, 62, 3)), S50, ()),
        joined(60, at(60, 3), view=True, untrusted=50),
    ),
    "a file with gaps reaches behind the snapshot": (segments({3: 1, 51: 3}), None, S50, (), Missing),
    "the view begins at the snapshot (B18)": (
        *(NOTHING, view(S50, run(51, 52, 4)), S50, ()),
        joined(50, S50, view=True, untrusted=50),
    ),
    "the view has the snapshot's entry": (
        *(NOTHING, view(NOWHERE, run(1, 60, 3)), S50, ()),
        joined(50, S50, view=True, untrusted=50),
    ),
    "the view ends with the snapshot's entry": (
        *(NOTHING, view(NOWHERE, run(1, 50, 3)), S50, ()),
        joined(50, S50, view=True, untrusted=50),
    ),
    "the view ends before the snapshot: it was installed (B38)": (
        *(segments(run(1, 9, 1)), view(at(9, 1), run(10, 40, 2)), S50, ()),
        joined(50, S50, view=False, untrusted=50),
    ),
    "the view has another entry at the snapshot: it was installed": (
        *(segments(run(1, 9, 1)), view(at(9, 1), run(10, 70, 2)), S50, ()),
        joined(50, S50, view=False, untrusted=50),
    ),
    "the view goes on behind the snapshot from a lower term: it was installed": (
        *(segments(run(1, 40, 1)), view(at(60, 2), run(61, 70, 2)), S50, ()),
        joined(50, S50, view=False, untrusted=50),
    ),
    "the segments have another entry at the snapshot: it was installed": (
        *(segments(run(1, 60, 1)), None, S50, ()),
        joined(50, S50, view=False, untrusted=50),
    ),
    "segments begin behind the snapshot with a lower term: it was installed, and some files are gone": (
        *(segments(run(55, 60, 1)), None, S50, ()),
        joined(50, S50, view=False, untrusted=50),
    ),
    "the view begins anew at the snapshot, and the old segments are still there": (
        *(segments(run(1, 60, 1)), view(S50, run(51, 53, 4)), S50, ()),
        joined(50, S50, view=True, untrusted=50),
    ),
    "the view begins anew at the snapshot, and its entries are in segments, too": (
        *(segments(run(1, 20, 1), run(51, 55, 4)), view(S50, run(51, 57, 4)), S50, ()),
        joined(55, at(55, 4), view=True, untrusted=50),
    ),
    "the view goes on behind the snapshot from a higher term": (
        *(segments(run(1, 50, 3)), view(at(60, 4), run(61, 70, 4)), S50, ()),
        Missing,
    ),
    "the view has a later term at the snapshot: the snapshot is not of this log": (
        *(NOTHING, view(NOWHERE, run(1, 60, 4)), S50, ()),
        Missing,
    ),
    "the segments have a later term at the snapshot": (segments(run(1, 60, 4)), None, S50, (), Missing),
    "live entries are in segments": (
        *(segments(run(1, 40, 3)), view(NOWHERE, run(1, 60, 3)), S50, (7, 39)),
        joined(50, S50, view=True, untrusted=50),
    ),
    "live entries are only in the view": (
        *(segments(run(1, 20, 3)), view(NOWHERE, run(1, 60, 3)), S50, (7, 39)),
        joined(20, at(20, 3), view=True, untrusted=20),
    ),
    "live entries are only in the view, and the segments are of another log": (
        *(segments(run(1, 45, 1)), view(NOWHERE, run(1, 60, 3)), S50, (7,)),
        joined(0, NOWHERE, view=True),
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_table(name: str) -> None:
    """Every way in which the parts can lie, and what is made of it."""
    stored, seen, snapshot, live, expected = TABLE[name]
    found = reconcile(stored, seen, snapshot, lambda first, last: any(first <= i <= last for i in live))
    if expected is Missing:
        assert isinstance(found, Missing)
        assert found.reason
    else:
        assert found == expected


@dataclass
class History:
    """One server's log as a list of terms, and what its disk has of it.

    `written` is what the write-ahead log holds: (previous position, entries) in the order of writing. Each
    segment is (number, entries by index); a later one hides the others from its first index on.
    """

    log: list[int] = field(default_factory=list)  # the term of entry i + 1; 0 for entries that are gone
    start: int = 0
    term: int = 1
    snapshot: IndexTerm = NOWHERE
    written: list[list[tuple[IndexTerm, dict[int, int]]]] = field(default_factory=lambda: [[]])
    files: list[dict[int, int]] = field(default_factory=list)
    flushed: int = 0

    def position(self, index: int) -> IndexTerm:
        """Index and term of an entry, or of the snapshot."""
        if index == self.snapshot.index:
            return self.snapshot
        return at(index, self.log[index - 1]) if index else NOWHERE

    def put(self, first: int, count: int) -> None:
        """Replace what is there from `first` on."""
        if first <= len(self.log):
            self.term += 1
        del self.log[first - 1 :]
        self.flushed = min(self.flushed, first - 1)
        previous = self.position(first - 1)
        self.log += [self.term] * count
        self.written[-1].append((previous, run(first, len(self.log), self.term)))

    def flush(self, *, retire: int) -> None:
        """Move everything to a file; the write-ahead log's `retire` oldest files go, if they may."""
        first = max(self.flushed, self.snapshot.index) + 1
        if first <= len(self.log):
            self.files.append({i: self.log[i - 1] for i in range(first, len(self.log) + 1)})
        self.flushed = max(self.flushed, len(self.log))
        self.written.append([])
        del self.written[: min(retire, len(self.written) - 1)]

    def take_snapshot(self, index: int) -> None:
        """At an entry of the log; sometimes the files that it covers go."""
        self.snapshot = self.position(index)

    def install(self, ahead: int) -> None:
        """A snapshot replaces the log; the write-ahead log says so."""
        self.term += 1
        self.snapshot = at(len(self.log) + ahead, self.term)
        self.log = [0] * self.snapshot.index
        self.flushed = self.snapshot.index
        self.written[-1].append((self.snapshot, {}))

    def stored(self) -> Stored:
        """The files, each as far as no newer one hides it."""
        parts: list[dict[int, int]] = []
        lowest = 1 << 60
        for entries in reversed(self.files):
            seen = {index: term for index, term in entries.items() if index < lowest}
            lowest = min(lowest, min(entries))
            if seen:
                parts.append(seen)
        return segments(*reversed(parts))

    def view(self) -> View | None:
        """As `wal_recovery` makes it."""
        base, entries = NOWHERE, dict[int, int]()
        for previous, added in (record for file in self.written for record in file):
            last = max(entries, default=base.index)
            inside = base.index <= previous.index <= last
            term = base.term if previous.index == base.index else entries.get(previous.index)
            if not added or not inside or term != previous.term:
                base, entries = previous, {}
            entries = {index: term for index, term in entries.items() if index <= previous.index} | added
        if not any(self.written):
            return None
        terms = {index: Term(term) for index, term in entries.items()}
        last = max(entries, default=base.index)
        return View(base, at(last, entries[last]) if entries else base, terms.get)


OPERATIONS = st.tuples(
    st.sampled_from(["put", "put", "overwrite", "flush", "flush", "snapshot", "compact", "install"]),
    st.integers(1, 5),
    st.integers(0, 5),
)


@given(st.lists(OPERATIONS, max_size=25))
@example([("put", 3, 0), ("flush", 1, 1), ("overwrite", 1, 2), ("flush", 1, 0)])
def test_whatever_the_history_the_log_is_found_again(operations: list[tuple[str, int, int]]) -> None:
    """Every history of appends, overwrites, flushes, snapshots and installs leads back to its log."""
    history = History()
    for operation, many, few in operations:
        lowest = history.snapshot.index + 1
        match operation:
            case "put":
                history.put(len(history.log) + 1, many)
            case "overwrite":
                history.put(max(lowest, len(history.log) + 1 - few), many)
            case "flush":
                history.flush(retire=few)
            case "snapshot" if len(history.log) >= lowest:
                history.take_snapshot(min(len(history.log), lowest + few))
            case "compact":
                covered = [file for file in history.files if max(file) <= history.snapshot.index]
                history.files = [file for file in history.files if file not in covered[:few]]
            case "install":
                history.install(many)
        stored, seen = history.stored(), history.view()
        found = reconcile(stored, seen, history.snapshot, lambda _first, _last: False)
        assert isinstance(found, Joined), (operation, found)
        base, last = history.snapshot.index, len(history.log)
        entries = {
            index: stored.term_at(index)
            for first, end in stored.ranges
            for index in range(first, min(end, found.segments_end) + 1)
        }
        if found.view and seen is not None:
            entries |= {i: seen.term_at(i) for i in range(found.join.index + 1, seen.last.index + 1)}
        read = [entries.get(index) for index in range(base + 1, max(entries, default=0) + 1)]
        assert read == history.log[base:last], (operation, found)
        assert found.join.index >= base
