"""What both ends of a request agree on: errors by name, and which requests have an answer.

Clients and nodes import this module; it knows neither of them. An error travels as the name of its class
and a text (docs/protocol/wire.md).
"""

import asyncio
from typing import Any

from barque import errors
from barque.errors import BarqueError, NotLeader, OutcomeUnknown, QueryTimeout
from barque.types import ServerId

READING_VERBS = frozenset(
    (
        *("ping", "pid", "nodes", "local_report", "status", "members", "overview", "member_list"),
        *(
            "initial_members",
            "key_metrics",
            "new_uid",
            "describe_server",
            "query",
            "state_query",
            "node_overview",
        ),
    )
)
"""The administrative verbs that change nothing. Any other may have happened although no answer came."""


def error_named(name: str, text: str, leader: ServerId | None = None) -> BarqueError:
    """The error that another process described; `leader` is its hint, which `NotLeader` carries.

    A name that we do not know comes from a newer release. We cannot tell whether the request happened, so it
    becomes an `OutcomeUnknown`: to call it refused would invite the caller to send it again.
    """
    kind = getattr(errors, name, None)
    if kind is NotLeader:
        return NotLeader(text, leader)
    if isinstance(kind, type) and issubclass(kind, BarqueError):
        return kind(text)
    return OutcomeUnknown(f"{name}: {text}")


def unanswered(verb: str, text: str) -> BarqueError:
    """The error for an administrative request that was sent and not answered."""
    return QueryTimeout(text) if verb in READING_VERBS else OutcomeUnknown(text)


def fail(future: "asyncio.Future[Any]", error: Exception) -> None:
    """Fail a future, and mark its error as seen: asyncio must not log it if the caller is gone."""
    future.set_exception(error)
    future.exception()


class UnansweredRanges:
    """Which of `count` consecutive requests have no answer yet.

    Answers may leave holes: two leaders in turn may answer parts of one batch, and the answers of the first
    may be lost.
    """

    __slots__ = ("_open",)

    def __init__(self, count: int) -> None:
        self._open = [(0, count)]  # (first, behind the last), ascending

    def __bool__(self) -> bool:
        """Whether any request has no answer yet."""
        return bool(self._open)

    def close(self, first: int, count: int) -> list[tuple[int, int]]:
        """Mark these requests as answered; return those that were open until now, as (first, count)."""
        found: list[tuple[int, int]] = []
        left: list[tuple[int, int]] = []
        for start, end in self._open:
            low, high = max(start, first), min(end, first + count)
            if low >= high:
                left.append((start, end))
                continue
            found.append((low, high - low))
            left += [(a, b) for a, b in ((start, low), (high, end)) if a < b]
        self._open = left
        return found
