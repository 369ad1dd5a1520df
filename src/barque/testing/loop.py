"""Virtual time: an event loop that never waits, and processes that can be frozen and killed on it.

Time jumps to the next scheduled call. There is no selector, no thread and no socket, so the
same calls give the same run. Whatever a `VirtualProcess` schedules belongs to it (its context
variable travels with every callback and task), so that a freeze or a kill needs no help from
the code that runs inside.
"""

import asyncio
import contextvars
import heapq
import math
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
_PROCESS: "contextvars.ContextVar[VirtualProcess | None]" = contextvars.ContextVar("process", default=None)
_SAME_INSTANT_MAX = 200_000
_TICKS_PER_S = 1 << 30


class Deadlock(Exception):
    """Something waits, and nothing is scheduled that could end the waiting."""


class Livelock(Exception):
    """Calls go on for ever while no time passes."""


class Crashed(BaseException):
    """Raised inside a process to end it, between any two of its operations. Not an `Exception`:
    no handler for errors may survive the death of its process.
    """


class VirtualProcess:
    """What an operating system gives a node: a life, a stretch of being stopped, a blocked loop."""

    def __init__(self, loop: "VirtualLoop", name: str) -> None:
        self.loop = loop
        self.name = name
        self.alive = True
        self.held_until = 0.0
        self.backlog: list[asyncio.Handle] = []
        self.on_crash: Callable[[], None] = lambda: None
        self.context = contextvars.copy_context()
        self.context.run(_PROCESS.set, self)
        self._wake_at = 0.0

    @property
    def busy_until(self) -> float:
        """When what it has done by now will be done: now, or later if a call took time."""
        return max(self.loop.time(), self.held_until)

    def charge(self, seconds: float) -> None:
        """The present call takes so long; nothing else of this process happens meanwhile."""
        self.held_until = _on_grid(self.busy_until + seconds)
        self._wake()

    def freeze(self, until: float) -> None:
        """Stop running (SIGSTOP) until then; timers and input wait."""
        self.held_until = max(self.held_until, _on_grid(until))
        self._wake()

    def kill(self) -> None:
        """Nothing of it runs any more."""
        self.alive = False
        self.backlog.clear()

    def call(self, function: Callable[..., Any], *args: Any) -> None:
        """Run a function inside this process, soon."""
        self.loop.call_soon(function, *args, context=self.context)

    def spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run a coroutine as a task of this process."""
        return self.loop.create_task(work, context=self.context)

    def _wake(self) -> None:
        if self._wake_at != self.held_until:
            self._wake_at = self.held_until
            self.loop.call_at(self.held_until, self._thaw, context=OUTSIDE)

    def _thaw(self) -> None:
        if self.loop.time() >= self.held_until:
            backlog, self.backlog = self.backlog, []
            self.loop.run_later(backlog)

    def admits(self, handle: asyncio.Handle) -> bool:
        """Whether this call may run now; if it only has to wait, it is kept."""
        if not self.alive:
            return False
        if self.held_until > self.loop.time() or self.backlog:
            self.backlog.append(handle)
            return False
        return True


OUTSIDE = contextvars.Context()
"""The context of what belongs to no process."""


def _on_grid(seconds: float) -> float:
    return math.ceil(seconds * _TICKS_PER_S) / _TICKS_PER_S


class VirtualLoop(asyncio.BaseEventLoop):
    """asyncio without waiting. `errors` gets what callbacks raised and nobody took."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._instant = 0
        self._owner = threading.get_ident()
        self.errors: Callable[[dict[str, Any]], None] = lambda _context: None
        self.set_exception_handler(self._on_error)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def call_at(  # type: ignore[override]  # the variadic generics of typeshed
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """See `AbstractEventLoop`. Times are whole ticks of a nanosecond or so, rounded up.

        Else a rounding error could make a caller wait for the last bit of a float, for ever: real
        time would pass while it looks, and virtual time does not.
        """
        return super().call_at(_on_grid(when), callback, *args, context=context)

    def later(self, seconds: float, callback: Callable[..., Any], *args: Any) -> None:
        """Call something that belongs to no process, whoever asks for it."""
        self.call_at(self._now + seconds, callback, *args, context=OUTSIDE)

    def at(self, when: float, callback: Callable[..., Any], *args: Any) -> None:
        """Likewise, at a time."""
        self.call_at(when, callback, *args, context=OUTSIDE)

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """As `call_soon`; from another thread it would be a race, and is refused."""
        if threading.get_ident() != self._owner:
            raise RuntimeError("a simulation has one thread")
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, *_: Any, **__: Any) -> Any:  # type: ignore[override]  # it only refuses
        """There are no threads here."""
        raise RuntimeError("a simulation has one thread")

    def run_later(self, handles: list[asyncio.Handle]) -> None:
        """Queue calls that had been kept back, ahead of what was queued since."""
        self._ready.extendleft(reversed(handles))  # type: ignore[attr-defined]

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            if not scheduled:
                raise Deadlock(f"at {self._now:.3f} s something waits, and nothing is scheduled")
            if scheduled[0]._when > self._now:
                self._now = scheduled[0]._when
                self._instant = 0
        while scheduled and scheduled[0]._when <= self._now:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            ready.append(handle)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            process = handle._context.get(_PROCESS)
            if process is None or process.admits(handle):
                handle._run()
            self._instant += 1
        if self._instant > _SAME_INSTANT_MAX:
            calls = "; ".join(sorted({repr(handle) for handle in list(ready)[:5]}))
            raise Livelock(f"{self._instant} calls at {self._now:.6f} s, and no time passes: {calls}")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass  # taken out when its time comes

    def _on_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Crashed):
            process = _PROCESS.get() or _process_of(context)
            if process is not None and process.alive:
                process.on_crash()
            return
        if "destroyed but it is pending" in str(context.get("message")):
            return  # a task of a process that was killed
        self.errors(context)


def _process_of(context: dict[str, Any]) -> VirtualProcess | None:
    handle = context.get("handle")
    return handle._context.get(_PROCESS) if handle is not None else None
