"""What a command of the Redis protocol is: a row of the table, its errors, and what outcomes look like.

Errors that the arguments alone decide are raised as `CommandError`, in Redis' words; those that depend on
the stored value come back from the machine as a code.
"""

import enum
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec

from barque.errors import (
    BarqueError,
    DiskFull,
    InvalidCommand,
    NoLeader,
    NoQuorum,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    QueryTimeout,
    Refused,
)
from barque.gateways.resp import encoder
from barque.gateways.resp.parser import strict_integer
from barque.machine.kv_commands import INT64_MAX, INT64_MIN
from barque.machine.kv_writes import TRANSACTION_REPLY_BYTES_MAX

NOT_INTEGER: Final = "ERR value is not an integer or out of range"
SYNTAX_ERROR: Final = "ERR syntax error"


class Kind(enum.IntEnum):
    """What a command needs before it may run."""

    WRITE = 1  # goes to the log
    READ = 2  # goes to a query
    LOCAL = 3  # answered at once
    SESSION = 4  # changes the connection: waits until all before it is answered
    EXEC = 5  # a transaction goes to the log


class CommandError(Exception):
    """The arguments are wrong; the text is the error reply."""


class ReplyContext(Protocol):
    """What a conversion may depend on."""

    resp3: bool

    def now_ms(self) -> int:
        """Unix time, for the replies of TTL."""
        ...


class Command(msgspec.Struct, frozen=True, gc=False):
    """One row. `arity` counts the name; a negative one is a minimum, as in Redis.

    `run` makes the machine's command or query out of the arguments (LOCAL and SESSION: the reply, out
    of the session and the arguments); `reply` converts the machine's reply. A `sized` query can have a large
    answer, and takes the most bytes that it may have as a second argument; one `with_session` takes the
    session as the first.
    """

    name: str
    arity: int
    kind: Kind
    run: Callable[..., Any]
    reply: Callable[[Any, ReplyContext], bytes] | None
    summary: str
    keys: tuple[int, int, int] = (0, 0, 0)
    without_auth: bool = False
    sized: bool = False
    with_session: bool = False
    in_transaction: bool = True
    """Whether it may stand between MULTI and EXEC."""
    never_queued: bool = False
    """Whether it is done at once there, instead of being queued."""
    group: str = "string"

    def accepts(self, count: int) -> bool:
        """Whether a request of `count` arguments (with the name) has the right length."""
        return count == self.arity if self.arity > 0 else count >= -self.arity


def wrong_arity(name: str) -> str:
    """Redis' text for a wrong number of arguments."""
    return f"ERR wrong number of arguments for '{name}' command"


def unknown_command(request: list[bytes]) -> str:
    """Redis' text for a command it does not know; quotes at most about 128 bytes of the arguments."""
    quoted = ""
    for argument in request[1:]:
        if len(quoted) >= 128:
            break
        quoted += f"'{c_string(argument, 128 - len(quoted))}' "
    return f"ERR unknown command '{c_string(request[0], 128)}', with args beginning with: {quoted}"


def unknown_subcommand(container: str, name: bytes) -> str:
    """Redis' text for `CONTAINER name` that it does not know."""
    return f"ERR unknown subcommand '{c_string(name, 128)}'. Try {container} HELP."


def c_string(value: bytes, limit: int) -> str:
    """The text of an argument up to a NUL, as Redis quotes it in errors."""
    return value.partition(b"\0")[0][:limit].decode("latin-1")


_OUTCOMES: Final[tuple[tuple[type[BarqueError], str], ...]] = (
    (OutcomeUnknown, "UNKNOWN"),
    (NotLeader, "NOLEADER"),
    (NoLeader, "NOLEADER"),
    (NoQuorum, "NOQUORUM"),
    (Overloaded, "BUSY"),
    (DiskFull, "MISCONF"),
    (QueryTimeout, "TIMEOUT"),
    (InvalidCommand, "ERR"),
    (Refused, "REFUSED"),
)


def outcome_reply(outcome: BarqueError) -> bytes:
    """The RESP error for an error of the cluster. Its first word says whether the command happened."""
    for kind, prefix in _OUTCOMES:
        if isinstance(outcome, kind):
            return encoder.error(f"{prefix} {str(outcome) or type(outcome).__name__}")
    return encoder.error(f"ERR {type(outcome).__name__}: {outcome}")


def machine_error(code: str, name: str) -> bytes:
    """The error reply for a `KvError` that the command `name` got."""
    match code:
        case "not_integer":
            return encoder.error(NOT_INTEGER)
        case "overflow":
            return encoder.error("ERR increment or decrement would overflow")
        case "invalid_expire":
            return encoder.error(f"ERR invalid expire time in '{name}' command")
        case "too_big":
            return encoder.error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
        case "not_float":
            return encoder.error("ERR value is not a valid float")
        case "float_overflow":
            return encoder.error("ERR increment would produce NaN or Infinity")
        case "no_such_key":
            return encoder.error("ERR no such key")
        case "reply_too_big":
            return encoder.error(
                f"ERR not done: the replies of a transaction have at most {TRANSACTION_REPLY_BYTES_MAX} bytes"
            )
        case "not_yet":
            return encoder.error(
                f"ERR '{name}' was not done: it needs version 1 of the key-value machine, and a member of "
                "the cluster has not been upgraded, or is down since the cluster was formed"
            )
        case _:
            return encoder.error(f"ERR {code}")


def integer_argument(argument: bytes) -> int:
    """A signed 64-bit integer, as strictly as Redis reads it."""
    number = strict_integer(argument)
    if number is None or not INT64_MIN <= number <= INT64_MAX:
        raise CommandError(NOT_INTEGER)
    return number


def subcommand(container: str, request: list[bytes], arities: dict[bytes, int]) -> bytes:
    """The subcommand in upper case, if it is known and its arguments have the right number."""
    name = request[1].upper()
    arity = arities.get(name)
    if arity is None:
        raise CommandError(unknown_subcommand(container, request[1]))
    if (len(request) != arity) if arity > 0 else (len(request) < -arity):
        raise CommandError(wrong_arity(f"{container.lower()}|{name.decode().lower()}"))
    return name


def help_reply(container: str, lines: dict[str, str]) -> bytes:
    """`CONTAINER HELP`, as Redis lays it out: each subcommand, and what it does."""
    head = f"{container} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    rows = [head]
    for name, text in {**lines, "HELP": "Print this help."}.items():
        rows += [name, f"    {text}"]
    return encoder.array([encoder.simple(row) for row in rows])
