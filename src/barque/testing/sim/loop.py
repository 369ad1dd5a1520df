"""Virtual time: an event loop that never waits, and processes on it that can be frozen and killed.

Time jumps to the next scheduled call. There is no selector, no thread and no socket, so the same calls give
the same run. Every callback and task that a `VirtualProcess` schedules belongs to that process: a context
variable travels with it. So the code inside a process needs no help to be frozen or killed.
"""

import asyncio
import contextvars
import math
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from heapq import heappop, heappush
from typing import Any, TypeVar

T = TypeVar("T")
_PROCESS: "contextvars.ContextVar[VirtualProcess | None]" = contextvars.ContextVar("process", default=None)
_SAME_INSTANT_MAX = 200_000
CALLS_MAX = 3_000_000
"""A run has some hundred thousand calls. A run with this many is a storm."""
_TICKS_PER_S = 1 << 30


class Deadlock(Exception):
    """A task waits, and no scheduled call could end the wait."""


class Livelock(Exception):
    """Calls go on without end while no time passes."""


class Storm(Exception):
    """More happens than a healthy cluster has any reason to do."""


class Crashed(BaseException):
    """Raised inside a process to end it, between any two of its operations.

    It is not an `Exception`: no handler for errors may survive the death of its process.
    """


class VirtualProcess:
    """What an operating system gives a node: a life, times when it is stopped, a blocked loop."""

    def __init__(self, loop: "VirtualLoop", name: str) -> None:
        self.loop = loop
        self.name = name
        self.alive = True
        self.held_until = 0.0
        self.frozen_until = 0.0
        self.stood_s = 0.0
        """How long it was stopped or busy in its life, including what is under way."""
        self.backlog: list[asyncio.Handle] = []
        self.buried: list[asyncio.Handle] = []
        self.tasks: list[asyncio.Task[Any]] = []  # all tasks that it ever began
        self.on_crash: Callable[[], None] = lambda: None
        self.at_death: list[Callable[[], None]] = []
        self.context = contextvars.copy_context()
        self.context.run(_PROCESS.set, self)
        self._wake_at = 0.0

    @property
    def busy_until(self) -> float:
        """When the calls of the process so far are done: now, or later if a call took time."""
        now, held = self.loop.now, self.held_until
        return held if held > now else now

    def charge(self, seconds: float) -> None:
        """The present call takes this long; nothing else of this process happens meanwhile."""
        self._hold(_on_grid(self.busy_until + seconds))

    def freeze(self, until: float) -> None:
        """Stop the process (SIGSTOP) until then: its timers, its input and its threads wait."""
        self.frozen_until = max(self.frozen_until, _on_grid(until))
        self._hold(max(self.held_until, self.frozen_until))

    def _hold(self, until: float) -> None:
        self.stood_s += max(0.0, until - self.busy_until)
        self.held_until = until
        self._wake()

    def kill(self) -> None:
        """End the process. None of its code runs afterwards, except `at_death`."""
        at_death, self.at_death = self.at_death, []
        for call in at_death:
            call()
        self.alive = False
        # Kept, not dropped: the clean-up of a dropped coroutine would run at a random moment.
        self.buried += self.backlog
        self.backlog = []

    def call(self, function: Callable[..., Any], *args: Any) -> None:
        """Run a function inside this process: now, or when it runs again.

        For calls that come from outside, not from another call of this process.
        """
        if self.alive:
            if self.held_until > self.loop.now or self.backlog:
                self.backlog.append(asyncio.Handle(function, args, self.loop, self.context))
            else:
                self.loop.run_call(self.context, function, args)

    def spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run a coroutine as a task of this process."""
        return self.loop.create_task(work, context=self.context)

    def _wake(self) -> None:
        if self._wake_at != self.held_until:
            self._wake_at = self.held_until
            self.loop.call_at(self.held_until, self._thaw, context=OUTSIDE)

    def _thaw(self) -> None:
        if self.loop.now >= self.held_until:
            backlog, self.backlog = self.backlog, []
            self.loop.run_later(backlog)

    def admits(self, handle: asyncio.Handle) -> bool:
        """Whether this call may run now. A call that has to wait is kept."""
        if not self.alive:
            self.buried.append(handle)
            return False
        if self.held_until > self.loop.now or self.backlog:
            self.backlog.append(handle)
            return False
        return True


OUTSIDE = contextvars.Context()
"""The context of calls that belong to no process."""


def _on_grid(seconds: float) -> float:
    return math.ceil(seconds * _TICKS_PER_S) / _TICKS_PER_S


def _context_of(handle: Any) -> contextvars.Context:
    context: contextvars.Context = handle._context  # typeshed does not show what a handle holds
    return context


_Call = tuple[Callable[..., Any], tuple[Any, ...]]


class VirtualLoop(asyncio.BaseEventLoop):
    """asyncio without waiting. `errors` receives exceptions that callbacks raised and nothing handled.

    Calls of one instant run in the order in which they were scheduled. A call that belongs to no process is
    kept as a bare function with its arguments: a handle for each frame cost a tenth of a run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        """Virtual seconds since the loop was made."""
        self._soon: deque[asyncio.Handle | _Call] = deque()
        self._due: list[tuple[float, int, asyncio.TimerHandle | _Call]] = []
        self._sequence = 0
        self._calls = 0
        self._owner = threading.get_ident()
        self.errors: Callable[[dict[str, Any]], None] = lambda _context: None
        self.left_behind: list[Generator[Any, Any, Any]] = []
        """Of threads of dead processes. Kept, as their tasks are, until somebody ends them."""
        self.set_exception_handler(self._on_error)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self.now

    def call_soon(  # type: ignore[override]  # the variadic generics of typeshed
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """See `AbstractEventLoop`."""
        handle = asyncio.Handle(callback, args, self, context)
        self._soon.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """See `AbstractEventLoop`."""
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """See `AbstractEventLoop`. Times are whole ticks of 2⁻³⁰ s, rounded up.

        Otherwise a rounding error could make a caller wait without end for the last bit of a float: real
        time passes while the caller looks, virtual time does not.
        """
        when = _on_grid(when)
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._sequence += 1
        heappush(self._due, (when, self._sequence, handle))
        return handle

    def create_task(self, *args: Any, **settings: Any) -> asyncio.Task[Any]:
        """See `AbstractEventLoop`. A process knows its tasks."""
        task = super().create_task(*args, **settings)
        process = (settings.get("context") or contextvars.copy_context()).get(_PROCESS)
        if process is not None:
            process.tasks.append(task)
        return task

    def timers_of(self, process: VirtualProcess) -> list[asyncio.TimerHandle]:
        """The timers of a process that are still to come."""
        timers = [item for _, _, item in self._due if isinstance(item, asyncio.TimerHandle)]
        mine = [timer for timer in timers if _context_of(timer).get(_PROCESS) is process]
        return sorted(timer for timer in mine if not timer.cancelled())

    def later(self, seconds: float, callback: Callable[..., Any], *args: Any) -> None:
        """Call a function that belongs to no process, after a delay."""
        self.at(self.now + seconds, callback, *args)

    def at(self, when: float, callback: Callable[..., Any], *args: Any) -> None:
        """Call a function that belongs to no process, at a given time."""
        self._sequence += 1
        heappush(self._due, (_on_grid(when), self._sequence, (callback, args)))

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """As `call_soon`. A call from another thread would be a race, and is refused."""
        if threading.get_ident() != self._owner:
            raise RuntimeError("a simulation has one thread")
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, *_: Any, **__: Any) -> Any:  # type: ignore[override]  # it only refuses
        """Refuse: there are no threads here."""
        raise RuntimeError("a simulation has one thread")

    def run_later(self, handles: list[asyncio.Handle]) -> None:
        """Queue calls that were kept back, ahead of those queued since."""
        self._soon.extendleft(reversed(handles))

    def run_call(
        self, context: contextvars.Context, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        """Run a call of a process now; its exception is handled like that of a callback."""
        try:
            context.run(function, *args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            text = f"exception in callback {function!r}"
            process = context.get(_PROCESS)
            self.call_exception_handler({"message": text, "exception": error, "process": process})

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def _run_once(self) -> None:
        """Run calls until the loop is stopped: `run_forever` checks only between two of these."""
        soon, due = self._soon, self._due
        instant = before = 0
        while not self._stopping:  # type: ignore[attr-defined]
            if not soon:
                if not due:
                    raise Deadlock(f"at {self.now:.3f} s a task waits, and no call is scheduled")
                if due[0][0] > self.now:
                    self.now = due[0][0]
                    instant = before = 0
            while due and due[0][0] <= self.now:
                soon.append(heappop(due)[2])
            for _ in range(len(soon)):
                self._run_item(soon.popleft())
                instant += 1
            self._calls += instant - before
            before = instant
            if self._calls > CALLS_MAX:
                raise Storm(f"{self._calls} calls in {self.now:.3f} virtual seconds")
            if instant > _SAME_INSTANT_MAX:
                calls = "; ".join(sorted({repr(item) for item in list(soon)[:5]}))
                raise Livelock(f"{instant} calls at {self.now:.6f} s, and no time passes: {calls}")

    def _run_item(self, item: asyncio.Handle | _Call) -> None:
        if type(item) is tuple:
            self.run_call(OUTSIDE, *item)
            return
        handle: Any = item  # typeshed does not show what a handle holds
        if handle._cancelled:
            return
        context = handle._context
        process = context.get(_PROCESS)
        if process is None or process.admits(handle):
            self.run_call(context, handle._callback, handle._args)

    def close(self) -> None:
        """See `AbstractEventLoop`."""
        self._soon.clear()
        self._due.clear()
        super().close()

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass  # removed when its time comes

    def _on_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Crashed):
            process = context.get("process") or _PROCESS.get()
            if process is not None and process.alive:
                process.on_crash()
            return
        if "destroyed but it is pending" in str(context.get("message")):
            return  # a task of a killed process
        self.errors(context)
