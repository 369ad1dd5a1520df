"""Timers of the simulated machine: which timers it sets, and what it remembers of them.

A machine may rely on these rules (EFF-09, EFF-10, EFF-33), and this one deals with the rest:

- A leader fires a timer at most once, never early, and never after the machine has replaced or cancelled it.
  `after_ms` counts by the leader's monotonic clock from the request on. For `at_ms` the leader reads its wall
  clock once, at the request; setting the clock later moves nothing.
- Timers end with the leadership. So the state of the machine holds the pending timers, and a new leader sets
  them again. If the `Timeout` of the former leader is in the log and not yet applied, one setting fires in
  both leaderships.
- A `Timeout` names a timer, not a setting. A `Timeout` that was appended before its timer was replaced is
  applied afterwards. With `at_ms` the machine can tell by the log's time, and sets an early timer again.
"""

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from barque.machine.effects import Timer
from barque.machine.machine import CommandMeta

PENDING = "pending"
EXPIRED = "expired"
DELAYS_MS = (0, 2, 20, 100, 500, 4_000)
NAMES_PER_KEY = 8


class Setting(NamedTuple):
    """A pending timer: the command that set it, its length, and when it is due by the log's time."""

    set_at: int
    after_ms: int
    due_ms: int
    by_wall: bool

    def timer(self, name: str) -> Timer:
        """The effect that sets the timer, now or in a new leadership."""
        return Timer(name, at_ms=self.due_ms) if self.by_wall else Timer(name, after_ms=self.after_ms)


class TimerModel:
    """The timers of one member. `asks` learns of each timer that it sets, `fired` of each `Timeout`."""

    def __init__(self, asks: Callable[[Timer], None], fired: Callable[[CommandMeta, str], None]) -> None:
        self._asks = asks
        self._fired = fired

    def change(self, meta: CommandMeta, key: str, state: dict[str, Any]) -> list[Timer]:
        """Set or replace a timer of this key, or cancel any timer. The index decides on all members."""
        rng = Random(meta.index)  # noqa: S311  # the same everywhere, on purpose
        pending = state.setdefault(PENDING, {})
        if pending and rng.random() < 0.3:
            name = rng.choice(list(pending))
            del pending[name]
            return self._ask(Timer(name))
        name, after_ms = f"{key}/{rng.randrange(NAMES_PER_KEY)}", rng.choice(DELAYS_MS)
        setting = Setting(meta.index, after_ms, meta.system_time_ms + after_ms, rng.random() < 0.5)
        pending[name] = setting
        return self._ask(setting.timer(name))

    def expire(self, meta: CommandMeta, name: str, state: dict[str, Any]) -> list[Timer]:
        """Record the expired setting. A timer that is early by the log's time is set again."""
        pending = state.setdefault(PENDING, {})
        setting = pending.get(name)
        self._fired(meta, name)
        if setting is None:
            return []
        if setting.by_wall and meta.system_time_ms < setting.due_ms:
            return self._ask(setting.timer(name))
        del pending[name]
        state.setdefault(EXPIRED, []).append([setting.set_at, meta.index])
        return []

    def restore(self, state: dict[str, Any]) -> None:
        """Complete a decoded state."""
        pending = state.get(PENDING, {})
        for name, fields in pending.items():
            pending[name] = Setting(*fields)

    def lead(self, state: dict[str, Any]) -> list[Timer]:
        """Set all pending timers again, as a new leader."""
        timers = [setting.timer(name) for name, setting in state.get(PENDING, {}).items()]
        return [asked for timer in timers for asked in self._ask(timer)]

    def _ask(self, timer: Timer) -> list[Timer]:
        self._asks(timer)
        return [timer]
