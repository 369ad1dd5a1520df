"""How a verb fails: one line on stderr, and an exit code for scripts and supervisors.

Page: docs/operations/exit-codes.md.
"""

import errno
import os
import socket
import sys
from collections.abc import Iterator
from typing import TextIO

from barque.errors import (
    BarqueError,
    ConfigurationError,
    Damaged,
    DiskFull,
    Forbidden,
    InvariantViolation,
    MachineFault,
    NoLeader,
    NoQuorum,
    NotAvailableYet,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    QueryTimeout,
    Stopped,
    StorageError,
    Unauthenticated,
    WalDown,
)

OK = 0
FAILED = 1
USAGE = 2
PROVES_NOTHING = 3
UNAVAILABLE = 69
INTERNAL = 70
IO_ERROR = 74
UNKNOWN = 75
NO_PERMISSION = 77
BAD_CONFIGURATION = 78

_ADDRESS_ERRORS = frozenset((errno.EADDRINUSE, errno.EADDRNOTAVAIL))
_PERMISSION_ERRORS = frozenset((errno.EACCES, errno.EPERM))


class CliError(Exception):
    """A verb cannot go on. `text` says what failed, why, and the cure; the process ends with `code`."""

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
        return NO_PERMISSION if _is_denied(error) else IO_ERROR
    if isinstance(error, InvariantViolation):
        return INTERNAL
    if isinstance(error, OutcomeUnknown):
        return UNKNOWN
    if isinstance(error, Unauthenticated | Forbidden):
        return NO_PERMISSION
    if isinstance(error, NoLeader | NoQuorum | QueryTimeout | WalDown | Overloaded | Stopped | NotLeader):
        return UNAVAILABLE
    if isinstance(error, DiskFull):
        return UNAVAILABLE
    if isinstance(error, BarqueError):
        return FAILED
    if isinstance(error, PermissionError):
        return NO_PERMISSION
    if isinstance(error, OSError):
        return UNAVAILABLE if error.errno in _ADDRESS_ERRORS else IO_ERROR
    return INTERNAL


def _start_fault(error: BaseException) -> int:
    """The system may have refused an address or a file, which shows in the chain of causes."""
    for cause in _chain(error):
        if isinstance(cause, socket.gaierror):
            return UNAVAILABLE  # at boot, the names of machines may not be there yet
        if isinstance(cause, OSError) and cause.errno in _ADDRESS_ERRORS:
            return UNAVAILABLE
        if isinstance(cause, OSError) and cause.errno in _PERMISSION_ERRORS:
            return NO_PERMISSION
    return BAD_CONFIGURATION


def _is_denied(error: BaseException) -> bool:
    return any(isinstance(cause, OSError) and cause.errno in _PERMISSION_ERRORS for cause in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                yield from _chain(inner)
        error = error.__cause__


def text_of(error: BaseException) -> str:
    """One line: what failed, why, and the cure if we know one. Control characters are escaped."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    cure = _cure(error)
    return f"{text}; {cure}" if cure else text


def _cure(error: BaseException) -> str:
    match error:
        case CliError() | ConfigurationError() | Damaged() | NotAvailableYet():
            return ""  # their texts end with the cure
        case OutcomeUnknown():
            return "it may have happened: check before you send it again"
        case QueryTimeout():
            return "a read changes nothing: try again, or give it more --timeout"
        case NoQuorum() | NoLeader():
            return "`barque status` shows which nodes are up"
        case Unauthenticated():
            return "check --secret-file and --installation: they must be the same on nodes and clients"
        case MachineFault():
            return "the member that ran it has stopped; the log of its node has the traceback"
        case InvariantViolation():
            return "this is a bug in Barque; please report it with the log of the node"
        case StorageError() if _is_denied(error):
            return "give it to the user that runs the node: chown -R USER, and chmod 700"
        case StorageError() if " cannot sync directories" in str(error):
            return ""
        case StorageError():
            return "check the disk: its free space, and the owner of the directory"
        case BarqueError():
            return ""
        case OSError():
            return "check the path and its owner"
        case _:
            return f"this is a bug in Barque ({type(error).__name__}); please report it"


def complain(text: str) -> None:
    """Print one line on stderr, if anybody is there to read it."""
    try:
        print(f"barque: {text}", file=sys.stderr, flush=True)
    except OSError:
        die_quietly(sys.stderr)


def die_quietly(stream: TextIO) -> None:
    """The reader of stdout or stderr is gone (`barque … | head`): keep later flushes from raising."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
