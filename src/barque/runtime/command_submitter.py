"""How a gateway reaches the clusters of its node: one command or query at a time."""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

Done: TypeAlias = Callable[[Any], None]
"""Called once, on the loop, with the machine's reply as a value, or with a `BarqueError`."""


class CommandSubmitter(Protocol):
    """Submits single commands and queries. All that are submitted in one turn of the loop travel together."""

    def command(self, cluster: str, payload: bytes, done: Done, timeout_ms: int) -> None:
        """Commit one encoded command.

        `done` gets the reply, a `Refused` (the command did not happen) or `OutcomeUnknown` (it may have
        happened). A cluster applies the commands of one submitter in the order of these calls, unless one of
        them fails.
        """

    def query(self, cluster: str, payload: bytes, level: str, done: Done, timeout_ms: int) -> None:
        """Run one encoded query; `level` is `local`, `leader` or `consistent`.

        `done` gets the answer, a `Refused` or a `QueryTimeout`. A query changes nothing in any case.
        """

    def machine_version(self, cluster: str) -> int | None:
        """The version of the machine in force, as the member on this node knows; None without a member.

        Every command that is submitted now will be applied by this version or a later one.
        """
