"""Schedules a node's turns. A *turn* is the work of a node for all input that arrived together."""

import asyncio
from collections.abc import Callable

from barque.runtime.clock import Clock
from barque.runtime.timers import Timers


class Turn:
    """Schedules turns: one call of `run` for any number of calls of `wake` since the last one.

    The event loop runs it after the callbacks that are ready now, so it sees all input that has arrived by
    then. `node.Node` says what a turn does.
    """

    __slots__ = ("_clock", "_loop", "_run", "_timers", "is_scheduled", "is_stopped")

    def __init__(self, run: Callable[[], None], timers: Timers, clock: Clock) -> None:
        self._run = run
        self._timers = timers
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self.is_scheduled = False
        self.is_stopped = False

    def wake(self) -> None:
        """Run a turn when the input of the present one is handled."""
        if not self.is_scheduled and not self.is_stopped:
            self.is_scheduled = True
            self._loop.call_soon(self._on_loop)

    def wake_later(self, after_s: float) -> None:
        """Run a turn after so many seconds."""
        self._timers.arm("retry requests", self._clock.monotonic() + after_s, self.wake)

    def run_on_loop(self, function: Callable[[], None]) -> None:
        """Run this on the loop, then a turn. Threads of the log may call it, too."""

        def run() -> None:
            function()
            self.wake()

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(run)

    def stop(self) -> None:
        """Run no further turn: the files may be closed by then."""
        self.is_stopped = True

    def _on_loop(self) -> None:
        if not self.is_stopped:
            self._run()
