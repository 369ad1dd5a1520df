"""What one server's log is after a restart: its segments, its view of the write-ahead log, and its snapshot.

A *view* is what the write-ahead log's files hold of a server: entries behind a base. It is newer than the
segments: a file of the write-ahead log goes only when segments hold what it held. So the two parts overlap or
adjoin, and where they differ the view is right. The snapshot stands for everything up to its position.

`reconcile` is pure, and its table is in docs/explanation/recovery.md. It finds where the parts join, or what
is missing. It relies on two properties of a Raft log: two logs that agree on (index, term) agree on
everything before it (§3.5); and no entry behind a committed one has a lower term than that (§3.6). By the
second, a part behind the snapshot whose terms are lower is of a log that the snapshot has replaced.
"""

from collections.abc import Callable, Sequence

import msgspec

from barque.types import Index, IndexTerm, Term

TermAt = Callable[[int], Term | None]


class Stored(msgspec.Struct, frozen=True):
    """The segments of a server.

    `ranges`: first and last index of each file that counts, in order; `gappy` tells which have gaps.
    `term_at` is asked for indexes in these ranges only.
    """

    ranges: Sequence[tuple[int, int]]
    gappy: Sequence[bool]
    term_at: TermAt


class View(msgspec.Struct, frozen=True):
    """What the write-ahead log holds of a server: the entries above `base`, up to `last`."""

    base: IndexTerm
    last: IndexTerm
    term_at: TermAt


class Joined(msgspec.Struct, frozen=True):
    """How the parts join.

    The segments count up to `segments_end`, the view above `join`; of the view, nothing counts if `view` is
    False. `join` is the memtable's base. Segments up to `untrusted` only answer for live entries.
    """

    segments_end: Index
    join: IndexTerm
    view: bool
    untrusted: Index


class Missing(msgspec.Struct, frozen=True):
    """Entries that were on disk are not there."""

    reason: str


def reconcile(
    stored: Stored, view: View | None, snapshot: IndexTerm, live: Callable[[int, int], bool]
) -> Joined | Missing:
    """Join the parts of a log, or say what is missing.

    `live(first, last)` tells whether the snapshot still needs one of these entries.
    """
    end, beyond = _chain(stored, snapshot)
    if view is not None and view.last.index >= snapshot.index:
        found = _meet(stored, view, snapshot, end)
        if found is not None:
            return _joined(_lowered(stored, view, snapshot, live) or found, snapshot, view=True)
        lowest = max(view.base.index, snapshot.index)
        if not _is_replaced(_term_in(view, lowest), snapshot):
            return Missing(
                f"the write-ahead log goes on behind entry {view.base.index} of term {view.base.term}, and "
                f"the segments and the snapshot end with entry {end.index} of term {end.term}"
            )
    if beyond is not None and not _is_replaced(beyond.term, snapshot):
        return Missing(f"segments hold entry {beyond.index}, which does not follow entry {end.index}")
    return _joined(end, snapshot, view=False)


def _chain(stored: Stored, snapshot: IndexTerm) -> tuple[IndexTerm, IndexTerm | None]:
    """How far the segments continue the snapshot, and the first entry that does not, if there is one."""
    end = snapshot
    for (first, last), gappy in zip(stored.ranges, stored.gappy, strict=True):
        if last <= snapshot.index:
            continue
        below = max(first, snapshot.index)
        follows = first == end.index + 1 or _position(stored, below) == snapshot
        if gappy or not follows:
            return end, _position(stored, last if gappy else below)
        end = _position(stored, last)
    return end, None


def _position(stored: Stored, index: int) -> IndexTerm:
    term = stored.term_at(index)
    return IndexTerm(Index(index), Term(0) if term is None else term)


def _meet(stored: Stored, view: View, snapshot: IndexTerm, end: IndexTerm) -> IndexTerm | None:
    """The highest position at which the view and what is below it agree."""
    for index in range(min(view.last.index, end.index), max(view.base.index, snapshot.index) - 1, -1):
        ours = snapshot if index == snapshot.index else _position(stored, index)
        if _term_in(view, index) == ours.term:
            return ours
    return None


def _lowered(
    stored: Stored, view: View, snapshot: IndexTerm, live: Callable[[int, int], bool]
) -> IndexTerm | None:
    """Where to join below the snapshot, if some live entries are only in the view."""
    held = view.base
    for (first, last), gappy in zip(reversed(stored.ranges), reversed(stored.gappy), strict=True):
        index = min(last, snapshot.index)
        if not gappy and max(first, view.base.index + 1) <= index:
            position = _position(stored, index)
            if position.term == view.term_at(index):
                held = position
                break
    if held.index < snapshot.index and live(held.index + 1, snapshot.index):
        return held
    return None


def _term_in(view: View, index: int) -> Term | None:
    return view.base.term if index == view.base.index else view.term_at(index)


def _is_replaced(term: Term | None, snapshot: IndexTerm) -> bool:
    """Whether an entry at or behind the snapshot's index is of a log that the snapshot has replaced."""
    return term is not None and term < snapshot.term


def _joined(join: IndexTerm, snapshot: IndexTerm, *, view: bool) -> Joined:
    """Trust no segment below the snapshot: nothing tells there whether an older log shows through."""
    return Joined(join.index, join, view, min(join.index, snapshot.index))
