"""The time of the nodes: each node's own clock, unless it differs too much from the others'.

Leaders stamp entries with this time, and machines see no other. A clock that is an hour ahead would let
a lock live an hour longer, or let keys vanish; a majority of right clocks prevents that. Each node tells
the others its wall clock, and takes the *median* of all clocks that it knows where its own is further
from the median than `error_max_ms`. So with three nodes one clock may be wrong by any amount. With two
known clocks nobody can say which is right: the earlier one counts, since a lease that lives too long is
safer than one that ends too early.

Time between two looks comes from the monotonic clock, so a wall clock that is set anew counts only after
it was compared with the others'. A node that knows no other clock uses its own. docs/explanation/time.md
"""

import logging
from collections import deque
from statistics import median_low

from barque.runtime.clock import Clock

logger = logging.getLogger("barque.clock")

_SAMPLES = 8


class ClusterClock:
    """A `Clock` whose wall time follows the majority. `name` is this node's."""

    def __init__(self, clock: Clock, name: str, error_max_ms: int) -> None:
        self.monotonic = clock.monotonic  # no call of ours in between: this is asked for every request
        self._clock = clock
        self._name = name
        self._error_max_ms = error_max_ms
        # Offsets are what a wall clock shows when our monotonic clock shows 0, in milliseconds.
        self._others: dict[str, deque[int]] = {}
        self._own_ms = self._base_ms = self._measure()
        self.error_ms = 0
        """How far our own clock is ahead of the median; behind it, if negative."""

    def wall_ms(self) -> int:
        """Unix time in milliseconds, as the nodes agree on it."""
        return int(self.monotonic() * 1000) + self._base_ms

    @property
    def own_wall_ms(self) -> int:
        """What this node's wall clock shows."""
        return self._clock.wall_ms()

    @property
    def is_overruled(self) -> bool:
        """Whether our own clock is too far from the others', so that it does not count."""
        return abs(self.error_ms) > self._error_max_ms

    def heard(self, node: str, wall_ms: int) -> None:
        """Another node's wall clock shows this, or showed it when the message left.

        Messages are late and never early, so the greatest of a few differences is the nearest to the truth.
        """
        self._others.setdefault(node, deque(maxlen=_SAMPLES)).append(wall_ms - int(self.monotonic() * 1000))
        self.look()

    def look(self) -> None:
        """Compare our wall clock with the others', and choose the time that counts from here on."""
        self._own_ms = self._measure()
        known = [self._own_ms, *(max(samples) for samples in self._others.values())]
        median, was_overruled = median_low(known), self.is_overruled
        self.error_ms = self._own_ms - median
        self._base_ms = median if self.is_overruled else self._own_ms
        if self.is_overruled is not was_overruled:
            self._report()

    def overview(self) -> dict[str, object]:
        """Facts for `status`; differences in milliseconds, positive for a clock that is ahead of ours."""
        return {
            "error_ms": self.error_ms,
            "error_max_ms": self._error_max_ms,
            "overruled": self.is_overruled,
            "differences_ms": {
                node: max(samples) - self._own_ms for node, samples in sorted(self._others.items())
            },
        }

    def _measure(self) -> int:
        return self._clock.wall_ms() - int(self.monotonic() * 1000)

    def _report(self) -> None:
        if not self.is_overruled:
            logger.info("node %s: its clock agrees with the other nodes' again", self._name)
            return
        side = "ahead of" if self.error_ms > 0 else "behind"
        logger.warning(
            "node %s: its clock is %.3f s %s the median of the nodes' clocks, which counts instead; "
            "set the clock, and see that a time service runs (chronyc tracking, timedatectl)",
            self._name,
            abs(self.error_ms) / 1000,
            side,
        )
