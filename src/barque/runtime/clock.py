"""The only place that reads the time (everything impure has a seam)."""

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time. The simulator has another clock."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    def wall_ms(self) -> int:
        """Unix time in milliseconds; may jump, and nothing that must be safe depends on it."""
        ...


class SystemClock:
    """The operating system's clocks."""

    __slots__ = ()

    monotonic = staticmethod(time.monotonic)  # no call of ours in between: this is asked for every request

    def wall_ms(self) -> int:
        """Unix time in milliseconds."""
        return time.time_ns() // 1_000_000
