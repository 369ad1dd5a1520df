"""How the outcome of a request reaches the caller: through a future, or as a notification of a pipeline."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from barque.errors import BarqueError, Stopped
from barque.transport.answers import fail


class Listener(Protocol):
    """Takes the outcomes of a batch. A waiter stands for one request, as the listener knows it."""

    def replied(
        self, waiters: Sequence[Any], replies: Sequence[Any], errors: Mapping[int, BarqueError] | None
    ) -> None:
        """Take one reply for each waiter, or its error (`errors`, by position)."""

    def failed(self, waiters: Sequence[Any], error: BarqueError) -> None:
        """Take the one error that ended all these requests."""


class Callers:
    """The listener of requests that callers await: the waiters are their futures."""

    def replied(
        self, waiters: Sequence[Any], replies: Sequence[Any], errors: Mapping[int, BarqueError] | None
    ) -> None:
        """Wake each caller. Skip those that were cancelled meanwhile."""
        for position, (future, reply) in enumerate(zip(waiters, replies, strict=True)):
            if future.done():
                continue
            if errors and position in errors:
                fail(future, errors[position])
            else:
                future.set_result(reply)

    def failed(self, waiters: Sequence[Any], error: BarqueError) -> None:
        """Raise the error in each caller."""
        for future in waiters:
            if not future.done():
                fail(future, error)


CALLERS = Callers()


class Notification(msgspec.Struct, frozen=True, gc=False):
    """The outcome of one pipelined command.

    `correlation` is the value that the caller gave. `error` is None when the command was applied, and
    `reply` is the machine's; else it is a `Refused` (the command did not happen) or an `OutcomeUnknown`.
    """

    correlation: Any
    reply: Any = None
    error: BarqueError | None = None


class Notifications:
    """The listener of pipelined commands: keeps their outcomes, in the order in which they became known.

    The waiters are the callers' correlations.
    """

    def __init__(self) -> None:
        self._ready: list[Notification] = []
        self._news = asyncio.Event()
        self._closed_because = ""  # empty while the client is open

    def begin(self) -> None:
        """The client is open (again)."""
        self._closed_because = ""

    def replied(
        self, waiters: Sequence[Any], replies: Sequence[Any], errors: Mapping[int, BarqueError] | None
    ) -> None:
        """See `Listener`."""
        told = [Notification(c, r) for c, r in zip(waiters, replies, strict=True)]
        for position, error in (errors or {}).items():
            told[position] = Notification(waiters[position], None, error)
        self._add(told)

    def failed(self, waiters: Sequence[Any], error: BarqueError) -> None:
        """See `Listener`."""
        self._add([Notification(correlation, None, error) for correlation in waiters])

    def _add(self, notifications: list[Notification]) -> None:
        self._ready += notifications
        self._news.set()

    def end(self, reason: str) -> None:
        """The client is closed: wake all waiters."""
        self._closed_because = reason
        self._news.set()

    async def take(self) -> list[Notification]:
        """Return all outcomes known by now; wait for the first. Raises `Stopped` if the client is closed."""
        while not self._ready:
            if self._closed_because:
                raise Stopped(self._closed_because)
            self._news.clear()
            await self._news.wait()
        ready, self._ready = self._ready, []
        return ready
