"""Tables of what a role does with each message: total, checked when they are made."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar, get_args

from barque.core.messages import LocalMessage, Message, RemoteMessage
from barque.core.server import Server, Transition
from barque.errors import InvariantViolation

M = TypeVar("M", bound=Message)
Handler = Callable[[Server, Any], Transition]
MESSAGES: tuple[type[Message], ...] = (*get_args(RemoteMessage), *get_args(LocalMessage))
"""Every message there is."""


class Row(NamedTuple):
    """One line of a table."""

    kind: type[Any]
    handler: Handler


def on(kind: type[M], handler: Callable[[Server, M], Transition]) -> list[Row]:
    """This message, and what handles it."""
    return [Row(kind, handler)]


def each(handler: Callable[[Server, Any], Transition], *kinds: type[Any]) -> list[Row]:
    """Several messages with one answer."""
    return [Row(kind, handler) for kind in kinds]


def ignore(server: Server, message: Message) -> Transition:
    """Nothing to do here and now."""
    return server.stay()


def total(name: str, *groups: list[Row]) -> Mapping[type[Any], Handler]:
    """The table of one role. A message that is missing, or there twice, is our bug."""
    rows = [row for group in groups for row in group]
    kinds = [row.kind for row in rows]
    missing = [kind.__name__ for kind in MESSAGES if kind not in kinds]
    twice = [kind.__name__ for kind in MESSAGES if kinds.count(kind) > 1]
    if missing or twice:
        raise InvariantViolation(f"{name}: missing {missing}, twice {twice}")
    return {row.kind: row.handler for row in rows}
