"""What a caller is told, and how: futures for those who await, notifications for pipelines."""

import asyncio
from typing import Any

import msgspec

from barque.core.entries import BATCH_ENTRIES_MAX
from barque.errors import BarqueError, Stopped
from barque.runtime.node_rpc import fail
from barque.runtime.pending_requests import UnansweredRanges


class Notification(msgspec.Struct, frozen=True, gc=False):
    """The outcome of one pipelined command.

    `correlation` is what the caller gave. `error` is None when the command was applied and
    `reply` is the machine's; else a `Refused` (it did not happen) or `OutcomeUnknown`.
    """

    correlation: Any
    reply: Any = None
    error: BarqueError | None = None


class Notifications:
    """The outcomes of pipelined commands, in the order in which they became known."""

    def __init__(self) -> None:
        self._ready: list[Notification] = []
        self._news = asyncio.Event()
        self._over = ""  # why there will be no more; empty while the client is open

    def begin(self) -> None:
        """The client is open (again)."""
        self._over = ""

    def add(self, notifications: list[Notification]) -> None:
        """Some outcomes."""
        self._ready += notifications
        self._news.set()

    def end(self, reason: str) -> None:
        """There will be no more."""
        self._over = reason
        self._news.set()

    async def take(self) -> list[Notification]:
        """All outcomes known by now; waits for the first. Raises `Stopped` when there will be none."""
        while not self._ready:
            if self._over:
                raise Stopped(self._over)
            self._news.clear()
            await self._news.wait()
        ready, self._ready = self._ready, []
        return ready


PART_REQUESTS_MAX = BATCH_ENTRIES_MAX
PART_BYTES_MAX = 16 * 1024 * 1024
"""What goes to a node in one message at most, but for a single request that is larger."""


class Batch:
    """Requests of one kind for one cluster that travel together, until each is answered.

    `waiters` has one entry for each request: a future, or for pipelined commands the caller's
    correlation. `sink` takes the outcomes of pipelined ones; `mute` says that nobody listens.
    """

    __slots__ = (
        "_unanswered",
        "arguments",
        "cluster",
        "deadline",
        "first",
        "kind",
        "low_priority",
        "mode",
        "mute",
        "payloads",
        "sink",
        "waiters",
    )

    def __init__(
        self,
        kind: str,
        cluster: str,
        deadline: float,
        *,
        mode: Any = None,
        low_priority: bool = False,
        sink: Notifications | None = None,
        mute: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        self.kind = kind  # "command", "call", or the level of a read
        self.cluster = cluster  # the verb, for a call
        self.deadline = deadline
        self.mode = mode
        self.low_priority = low_priority
        self.sink = sink
        self.mute = mute
        self.arguments = arguments
        self.payloads: list[bytes] = []
        self.waiters: list[Any] = []
        self.first = 0  # its correlations on the wire begin here; 0 until it is sent
        self._unanswered: UnansweredRanges | None = None  # None: nothing is answered

    def parts(self) -> list["Batch"]:
        """Itself, or as many in its place as a node takes at once, in order. It must not be sent yet."""
        if len(self.payloads) <= PART_REQUESTS_MAX and sum(map(len, self.payloads)) <= PART_BYTES_MAX:
            return [self]
        parts: list[Batch] = []
        room = 0
        for payload, waiter in zip(self.payloads, self.waiters, strict=True):
            if not parts or len(payload) > room or len(parts[-1].waiters) == PART_REQUESTS_MAX:
                parts.append(self._empty())
                room = PART_BYTES_MAX
            parts[-1].payloads.append(payload)
            parts[-1].waiters.append(waiter)
            room -= len(payload)
        return parts

    def _empty(self) -> "Batch":
        """Another of the same kind."""
        return Batch(
            self.kind,
            self.cluster,
            self.deadline,
            mode=self.mode,
            low_priority=self.low_priority,
            sink=self.sink,
            mute=self.mute,
        )

    @property
    def is_read(self) -> bool:
        """Whether it changes nothing, so that it may be asked again."""
        return self.kind in ("local", "leader", "consistent")

    def _close(self, offset: int, count: int) -> list[tuple[int, int]]:
        """Those of these requests that had no answer yet, as (offset, count)."""
        if self._unanswered is None:
            self._unanswered = UnansweredRanges(len(self.waiters))
        return self._unanswered.close(offset, count)

    @property
    def is_begun(self) -> bool:
        """Whether any request has its answer."""
        return self._unanswered is not None

    @property
    def is_answered(self) -> bool:
        """Whether all have."""
        return self._unanswered is not None and not self._unanswered

    def replied(self, offset: int, replies: list[Any], errors: dict[int, BarqueError] | None) -> None:
        """Replies to the requests from `offset` on."""
        for first, count in self._close(offset, len(replies)):
            at = first - offset
            own = {k - at: v for k, v in errors.items() if at <= k < at + count} if errors else None
            self._tell(first, replies if count == len(replies) else replies[at : at + count], own)

    def _tell(self, offset: int, replies: list[Any], errors: dict[int, BarqueError] | None) -> None:
        if self.mute:
            return
        waiters = self.waiters
        if offset or len(replies) != len(waiters):
            waiters = waiters[offset : offset + len(replies)]
        if self.sink is not None:
            told = [Notification(c, r) for c, r in zip(waiters, replies, strict=True)]
            for position, error in (errors or {}).items():
                told[position] = Notification(waiters[position], None, error)
            self.sink.add(told)
            return
        for position, (future, reply) in enumerate(zip(waiters, replies, strict=True)):
            if future.done():
                continue  # its caller was cancelled
            if errors and position in errors:
                fail(future, errors[position])
            else:
                future.set_result(reply)

    def failed(self, offset: int, count: int, error: BarqueError) -> None:
        """These requests have no reply."""
        for first, size in self._close(offset, count):
            self._tell_failed(first, size, error)

    def _tell_failed(self, offset: int, count: int, error: BarqueError) -> None:
        if self.mute:
            return
        waiters = self.waiters[offset : offset + count]
        if self.sink is not None:
            self.sink.add([Notification(c, None, error) for c in waiters])
            return
        for future in waiters:
            if not future.done():
                fail(future, error)

    def failed_rest(self, error: BarqueError) -> None:
        """Everything that is not answered yet has no reply."""
        self.failed(0, len(self.waiters), error)
