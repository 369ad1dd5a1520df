"""Who waits for an answer, and how it is told."""

import asyncio
from typing import Any, NamedTuple, Protocol

from barque.errors import BarqueError


class Notification(NamedTuple):
    """The outcome of one pipelined command.

    `correlation` is what the caller gave. Exactly one of reply and error counts: `error` is None when the
    command was applied, else a `Refused` (it did not happen) or `OutcomeUnknown`.
    """

    correlation: Any
    reply: Any
    error: BarqueError | None


class Waiter(Protocol):
    """Told once, with a reply or an error."""

    def done(self, reply: Any) -> None:
        """The machine's reply."""

    def failed(self, error: BarqueError) -> None:
        """There will be none."""


class FutureWaiter:
    """A caller that awaits."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def done(self, reply: Any) -> None:
        """See `Waiter`."""
        if not self.future.done():
            self.future.set_result(reply)

    def failed(self, error: BarqueError) -> None:
        """See `Waiter`."""
        if not self.future.done():
            self.future.set_exception(error)
            self.future.exception()  # a caller that was cancelled needs no log line about it


class Notifications:
    """The outcomes of pipelined commands, in the order in which they became known."""

    def __init__(self) -> None:
        self._ready: list[Notification] = []
        self._event: asyncio.Future[None] | None = None
        self.outstanding = 0

    def add(self, notification: Notification) -> None:
        """One outcome."""
        self.outstanding -= 1
        self._ready.append(notification)
        if self._event is not None and not self._event.done():
            self._event.set_result(None)

    async def take(self) -> list[Notification]:
        """All outcomes known by now; waits for the first."""
        while not self._ready:
            self._event = asyncio.get_running_loop().create_future()
            await self._event
            self._event = None
        ready, self._ready = self._ready, []
        return ready


class PipelineWaiter:
    """A pipelined command; its outcome goes to `Client.notifications`."""

    __slots__ = ("_correlation", "_notifications")

    def __init__(self, notifications: Notifications, correlation: Any) -> None:
        self._notifications = notifications
        self._correlation = correlation

    def done(self, reply: Any) -> None:
        """See `Waiter`."""
        self._notifications.add(Notification(self._correlation, reply, None))

    def failed(self, error: BarqueError) -> None:
        """See `Waiter`."""
        self._notifications.add(Notification(self._correlation, None, error))


class NobodyWaits:
    """For commands of which nobody wants to hear."""

    __slots__ = ()

    def done(self, reply: Any) -> None:
        """See `Waiter`."""

    def failed(self, error: BarqueError) -> None:
        """See `Waiter`."""
