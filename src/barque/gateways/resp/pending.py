"""One request and the place of its reply; what the cluster answers comes to it."""

from typing import TYPE_CHECKING, Any, cast

from barque.errors import BarqueError
from barque.gateways.resp import encoder
from barque.gateways.resp.command import Command, Kind, machine_error, outcome_reply
from barque.gateways.resp.transaction import TransactionQueue
from barque.machine.kv_commands import error_code, too_large

if TYPE_CHECKING:
    from barque.gateways.resp.runs import Requests


class Pending:
    """One request, and the place of its reply. The submitter calls it with the outcome."""

    __slots__ = (
        "command",
        "connection",
        "data",
        "muted",
        "needs",
        "operation",
        "payload_bytes",
        "queue",
        "request",
        "reserved",
        "submitted",
    )

    def __init__(self, connection: "Requests", command: Command | None, request: list[bytes]) -> None:
        self.connection = connection
        self.command = command
        self.request = request
        self.data: bytes | None = None
        """The reply; None until it is known."""
        self.muted = False
        self.operation: Any = None
        """The machine's command, once it has been made of the request."""
        self.queue: TransactionQueue | None = None
        """Of an EXEC."""
        self.payload_bytes = 0
        """How many bytes of the budget of requests it holds."""
        self.reserved = 0
        """How many bytes of the budget of replies it holds."""
        self.submitted = False
        """Whether the cluster has been asked. A read may be asked again."""
        self.needs = 0
        """The size of the reply, if it was too large for the room that it had."""

    def __call__(self, outcome: Any) -> None:
        """Convert the outcome. Never raises: a reply that cannot be written is an error reply."""
        connection = self.connection
        try:
            data = self._reply_to(outcome)
        except Exception as failure:  # the client must get an answer in spite of our bug
            name = cast(Command, self.command).name
            data = encoder.error(f"ERR the reply to '{name}' failed: {type(failure).__name__}")
        connection.settled(self, data)

    def _reply_to(self, outcome: Any) -> bytes | None:
        """The reply; None if there was too little room for it."""
        command, session = cast(Command, self.command), self.connection.session
        if isinstance(outcome, BarqueError):
            if command.kind is Kind.READ:
                session.watch_failed()
            return outcome_reply(outcome)
        code = error_code(outcome)
        if code is not None:
            return machine_error(code, command.name)
        size = too_large(outcome)
        if size is not None:
            self.needs = size
            return None
        if self.queue is not None:
            return self.queue.reply(outcome, session)
        assert command.reply is not None, "only commands of the machine have outcomes"
        return command.reply(outcome, session)
