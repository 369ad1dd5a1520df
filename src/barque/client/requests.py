"""Requests of one kind that travel as one message: commands, reads, or one administrative call.

A batch is filled during one turn of the loop, sent once, and open until each of its requests has an answer.
"""

import asyncio
import struct
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import msgspec

from barque.client.outcomes import CALLERS, Listener
from barque.core.entries import COMMAND_BYTES_MAX
from barque.errors import (
    BarqueError,
    CommandTimeout,
    InvalidCommand,
    LeaderTimeout,
    NoLeader,
    OutcomeUnknown,
    QueryTimeout,
)
from barque.transport.answers import UnansweredRanges, unanswered
from barque.transport.wire import ClientCall, ClientCommands, ClientQueries, ClientRequest
from barque.types import NAME_RULE, ReplyMode, is_valid_name

PART_REQUESTS_MAX = 4_096
PART_BYTES_MAX = 4 * 1024 * 1024
"""A message to a node holds at most this much, unless one request alone is larger.

A node takes a message as a whole, and other clusters wait meanwhile: 65,536 commands took it 80 ms.
"""

_encode = msgspec.msgpack.encode
_EARLY_S = 0.01
"""The node's clock and ours measure the same time span; they may differ by this much at its end."""
_CALL_SHARE = 0.2
"""A node answers an administrative request when this share of the time is still left."""


class Batch:
    """The common part of all batches: the waiters, the deadline, and which requests are answered.

    Request number `i` has the waiter `waiters[i]` and, once the batch is sent, the correlation `first + i`.
    """

    is_read: ClassVar[bool] = False
    """Whether it changes nothing, so that another node may be asked when the first is silent."""

    __slots__ = (
        "_unanswered",
        "cluster",
        "deadline",
        "first",
        "is_answered",
        "is_awaited",
        "late_at",
        "listener",
        "node",
        "seeks_leader",
        "waiters",
    )

    def __init__(self, cluster: str, deadline: float, listener: Listener = CALLERS) -> None:
        self.cluster = cluster  # empty for a call
        self.node = ""  # the only node that may get it; empty if the router chooses
        self.deadline = deadline  # in seconds on the loop's clock
        self.late_at = deadline - _EARLY_S  # an error from here on means that the caller's time ran out
        self.listener = listener
        self.waiters: list[Any] = []
        self.first = 0  # 0 until it is sent
        self.is_answered = False  # whether all requests are answered
        self.is_awaited = True  # whether anyone wants to hear its outcome
        self.seeks_leader = False  # whether the node of the cluster's leader should get it; else our home
        self._unanswered: UnansweredRanges | None = None  # None: no request is answered, or all are

    def wait(self) -> "asyncio.Future[Any]":
        """Add the future of a caller who awaits the next request."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.waiters.append(future)
        return future

    def parts(self) -> "list[Batch]":
        """Cut it, before it is sent, into batches that a node accepts as one message each."""
        return [self]

    def message(self, timeout_ms: int) -> ClientRequest:
        """Build the message that carries it; `first` is set."""
        raise NotImplementedError

    def lost(self, text: str) -> BarqueError:
        """The error for requests that were sent and not answered."""
        raise NotImplementedError

    # --- answers -----------------------------------------------------------------------

    @property
    def is_begun(self) -> bool:
        """Whether any request has its answer."""
        return self.is_answered or self._unanswered is not None

    def _close(self, offset: int, count: int) -> list[tuple[int, int]]:
        """Mark requests as answered; return those that were open until now, as (offset, count)."""
        if self.is_answered:
            return []
        if self._unanswered is None:
            if offset == 0 and count >= len(self.waiters):
                self.is_answered = True
                return [(0, len(self.waiters))]
            self._unanswered = UnansweredRanges(len(self.waiters))
        closed = self._unanswered.close(offset, count)
        self.is_answered = not self._unanswered
        return closed

    def replied(self, offset: int, replies: list[Any], errors: Mapping[int, BarqueError] | None) -> None:
        """Hand out replies, or their errors (by position), to the requests from `offset` on."""
        if not offset and len(replies) == len(self.waiters) and not self.is_begun:
            self.is_answered = True  # nearly always: one answer for all
            self.listener.replied(self.waiters, replies, errors)
            return
        for first, count in self._close(offset, len(replies)):
            at = first - offset
            own = {k - at: v for k, v in errors.items() if at <= k < at + count} if errors else None
            part = replies if count == len(replies) else replies[at : at + count]
            self.listener.replied(self._waiters(first, count), part, own)

    def failed(self, offset: int, count: int, error: BarqueError) -> None:
        """End these requests with an error, as far as they have no answer."""
        for first, size in self._close(offset, count):
            self.listener.failed(self._waiters(first, size), error)

    def failed_rest(self, error: BarqueError) -> None:
        """End every request that has no answer yet."""
        self.failed(0, len(self.waiters), error)

    def _waiters(self, offset: int, count: int) -> list[Any]:
        return self.waiters if count == len(self.waiters) else self.waiters[offset : offset + count]

    def dated(self, error: BarqueError, now: float) -> BarqueError:
        """The same error; as a `TimeoutError`, if the caller's time ran out before it came."""
        if now >= self.late_at:
            if type(error) is OutcomeUnknown:
                return CommandTimeout(str(error))
            if type(error) is NoLeader:
                return LeaderTimeout(str(error))
        return error


Encoded = TypeVar("Encoded", bound="EncodedBatch")


class EncodedBatch(Batch):
    """Requests that were encoded by the client: `payloads[i]` is number `i`."""

    __slots__ = ("payloads",)

    def __init__(self, cluster: str, deadline: float, listener: Listener = CALLERS) -> None:
        super().__init__(cluster, deadline, listener)
        self.payloads: list[bytes] = []

    def ask(self, payload: bytes) -> "asyncio.Future[Any]":
        """Add a request that a caller awaits."""
        self.payloads.append(payload)
        return self.wait()

    def _empty(self: Encoded) -> Encoded:
        """Another batch of the same kind, without requests."""
        raise NotImplementedError

    def parts(self) -> list[Batch]:
        """See `Batch`."""
        if len(self.payloads) <= PART_REQUESTS_MAX and sum(map(len, self.payloads)) <= PART_BYTES_MAX:
            return [self]
        parts: list[EncodedBatch] = []
        room = 0
        for payload, waiter in zip(self.payloads, self.waiters, strict=True):
            if not parts or len(payload) > room or len(parts[-1].waiters) == PART_REQUESTS_MAX:
                parts.append(self._empty())
                room = PART_BYTES_MAX
            parts[-1].payloads.append(payload)
            parts[-1].waiters.append(waiter)
            room -= len(payload)
        return [*parts]


class CommandBatch(EncodedBatch):
    """Commands for one cluster. A batch is sent at most once: the commands may have happened then."""

    __slots__ = ("low_priority", "reply_mode")

    def __init__(
        self,
        cluster: str,
        deadline: float,
        reply_mode: ReplyMode,
        listener: Listener = CALLERS,
        *,
        low_priority: bool = False,
    ) -> None:
        super().__init__(cluster, deadline, listener)
        self.reply_mode = reply_mode
        self.low_priority = low_priority
        self.seeks_leader = True
        self.is_awaited = reply_mode is not ReplyMode.NOREPLY

    def _empty(self) -> "CommandBatch":
        return CommandBatch(
            self.cluster, self.deadline, self.reply_mode, self.listener, low_priority=self.low_priority
        )

    def message(self, timeout_ms: int) -> ClientCommands:
        """See `Batch`. Drops the payloads: a command is never sent twice."""
        payloads, self.payloads = self.payloads, []
        columns = b"".join((struct.pack(f"<{len(payloads)}I", *map(len, payloads)), *payloads))
        return ClientCommands(
            self.cluster, self.first, len(payloads), columns, self.reply_mode, timeout_ms, self.low_priority
        )

    def failed(self, offset: int, count: int, error: BarqueError) -> None:
        """See `Batch`."""
        if self.is_awaited:
            super().failed(offset, count, error)

    def lost(self, text: str) -> OutcomeUnknown:
        """See `Batch`."""
        return OutcomeUnknown(text)


class ReadBatch(EncodedBatch):
    """Reads of one level (`local`, `leader` or `consistent`) for one cluster."""

    is_read = True
    __slots__ = ("level",)

    def __init__(self, cluster: str, deadline: float, level: str) -> None:
        super().__init__(cluster, deadline)
        self.level = level
        self.seeks_leader = level != "local"

    def _empty(self) -> "ReadBatch":
        return ReadBatch(self.cluster, self.deadline, self.level)

    def message(self, timeout_ms: int) -> ClientQueries:
        """See `Batch`. Keeps the payloads: another node may be asked."""
        return ClientQueries(self.cluster, self.first, tuple(self.payloads), self.level, timeout_ms)

    def lost(self, text: str) -> QueryTimeout:
        """See `Batch`."""
        return QueryTimeout(text)


class Call(Batch):
    """One administrative request. `timeout_s` is how long the caller waits in all."""

    __slots__ = ("arguments", "verb")

    def __init__(self, verb: str, arguments: dict[str, Any], deadline: float, timeout_s: float) -> None:
        super().__init__("", deadline)
        self.late_at -= _CALL_SHARE * timeout_s
        self.verb = verb
        self.arguments = arguments

    def message(self, timeout_ms: int) -> ClientCall:
        """See `Batch`."""
        return ClientCall(self.first, self.verb, self.arguments, timeout_ms)

    def lost(self, text: str) -> BarqueError:
        """See `Batch`. Only some verbs change anything."""
        return unanswered(self.verb, text)


def check_name(cluster: str) -> str:
    """Return the name of a cluster. Raises `InvalidCommand` for anything but a valid name."""
    if not isinstance(cluster, str):
        raise InvalidCommand(f"a cluster's name is text, not {cluster!r}")
    if not is_valid_name(cluster):
        raise InvalidCommand(f"{cluster[:80]!r} is no name of a cluster: a name has {NAME_RULE}")
    return cluster


def encode(value: Any) -> bytes:
    """Encode a command or query. Raises `InvalidCommand` if it cannot be encoded, or is too large."""
    try:
        encoded = _encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidCommand(f"cannot be encoded: {error}") from error
    if len(encoded) > COMMAND_BYTES_MAX:
        raise InvalidCommand(f"{len(encoded)} bytes are above the limit of {COMMAND_BYTES_MAX}")
    return encoded
