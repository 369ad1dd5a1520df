"""All timers of a node: one lazy heap, and one wake-up of the event loop.

Raft re-arms its timers far more often than they expire. So arming again for later only moves the
deadline; the heap keeps the earlier time, and finds out when that time comes. (`loop.call_later` for each
would cost 2.5 µs instead; see bench/.) Timers with the same deadline run in the order they were armed.
"""

import asyncio
from collections.abc import Callable, Hashable
from heapq import heapify, heappop, heappush, heapreplace
from typing import TypeAlias

from barque.runtime.clock import Clock

Callback: TypeAlias = Callable[[], None]
_GRAIN_S = 0.001
"""Some loops count whole milliseconds and would wake us up to one too early, again and again."""


class _Timer:
    """One key's timer. `queued` is the (earlier or equal) deadline of its live item in the heap."""

    __slots__ = ("armed", "callback", "deadline", "key", "queued", "sequence")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.armed = False
        self.deadline = 0.0
        self.sequence = 0
        self.queued = 0.0
        self.callback: Callback = _nothing


def _nothing() -> None:
    pass


class Timers:
    """Deadlines by key. Pure: times come in as arguments, in seconds of one monotonic clock.

    `on_earlier`, if given, is called with the new earliest deadline when `arm` makes it earlier.
    """

    __slots__ = ("_heap", "_sequence", "_timers", "on_earlier")

    def __init__(self, on_earlier: Callable[[float], None] | None = None) -> None:
        self.on_earlier = on_earlier
        self._timers: dict[Hashable, _Timer] = {}
        self._heap: list[tuple[float, int, _Timer]] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._timers)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._timers

    def arm(self, key: Hashable, deadline: float, callback: Callback) -> None:
        """Call `callback` once, at `deadline`; a timer of the same key is replaced."""
        timer = self._timers.get(key)
        self._sequence = sequence = self._sequence + 1
        if timer is not None and deadline >= timer.queued:  # the hot path: nothing is queued
            timer.deadline = deadline
            timer.sequence = sequence
            timer.callback = callback
            return
        if timer is not None:
            timer.armed = False  # its item in the heap is now stale
        timer = _Timer(key)
        timer.armed = True
        timer.deadline = timer.queued = deadline
        timer.sequence = sequence
        timer.callback = callback
        self._timers[key] = timer
        heap = self._heap
        heappush(heap, (deadline, sequence, timer))
        if heap[0][2] is timer and self.on_earlier is not None:
            self.on_earlier(deadline)
        if len(heap) > 64 and len(heap) > 4 * len(self._timers):
            self._compact()

    def cancel(self, key: Hashable) -> bool:
        """Forget the timer of this key; whether there was one."""
        timer = self._timers.pop(key, None)
        if timer is None:
            return False
        timer.armed = False
        timer.callback = _nothing  # what it refers to can go now, although the heap item stays
        return True

    def deadline_of(self, key: Hashable) -> float | None:
        """When the timer of this key expires, if it is armed."""
        timer = self._timers.get(key)
        return None if timer is None else timer.deadline

    def next_deadline(self) -> float | None:
        """The earliest deadline, or None if no timer is armed."""
        heap = self._heap
        while heap:
            _, sequence, timer = heap[0]
            if not timer.armed:
                heappop(heap)
            elif sequence != timer.sequence:
                self._requeue(timer)
            else:
                return timer.deadline
        return None

    def run_due(self, now: float) -> int:
        """Run the timers that are due at `now`, in order; return how many ran.

        A timer that a callback arms runs in the next call at the earliest, even if it is due: so this ends.
        """
        heap = self._heap
        newest = self._sequence
        later: list[tuple[float, int, _Timer]] = []
        ran = 0
        try:
            while heap and heap[0][0] <= now:
                _, sequence, timer = heap[0]
                if not timer.armed:
                    heappop(heap)
                elif sequence != timer.sequence:
                    self._requeue(timer)
                elif sequence > newest:
                    later.append(heappop(heap))
                else:
                    heappop(heap)
                    timer.armed = False
                    del self._timers[timer.key]
                    ran += 1
                    timer.callback()
                heap = self._heap  # a callback may have compacted it
        finally:
            for item in later:
                heappush(self._heap, item)
        return ran

    def _requeue(self, timer: _Timer) -> None:
        """The first item's time has come, but its timer was armed again for later."""
        timer.queued = timer.deadline
        heapreplace(self._heap, (timer.deadline, timer.sequence, timer))

    def _compact(self) -> None:
        """Throw stale items away, once they are the most."""
        self._heap = [item for item in self._heap if item[2].armed]
        heapify(self._heap)


class TimerDriver:
    """Runs `Timers` on the event loop with a single `call_at` for all of them."""

    __slots__ = ("_clock", "_handle", "_wake_at", "timers")

    def __init__(self, clock: Clock) -> None:
        self.timers = Timers(self._on_earlier)
        self._clock = clock
        self._handle: asyncio.TimerHandle | None = None
        self._wake_at = 0.0

    def stop(self) -> None:
        """Stop: no timer runs from now on."""
        self.timers.on_earlier = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _on_earlier(self, deadline: float) -> None:
        if self._handle is None or deadline < self._wake_at:
            self._schedule(deadline)

    def _schedule(self, deadline: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        loop = asyncio.get_running_loop()
        delay_s = max(0.0, deadline - self._clock.monotonic()) + _GRAIN_S
        self._wake_at = deadline
        self._handle = loop.call_at(loop.time() + delay_s, self._wake)

    def _wake(self) -> None:
        self._handle = None
        self._wake_at = float("inf")
        try:
            self.timers.run_due(self._clock.monotonic())
        finally:  # one callback's error must not stop the clocks of all the others
            deadline = self.timers.next_deadline()
            if deadline is not None and self.timers.on_earlier is not None and deadline < self._wake_at:
                self._schedule(deadline)
