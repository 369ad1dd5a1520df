"""What stands between MULTI and EXEC: checked and kept here, then committed as one command of the machine."""

from typing import Any, Final, NamedTuple

from barque.gateways.resp import encoder
from barque.gateways.resp.command import Command, CommandError, Kind, ReplyContext, machine_error
from barque.machine.kv_commands import Read, Transaction, error_code

QUEUED: Final = b"+QUEUED\r\n"
EXEC_ABORT: Final = encoder.error("EXECABORT Transaction discarded because of previous errors.")

_STEP_BYTES: Final = 200  # what a queued command takes beside its arguments


class _Step(NamedTuple):
    """One queued command. The cluster does it, unless it is `local` or its arguments are wrong (`error`)."""

    command: Command
    local: list[bytes] | None = None
    error: bytes | None = None


class TransactionQueue:
    """The commands of one connection since MULTI."""

    __slots__ = ("_bytes_max", "_commands_max", "_operations", "_steps", "failed", "size")

    def __init__(self, commands_max: int, bytes_max: int) -> None:
        self._commands_max = commands_max
        self._bytes_max = bytes_max
        self._steps: list[_Step] = []
        self._operations: list[Any] = []
        self.size = 0
        """About how much memory the queued commands take."""
        self.failed = False
        """A command was refused, so EXEC will do nothing."""

    @property
    def count(self) -> int:
        """How many commands are queued."""
        return len(self._steps)

    def add(self, command: Command, request: list[bytes]) -> bytes:
        """Queue a command; returns the reply to it."""
        if not command.in_transaction:
            return self._fail(f"ERR '{command.name}' is not allowed inside a transaction")
        self.size += sum(map(len, request)) + _STEP_BYTES
        if self.size > self._bytes_max or len(self._steps) >= self._commands_max:
            return self._fail(
                f"ERR a transaction has at most {self._commands_max} commands and {self._bytes_max} bytes; "
                "nothing of this one will be done"
            )
        if not self.failed:
            self._steps.append(self._step(command, request))
        return QUEUED

    def _fail(self, text: str) -> bytes:
        self.failed = True
        self._steps, self._operations, self.size = [], [], 0
        return encoder.error(text)

    def _step(self, command: Command, request: list[bytes]) -> _Step:
        """As in Redis, wrong arguments are an error of that command alone, when EXEC comes to it."""
        if command.kind not in (Kind.WRITE, Kind.READ):
            return _Step(command, local=request)
        try:
            operation = command.run(request, None) if command.sized else command.run(request)
        except CommandError as error:
            return _Step(command, error=encoder.error(str(error)))
        self._operations.append(Read(operation) if command.kind is Kind.READ else operation)
        return _Step(command)

    def transaction(self, watched: dict[bytes, int]) -> Transaction | None:
        """What the machine has to do; None if there is nothing."""
        if not self._operations and not watched:
            return None
        return Transaction(list(watched.items()), self._operations)

    def reply(self, replies: list[Any] | None, session: ReplyContext) -> bytes:
        """The reply to EXEC; `replies` are the machine's, or None if a watched key had changed."""
        if replies is None:
            return encoder.null_array(session.resp3)
        values = iter(replies)
        return encoder.array([self._step_reply(step, values, session) for step in self._steps])

    def _step_reply(self, step: _Step, values: Any, session: ReplyContext) -> bytes:
        command = step.command
        if step.error is not None:
            return step.error
        if step.local is not None:
            try:
                reply: bytes = command.run(session, step.local)
            except CommandError as error:
                return encoder.error(str(error))
            return reply
        value = next(values)
        code = error_code(value)
        if code is not None:
            return machine_error(code, command.name)
        assert command.reply is not None, "only commands of the machine have replies of it"
        return command.reply(value, session)
