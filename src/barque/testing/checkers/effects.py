"""I21: leaders perform what machines ask for, exactly as often as asked, and in time."""

from typing import Protocol

import msgspec

from barque.core.state import RaftState, Server
from barque.machine.effects import Timer
from barque.machine.machine import CommandMeta
from barque.testing.checkers.safety import Report, Violation
from barque.types import Index, Term

_EFFECTS = "effects (I21)"
_GRAIN_S = 0.002
"""The wall clock has whole milliseconds, rounded twice."""


class BothClocks(Protocol):
    """Both clocks of a node."""

    def monotonic(self) -> float:
        """Seconds."""

    def wall_ms(self) -> int:
        """Unix milliseconds, as the node believes."""


class Messages:
    """Only leaders send a machine's messages, each once in a leadership."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._sent: dict[tuple[Term, Index], None] = {}

    def sent(self, server: Server, index: Index) -> None:
        """A server sends the message that the command at this index asked for."""
        if server.raft_state is not RaftState.LEADER:
            states = (
                f"{server.id} is {server.raft_state} in term {server.current_term}, and performs {index}",
            )
            self._report(Violation(_EFFECTS, "an effect of a server that does not lead", states))
        if (server.current_term, index) in self._sent:
            states = (f"{server.id} performs the effect of {index} once more in term {server.current_term}",)
            self._report(Violation(_EFFECTS, "an effect is performed twice", states))
        self._sent[server.current_term, index] = None


class Asked(msgspec.Struct):
    """A request for a timer by a leader's machine, made when its log ended here. No time: a cancellation."""

    log_end: Index
    due_s: float | None
    fired_at: Index | None = None

    def __str__(self) -> str:
        wanted = "cancelled" if self.due_s is None else f"set for {self.due_s:.6f}"
        fired = "" if self.fired_at is None else f", fired at {self.fired_at}"
        return f"{wanted} when the log ended at {self.log_end}{fired}"


class Timeouts:
    """The timers of one cluster's machines, judged by the log of the leader that was asked for them.

    A leader's log only grows. So the index of an entry tells whether it was appended before or after a
    request, and its term tells by which leader. A `Timeout` is compared with the machine's last request
    before it, in that leadership: the request must set the timer, its time must be over, and no other timeout
    may have fired for it. This finds a timer of a follower, a timer of an earlier leadership, and a replaced
    timer. One setting may fire once in each of two leaderships: the first `Timeout` may be under way when the
    second leader sets the timer again.

    Times are those of the monotonic clock, which all nodes of a simulation share. The wall clock is read
    once, at the request. The moment at which a timeout was appended is unknown, but it was not later than its
    first application.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._asked: dict[tuple[Term, str], list[Asked]] = {}
        self.judged: dict[Index, None] = {}  # the timeouts that were applied

    def asks(self, server: Server, timer: Timer, clock: BothClocks) -> None:
        """A machine asks its server for a timer; requests to a server that does not lead are ignored."""
        if server.raft_state is RaftState.LEADER:
            asked = Asked(server.log.last_index_term().index, _due_s(timer, clock))
            self._asked.setdefault((server.current_term, timer.name), []).append(asked)

    def fired(self, server: Server, meta: CommandMeta, name: str, now_s: float) -> None:
        """A server applies a timeout; its first application is judged."""
        if meta.index in self.judged:
            return
        self.judged[meta.index] = None
        before = [asked for asked in self._asked.get((meta.term, name), ()) if asked.log_end < meta.index]
        found = self._judge(before, now_s)
        if found:
            entry = f"{server.id} applies the timeout of {name} at {meta.index} of term {meta.term}"
            states = (f"{entry} at {now_s:.6f}", *(str(asked) for asked in before[-4:]))
            self._report(Violation(_EFFECTS, found, states))
        elif before:
            before[-1].fired_at = meta.index

    def _judge(self, before: list[Asked], now_s: float) -> str:
        """Say what is wrong with a timeout; empty if nothing is."""
        if not before:
            return "a timeout that the machine had not asked for in this leadership"
        last = before[-1]
        if last.due_s is None:
            return "a timer fires although it was cancelled"
        if last.fired_at is not None:
            return "a timer fires twice"
        return "a timer fires before its time" if now_s < last.due_s - _GRAIN_S else ""

    def is_owed(self, leader: Server, name: str, now_s: float) -> bool:
        """Whether a pending timer should have fired: it is overdue, or this leader never set it."""
        asked = self._asked.get((leader.current_term, name))
        due_s = asked[-1].due_s if asked else None
        return due_s is None or due_s <= now_s


def _due_s(timer: Timer, clock: BothClocks) -> float | None:
    """When a timer must fire, by the monotonic clock; None if it is cancelled."""
    if timer.at_ms is not None:
        return clock.monotonic() + max(0, timer.at_ms - clock.wall_ms()) / 1000
    return None if timer.after_ms is None else clock.monotonic() + timer.after_ms / 1000
