"""What the front waits for: runs of consecutive correlations, found by any number in them."""

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from barque.transport.answers import UnansweredRanges
from barque.types import ReplyMode, Term

if TYPE_CHECKING:
    from barque.runtime.front import Route, Session


class Range:
    """One request of one session: `count` commands (`columns`) or reads (`payloads`).

    `first` is 0 while it is parked; once it is sent, its entries have the correlations from
    `first` on, and the session knows them from `session_first` on.
    """

    __slots__ = (
        "_gaps",
        "arrival",
        "columns",
        "consistent",
        "count",
        "deadline",
        "done",
        "first",
        "low_priority",
        "mode",
        "payloads",
        "route",
        "sent_in",
        "session",
        "session_first",
    )

    def __init__(
        self,
        session: "Session",
        session_first: int,
        count: int,
        *,
        columns: bytes = b"",
        mode: ReplyMode = ReplyMode.NOREPLY,
        low_priority: bool = False,
        payloads: tuple[bytes, ...] = (),
        consistent: bool = False,
    ) -> None:
        self.session = session
        self.session_first = session_first
        self.count = count
        self.columns = columns
        self.mode = mode
        self.low_priority = low_priority
        self.payloads = payloads
        self.consistent = consistent
        self.route: Route | None = None
        self.first = 0
        self.arrival = 0
        self._gaps: UnansweredRanges | None = None  # None: nothing is answered
        self.sent_in = Term(0)
        self.deadline = 0.0
        self.done = False

    def close(self, first: int, count: int) -> list[tuple[int, int]]:
        """An answer to these offsets has come; returns those that had none yet, as (first, count)."""
        if self._gaps is None:
            if count >= self.count:
                return [(0, count)]  # nearly always: all at once, and then it is done
            self._gaps = UnansweredRanges(self.count)
        return self._gaps.close(first, count)

    @property
    def is_answered(self) -> bool:
        """After `close`: whether nothing is open any more."""
        return not self._gaps

    @property
    def kind(self) -> tuple[Any, ...]:
        """Only ranges of equal kind can travel in one batch."""
        return (bool(self.payloads), self.consistent, self.mode, self.low_priority)

    @property
    def size(self) -> int:
        """Bytes held for it."""
        return len(self.columns) + sum(map(len, self.payloads))


class Ranges:
    """All ranges of one front, in the order of their correlations once they have some."""

    __slots__ = ("_arrivals", "_by_first", "_dead", "_firsts", "_next", "bytes", "commands")

    def __init__(self) -> None:
        self._firsts: list[int] = []  # ascending; may hold numbers whose range is gone
        self._by_first: dict[int, Range] = {}
        self._dead = 0
        self._next = 1
        self._arrivals = 0
        self.commands = 0
        self.bytes = 0

    def waiting(self, entry: Range) -> None:
        """A new range has come in."""
        self._arrivals += 1
        entry.arrival = self._arrivals
        self.commands += entry.count
        self.bytes += entry.size

    def number(self, batch: list[Range]) -> int:
        """Give these ranges consecutive correlations; returns the first."""
        first = self._next
        for entry in batch:
            entry.first = self._next
            self._firsts.append(self._next)
            self._by_first[self._next] = entry
            self._next += entry.count
        return first

    def find(self, correlation: int) -> Range | None:
        """The range that this correlation belongs to, if we still wait for it."""
        entry = self._by_first.get(correlation)
        if entry is not None:
            return entry
        at = bisect_right(self._firsts, correlation) - 1
        if at < 0:
            return None
        entry = self._by_first.get(self._firsts[at])
        return entry if entry is not None and correlation < entry.first + entry.count else None

    def forget(self, entry: Range) -> None:
        """Take its correlations away; it will be sent anew, or never."""
        if entry.first and self._by_first.pop(entry.first, None) is not None:
            self._dead += 1
            if self._dead > 256 and self._dead * 2 > len(self._firsts):
                self._firsts = sorted(self._by_first)
                self._dead = 0
        entry.first = 0

    def done(self, entry: Range) -> None:
        """Nobody waits for it any more."""
        self.forget(entry)
        self.commands -= entry.count
        self.bytes -= entry.size
