"""I33: while most clocks that a leader knows are right, machines see a time that is nearly right.

The nemesis says which wall clocks are wrong: the clocks that it has set an hour forward or back. They count
as wrong from then on, even if a restart has given the host another clock, since others may remember. All
other clocks are right within `BOUND_MS`: they drift, begin seconds apart and jump by a second, and news of
them may be late.

A node knows its own clock, and the clocks of the nodes that it has heard since it started. It is *sound*
while less than half of these are wrong; with half of them nobody could tell. A leader that has been sound
since its leadership began must have stamped its entries with a time between then and now, within the bound.
The time of a cluster never goes back, so one leader that was not sound excuses all later stamps that are too
far ahead.
"""

from typing import NamedTuple

from barque.testing.checkers.safety import Report, Violation
from barque.types import ServerId, Term

BOUND_MS = 600_000
"""Far more than all errors of right clocks in a run, and far less than an hour, or the third of one."""


class Life(NamedTuple):
    """One life of a node, from a start to the next."""

    node: str
    number: int


class Clocks:
    """What the nodes know of each other's clocks. The hosts and the nemesis tell it what happens."""

    def __init__(self) -> None:
        self._wrong: set[str] = set()
        self._lives: dict[str, Life] = {}
        self._known: dict[Life, set[str]] = {}
        self._sound_since_ms: dict[Life, int] = {}

    def started(self, node: str, now_ms: int) -> None:
        """A node starts, and knows no clock but its own."""
        before = self._lives.get(node)
        life = self._lives[node] = Life(node, before.number + 1 if before is not None else 1)
        self._known[life] = {node}
        self._look(life, now_ms)

    def heard(self, node: str, other: str, now_ms: int) -> None:
        """A node hears another node's clock."""
        life = self._lives[node]
        self._known[life].add(other)
        self._look(life, now_ms)

    def set_wrong(self, node: str, now_ms: int) -> None:
        """A node's wall clock is set wrong."""
        self._wrong.add(node)
        for life in self._lives.values():
            self._look(life, now_ms)

    def life_of(self, node: str) -> Life:
        """The present life of a node."""
        return self._lives[node]

    def is_sound_since(self, life: Life, then_ms: int) -> bool:
        """Whether most of the clocks that this node knew were right from then until now, or its end."""
        since = self._sound_since_ms.get(life)
        return since is not None and since <= then_ms

    def _look(self, life: Life, now_ms: int) -> None:
        known = self._known[life]
        if 2 * len(known & self._wrong) < len(known):
            self._sound_since_ms.setdefault(life, now_ms)
        else:
            self._sound_since_ms.pop(life, None)


class Leadership(NamedTuple):
    """Who led in a term, and since when."""

    leader: ServerId
    life: Life
    since_ms: int


class Stamps:
    """The timestamps of one cluster's applied commands."""

    def __init__(self, report: Report, clocks: Clocks) -> None:
        self._report = report
        self._clocks = clocks
        self._leaderships: dict[Term, Leadership] = {}
        self._excused = False
        self.judged = 0
        """How many stamps were held against the true time."""

    def leads(self, leader: ServerId, term: Term, now_ms: int) -> None:
        """A member leads in this term."""
        self._leaderships.setdefault(term, Leadership(leader, self._clocks.life_of(leader.node), now_ms))

    def applied(self, term: Term, stamp_ms: int, now_ms: int) -> None:
        """A member applies a command of this term for the first time. `now_ms` is the true time."""
        known = self._leaderships.get(term)
        if known is None or not self._clocks.is_sound_since(known.life, known.since_ms):
            self._excused = True
            return
        self.judged += 1
        early = known.since_ms - stamp_ms
        late = 0 if self._excused else stamp_ms - now_ms
        if max(early, late) > BOUND_MS:
            side = f"{early / 1000:.3f} s behind" if early > late else f"{late / 1000:.3f} s ahead"
            states = (f"{known.leader} led in term {term} and stamped with {stamp_ms}: {side}",)
            self._report(
                Violation("time (I33)", "most clocks are right, and a machine's time is not", states)
            )
