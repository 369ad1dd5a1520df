"""How a verb fails: one line on stderr, and an exit code that scripts and supervisors understand.

Page: docs/operations/exit-codes.md.
"""

import errno
import os
import sys
from collections.abc import Iterator

from barque.errors import (
    BarqueError,
    ConfigurationError,
    Damaged,
    InvariantViolation,
    MachineFault,
    NoLeader,
    NoQuorum,
    NotAvailableYet,
    OutcomeUnknown,
    StorageError,
    Unauthenticated,
)

OK = 0
FAILED = 1
USAGE = 2
UNAVAILABLE = 69
INTERNAL = 70
IO_ERROR = 74
NO_PERMISSION = 77
BAD_CONFIGURATION = 78

_ADDRESS_ERRORS = frozenset((errno.EADDRINUSE, errno.EADDRNOTAVAIL))
_PERMISSION_ERRORS = frozenset((errno.EACCES, errno.EPERM))


class CliError(Exception):
    """A verb cannot go on: `text` says what, why and the cure; the process ends with `code`."""

    def __init__(self, text: str, code: int = FAILED) -> None:
        super().__init__(text)
        self.code = code


def exit_code_of(error: BaseException) -> int:
    """The exit code for an error that ended a verb."""
    if isinstance(error, CliError):
        return error.code
    if isinstance(error, ConfigurationError):
        return _start_fault(error)
    if isinstance(error, StorageError):
        return IO_ERROR
    if isinstance(error, InvariantViolation):
        return INTERNAL
    if isinstance(error, BarqueError):
        return FAILED
    if isinstance(error, PermissionError):
        return NO_PERMISSION
    if isinstance(error, OSError):
        return UNAVAILABLE if error.errno in _ADDRESS_ERRORS else IO_ERROR
    return INTERNAL


def _start_fault(error: BaseException) -> int:
    """A `ConfigurationError` may stand for what the system refused: an address, or a file's mode."""
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno in _ADDRESS_ERRORS:
            return UNAVAILABLE
        if isinstance(cause, OSError) and cause.errno in _PERMISSION_ERRORS:
            return NO_PERMISSION
    return BAD_CONFIGURATION


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                yield from _chain(inner)
        error = error.__cause__


def text_of(error: BaseException) -> str:
    """One line: what happened, why, and the cure as far as it is known."""
    text = " ".join(str(error).split()) or type(error).__name__
    cure = _cure(error)
    return f"{text}; {cure}" if cure else text


def _cure(error: BaseException) -> str:
    match error:
        case CliError() | ConfigurationError() | Damaged() | NotAvailableYet():
            return ""  # these say it themselves
        case OutcomeUnknown():
            return "it may have happened: look before you send it again"
        case NoQuorum() | NoLeader():
            return "see `barque status` for who is up"
        case Unauthenticated():
            return "check --secret-file and --installation: nodes and clients must have the same"
        case MachineFault():
            return "the member that ran it has stopped; its node's log tells where"
        case InvariantViolation():
            return "this is a bug in Barque; please report it with the node's log"
        case StorageError():
            return "check the disk, the directory's owner and the space left"
        case BarqueError():
            return ""
        case OSError():
            return "check the path and its owner"
        case _:
            return f"this is a bug in Barque ({type(error).__name__}); please report it"


def complain(text: str) -> None:
    """One line on stderr."""
    print(f"barque: {text}", file=sys.stderr, flush=True)


def die_quietly() -> None:
    """Nobody reads stdout any more (`barque … | head`): let no later flush complain about it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
