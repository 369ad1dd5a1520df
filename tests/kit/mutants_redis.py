"""Planted bugs of the Redis gateway and of transactions; the simulator's Redis clients find each.

They are no part of the table of `mutants`: only runs with clusters of the kind `redis` can show them.
"""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import msgspec

from barque.errors import OutcomeUnknown
from barque.gateways.resp import encoder, pending
from barque.gateways.resp.connection import Connection
from barque.gateways.resp.runs import Requests
from barque.machine.kv_commands import Transaction
from barque.machine.kv_state import KvState
from barque.runtime.client_session import InProcessSession


def exec_not_atomic() -> Any:
    """EXEC commits every command but the last one as an entry of its own."""
    submit = Requests._submit

    def wrong(self: Requests, one: Any, operation: Any, run: Any) -> bool:
        if one.queue is not None:
            guarded = getattr(operation, "command", operation)
            for before in guarded.operations[:-1]:
                payload = msgspec.msgpack.encode(Transaction([], [before]))
                self._server.submit_command(payload, lambda _outcome: None)  # type: ignore[arg-type]
        return submit(self, one, operation, run)

    return patch.object(Requests, "_submit", wrong)


def watch_ignores_changes() -> Any:
    """EXEC does its commands although a watched key has changed."""
    return patch.object(KvState, "changed_since", lambda _self, _key, _position: False)


def watch_compares_presence() -> Any:
    """A watched key counts as changed only if it is gone."""
    return patch.object(KvState, "changed_since", lambda self, key, _position: key not in self.values)


def replies_swapped() -> Any:
    """Of two replies that are ready, the later one is written first."""
    flush = Connection.flush

    def wrong(self: Connection) -> None:
        if len(self._replies) > 1 and all(one.data is not None for one in list(self._replies)[:2]):
            first, second = self._replies[0], self._replies[1]
            first.data, second.data = second.data, first.data
        flush(self)

    return patch.object(Connection, "flush", wrong)


def unknown_is_done() -> Any:
    """An APPEND whose outcome is unknown is answered as if it had happened."""
    real = pending.Pending._reply_to

    def wrong(self: pending.Pending, outcome: Any) -> bytes | None:
        appends = self.command is not None and self.command.name == "append"
        if appends and isinstance(outcome, OutcomeUnknown):
            return encoder.integer(1)
        return real(self, outcome)

    return patch.object(pending.Pending, "_reply_to", wrong)


def command_sent_twice() -> Any:
    """The gateway hands each command to the cluster twice."""
    submit = InProcessSession.submit

    def wrong(self: InProcessSession, cluster: str, payload: bytes, level: str, *rest: Any) -> None:
        if not level:
            submit(self, cluster, payload, level, lambda _outcome: None, rest[-1])
        submit(self, cluster, payload, level, *rest)

    return patch.object(InProcessSession, "submit", wrong)


REDIS_MUTANTS: dict[str, Callable[[], Any]] = {
    plant.__name__: plant
    for plant in (
        exec_not_atomic,
        watch_ignores_changes,
        watch_compares_presence,
        replies_swapped,
        unknown_is_done,
        command_sent_twice,
    )
}
"""Planted bugs by name."""
