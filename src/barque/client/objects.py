"""Calls of the methods of a `Replicated` class, as commands and reads of its cluster."""

from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import msgspec

from barque.errors import CommandFailed, InvalidCommand
from barque.machine.replicated import Command, Query, Replicated, machine_of

if TYPE_CHECKING:
    from barque.client.cluster import ClusterClient

P = ParamSpec("P")
R = TypeVar("R")


class ObjectClient:
    """One replicated object: `counter = client.cluster("counter").object(Counter)`.

    Args:
        cluster: the cluster of the object.
        kind: its class.
        reads: how queries are answered: `consistent`, by the `leader` as it thinks, or `local`.
        timeout_s: for each call; None: the client's own, in seconds.

    """

    def __init__(
        self, cluster: "ClusterClient", kind: type[Replicated], reads: str, timeout_s: float | None
    ) -> None:
        machine_of(kind)
        levels = {
            "consistent": cluster.consistent_query,
            "leader": cluster.leader_query,
            "local": cluster.local_query,
        }
        if reads not in levels:
            raise InvalidCommand(f"reads is {reads!r}; give consistent, leader or local")
        self.cluster = cluster
        self.kind = kind
        self._read = levels[reads]
        self._timeout_s = timeout_s

    async def call(self, method: Command[P, R] | Query[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a method: `await counter.call(Counter.add, 5)`.

        A command is committed before this returns; a query reads. Raises `CommandFailed` if the method
        raised (it happened), `InvalidCommand` for arguments that it does not take (it did not), and
        else as `Client.process_command` and `Client.consistent_query`.
        """
        request = encoded(method, self.kind, args, kwargs)
        ask = self.cluster.process_command if isinstance(method, Command) else self._read
        answer = await ask(request, timeout_s=self._timeout_s)
        return value_of(method, answer)


def encoded(method: Any, kind: type[Replicated], args: Any, kwargs: Any) -> Any:
    """What travels for this call. Raises `InvalidCommand`."""
    known = isinstance(method, (Command, Query)) and getattr(kind, method.name, None) is method
    if not known:
        raise InvalidCommand(f"{method!r} is no command or query of {kind.__qualname__}")
    try:
        return method.encoded(*args, **kwargs)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise InvalidCommand(f"{kind.__qualname__}.{method.name}: {error}") from error


def value_of(method: "Command[P, R] | Query[P, R]", answer: Any) -> R:
    """The value of an answer, as the method's return type. Raises `CommandFailed`."""
    if "failed" in answer:
        raise CommandFailed(answer["failed"])
    value: R = msgspec.convert(answer["value"], method.reply_type)
    return value
