"""Timers of the simulated clusters' machine: which it sets, and what it remembers of them.

What a machine may rely on (EFF-09, EFF-10, EFF-33), and what this one does about the rest:

- A leader fires what it was asked for at most once, never before its time, and not at all once it was asked
  to replace or to cancel it. `after_ms` is counted by the leader's monotonic clock from then on. For `at_ms`
  the leader looks at its wall clock once, when it is asked; a clock that is set later moves nothing.
- Timers die with leadership. So what is pending is a part of the state, and a new leader sets it again; if
  its predecessor's `Timeout` is in the log and not applied yet, one setting fires in both leaderships.
- A `Timeout` names a timer, not a setting: one that was appended before its timer was replaced is applied
  afterwards. With `at_ms` a machine can tell by the log's time, and sets again what came too early.
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
    """A timer that is pending: which command set it, for how long, until when by the log's time."""

    set_at: int
    after_ms: int
    due_ms: int
    by_wall: bool

    def timer(self, name: str) -> Timer:
        """What to ask for, now or in a new leadership."""
        return Timer(name, at_ms=self.due_ms) if self.by_wall else Timer(name, after_ms=self.after_ms)


class TimerModel:
    """One member's timers. Whoever runs it is told of each that it asks for, and of each that has fired."""

    def __init__(self, asks: Callable[[Timer], None], fired: Callable[[CommandMeta, str], None]) -> None:
        self._asks = asks
        self._fired = fired

    def change(self, meta: CommandMeta, key: str, state: dict[str, Any]) -> list[Timer]:
        """Set or replace a timer of this key, or cancel any; the index decides, on all members alike."""
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
        """Write down which setting has expired; ask again if it has not, by the log's time."""
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

    def lead(self, state: dict[str, Any]) -> list[Timer]:
        """In a new leadership all that is pending is set again."""
        timers = [setting.timer(name) for name, setting in state.get(PENDING, {}).items()]
        return [asked for timer in timers for asked in self._ask(timer)]

    def _ask(self, timer: Timer) -> list[Timer]:
        self._asks(timer)
        return [timer]
