"""What one reader sees of a log that goes on: views of its segments, one after the other (EXT-01).

Theory of operation. A *view* is what counted at a moment: the segment files, and the range of entries
without a gap. A new one is noted whenever other files count. All files of a view are held from then on,
until the reader has acknowledged a later one. So a slow reader still gets each entry that was ever in a
segment.

Entries of a view up to `committed` never change. For the newest view that is the commit index. A view that
has been superseded keeps what it was then: a leader's snapshot may have replaced what was not committed.

A noted view that the reader has not taken gives way to the next one, if that goes on where the view before
ended. Only a snapshot that drops entries in between makes a queue, and `Holds` bounds what that keeps.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from barque.log.log import WalLog
from barque.log.read_plan import Decode, Part, ReadPlan
from barque.log.segment import Segment
from barque.types import Index


class View(NamedTuple):
    """The files that counted at a moment, and the range of entries without a gap; `number` counts views."""

    number: int
    first: Index
    last: Index
    committed: Index
    parts: tuple[Part, ...]


class LogViews:
    """The views of one log for one reader. `told` is called when there may be a new one, or the end.

    `commit_index` says up to where the log's entries are committed now.
    """

    def __init__(
        self, log: WalLog, commit_index: Callable[[], Index], told: Callable[[], None] = lambda: None
    ) -> None:
        self._log = log
        self._commit_index = commit_index
        self._told = told
        self._taken: View | None = None
        self._noted: deque[View] = deque()
        self._held: dict[Segment, int] = {}  # the number of the last view that has the file
        self.hold = log.segments.holds.take((), self._changed)
        self._note()

    def _changed(self) -> None:
        if self.hold.ended is None:
            self._note()
        self._told()

    def _note(self) -> None:
        """Note what counts now, if it differs from the newest view."""
        segments, newest = self._log.segments, self._noted[-1] if self._noted else self._taken
        parts, first, last = tuple(self._log.parts()), segments.first, segments.end.index
        if newest is not None and (parts, first, last) == (newest.parts, newest.first, newest.last):
            return
        if self._noted:
            self._noted[-1] = self._committed_now(self._noted[-1])
        view = View(1 if newest is None else newest.number + 1, first, last, Index(0), parts)
        self._held.update(dict.fromkeys((part.segment for part in parts), view.number))
        segments.holds.add(self.hold, (part.segment for part in parts))
        if self._noted:
            before = self._noted[-2] if len(self._noted) > 1 else self._taken
            if first <= (before.last + 1 if before is not None else self._noted[-1].first):
                self._forget(self._noted.pop(), before)
        self._noted.append(view)

    def _committed_now(self, view: View) -> View:
        return view._replace(committed=min(view.last, self._commit_index()))

    def _forget(self, view: View, before: View | None) -> None:
        """Nobody takes this view: its files are held only for other views that have them."""
        gone = {part.segment for part in view.parts if self._held[part.segment] == view.number}
        if before is not None:
            again = gone & {part.segment for part in before.parts}
            self._held.update(dict.fromkeys(again, before.number))
            gone -= again
        self._let_go(gone)

    def take(self) -> View | None:
        """The next view; None if nothing has changed. Raises `Stopped` if the reader was dropped."""
        self.hold.check()
        if not self._noted:
            return None
        view = self._noted.popleft()
        self._taken = view if self._noted else self._committed_now(view)
        return self._taken

    def acknowledge(self, number: int) -> None:
        """Hold the files no longer that only views before this one have."""
        self._let_go([segment for segment, last in self._held.items() if last < number])

    def _let_go(self, segments: Iterable[Segment]) -> None:
        segments = list(segments)
        for segment in segments:
            del self._held[segment]
        self._log.segments.holds.let_go(self.hold, segments)

    def plan_read(self, indexes: Iterable[int], decode: Decode) -> ReadPlan:
        """Plan to read from the files of the view that was taken last. Raises `Stopped` if dropped."""
        self.hold.check()
        view = self._taken
        return self._log.plan_parts(
            view.parts if view else (), view.first if view else Index(0), indexes, decode
        )

    def close(self) -> None:
        """Let go of everything. A second time is harmless."""
        self.hold.end("this reader is closed")
        self._log.segments.holds.sweep()
