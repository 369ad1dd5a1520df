"""The tables of messages: for each role one row per message, and every row is there.

A role module (`follower`, `candidate`, `leader`, …) lists which function handles which message. A row
that ignores a message says why in a comment. The term rule (`terms`) runs before any row, so a handler
sees messages of its own term only; `impossible` marks rows that this rule makes unreachable.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar, get_args

from barque.core import messages as m
from barque.core.effects import Effect
from barque.core.state import Server
from barque.errors import InvariantViolation

M = TypeVar("M", bound=m.Message)
Handler = Callable[[Server, Any], list[Effect]]
MESSAGES: tuple[type[m.Message], ...] = (*get_args(m.RemoteMessage), *get_args(m.LocalMessage))
"""Every message there is."""
LOG_EVENTS: tuple[type[Any], ...] = get_args(m.LogEvent)
"""What the log reports."""
FROM_LEADER: tuple[type[Any], ...] = (
    m.AppendEntriesRpc,
    m.HeartbeatRpc,
    m.InstallSnapshotRpc,
    m.InfoRpc,
)
"""Messages that only the leader of their term sends."""


class Row(NamedTuple):
    """One line of a table."""

    kind: type[Any]
    handler: Handler


def on(kind: type[M], handler: Callable[[Server, M], list[Effect]]) -> list[Row]:
    """One message and its handler."""
    return [Row(kind, handler)]


def each(handler: Callable[[Server, Any], list[Effect]], *kinds: type[Any]) -> list[Row]:
    """Several messages with one handler."""
    return [Row(kind, handler) for kind in kinds]


def ignore(server: Server, message: m.Message) -> list[Effect]:
    """Do nothing in this role."""
    return []


def impossible(server: Server, message: m.Message) -> list[Effect]:
    """Raise: the term rule does not let this message into this role."""
    raise InvariantViolation(f"{server.id}: {type(message).__name__} reached state {server.raft_state}")


def total(name: str, *groups: list[Row]) -> Mapping[type[Any], Handler]:
    """The table of one role. Raises `InvariantViolation` if a message is missing, or there twice."""
    rows = [row for group in groups for row in group]
    kinds = [row.kind for row in rows]
    missing = [kind.__name__ for kind in MESSAGES if kind not in kinds]
    twice = [kind.__name__ for kind in MESSAGES if kinds.count(kind) > 1]
    if missing or twice:
        raise InvariantViolation(f"{name}: missing {missing}, twice {twice}")
    return {row.kind: row.handler for row in rows}
