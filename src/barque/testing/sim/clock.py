"""The clocks of a node in a simulation (`barque.runtime.clock.Clock`)."""

import random

from barque.testing.sim.loop import VirtualLoop, VirtualProcess

_EPOCH_MS = 1_700_000_000_000


def true_ms(loop: VirtualLoop) -> int:
    """The true Unix time in milliseconds, which no node knows."""
    return _EPOCH_MS + int(loop.time() * 1000)


class SimClock:
    """The monotonic clock is the loop's. The wall clock drifts, and jumps when a fault says so.

    `drift` is a share of 1: 0.001 gains a millisecond a second.
    """

    def __init__(self, loop: VirtualLoop, process: VirtualProcess, rng: random.Random) -> None:
        self._loop = loop
        self._process = process
        self.drift = rng.uniform(-0.01, 0.01)
        self.offset_ms = rng.randrange(-5_000, 5_000)

    def monotonic(self) -> float:
        """Virtual seconds, ahead of the loop's while a call takes time."""
        now, held = self._loop.now, self._process.held_until
        return held if held > now else now

    def wall_ms(self) -> int:
        """The Unix time in milliseconds, as this node believes it."""
        return _EPOCH_MS + self.offset_ms + int(self._loop.time() * 1000 * (1 + self.drift))

    def jump(self, ms: int) -> None:
        """Set the wall clock forward or back."""
        self.offset_ms += ms
