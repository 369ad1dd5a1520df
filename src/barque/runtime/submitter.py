"""What programs inside a node (gateways, an in-process client) use to reach the clusters."""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

Done: TypeAlias = Callable[[Any], None]
"""Called once, on the loop, with the machine's (decoded) reply or with a `BarqueError`."""


class Submitter(Protocol):
    """Submits single commands and queries; everything of one loop turn travels as one batch."""

    def command(self, cluster: str, payload: bytes, done: Done, timeout_ms: int) -> None:
        """Commit one encoded command.

        `done` gets the reply, a `Refused` (it did not happen) or `OutcomeUnknown`. Commands of one submitter
        to one cluster are applied in the order of these calls, unless one of them fails.
        """

    def query(self, cluster: str, payload: bytes, level: str, done: Done, timeout_ms: int) -> None:
        """Run one encoded query; `level` is `local`, `leader` or `consistent`.

        `done` gets the answer, a `Refused` or a `QueryTimeout`.
        """
